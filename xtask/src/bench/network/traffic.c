/*
 * Traffic between containers, and between them and the host.
 *
 * traffic serve PORT                    takes connections and throws away what comes
 * traffic send ADDRESS PORT SECONDS     one stream; says bytes per second
 * traffic connect ADDRESS PORT SECONDS  one connection after the other; says how many per second
 * traffic ask NAME SECONDS              asks the first server of /etc/resolv.conf for NAME's address; answers per second
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 << 10];

static void fail(const char *what)
{
    fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static struct sockaddr_in address_of(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) {
        errno = EINVAL;
        fail(address);
    }
    return to;
}

static void serve(int port)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), yes = 1;
    struct sockaddr_in any = address_of("0.0.0.0", port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) != 0 || listen(listener, 1024) != 0)
        fail("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[64];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    while (1) {
        int count = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < count; i++) {
            int from = ready[i].data.fd;
            if (from == listener) {
                event.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (event.data.fd >= 0)
                    epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
                continue;
            }
            ssize_t length = read(from, buffer, sizeof buffer);
            if (length == 0 || (length < 0 && errno != EAGAIN))
                close(from);
        }
    }
}

static int connected(const struct sockaddr_in *to)
{
    int out = socket(AF_INET, SOCK_STREAM, 0);
    if (out < 0 || connect(out, (const struct sockaddr *)to, sizeof *to) != 0)
        fail("connect");
    return out;
}

static void send_for(const struct sockaddr_in *to, double seconds)
{
    int out = connected(to);
    double begin = now(), bytes = 0;
    while (now() < begin + seconds) {
        ssize_t length = write(out, buffer, sizeof buffer);
        if (length < 0)
            fail("write");
        bytes += length;
    }
    printf("%.0f\n", bytes / (now() - begin));
}

static void connect_for(const struct sockaddr_in *to, double seconds)
{
    /* A reset leaves nothing that waits, so that ports do not run out. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    double begin = now(), count = 0;
    for (; now() < begin + seconds; count++) {
        int out = connected(to);
        setsockopt(out, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(out);
    }
    printf("%.0f\n", count / (now() - begin));
}

static struct sockaddr_in first_server(void)
{
    char line[256], server[64];
    FILE *file = fopen("/etc/resolv.conf", "r");
    if (!file)
        fail("/etc/resolv.conf");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "nameserver %63s", server) == 1) {
            fclose(file);
            return address_of(server, 53);
        }
    errno = ENOENT;
    fail("a nameserver in /etc/resolv.conf");
    exit(1);
}

static size_t question(unsigned char *packet, const char *name)
{
    static const unsigned char head[12] = {0, 0, 1, 0, 0, 1};
    memcpy(packet, head, sizeof head);
    unsigned char *at = packet + sizeof head;
    while (*name) {
        size_t length = strcspn(name, ".");
        *at++ = length;
        memcpy(at, name, length);
        at += length;
        name += length + (name[length] == '.');
    }
    static const unsigned char end[5] = {0, 0, 1, 0, 1};
    memcpy(at, end, sizeof end);
    return at + sizeof end - packet;
}

static void ask_for(const char *name, double seconds)
{
    struct sockaddr_in server = first_server();
    struct timeval patience = {.tv_sec = 2};
    unsigned char packet[512], answer[1500];
    size_t length = question(packet, name);
    int out = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(out, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(out, (struct sockaddr *)&server, sizeof server) != 0)
        fail("connect to the nameserver");
    double begin = now(), count = 0;
    for (uint16_t id = 1; now() < begin + seconds; id++, count++) {
        packet[0] = id >> 8;
        packet[1] = id & 0xff;
        if (send(out, packet, length, 0) < 0 || recv(out, answer, sizeof answer, 0) < 12)
            fail("ask");
        if (answer[0] != packet[0] || answer[1] != packet[1] || (answer[3] & 15) != 0 || answer[6] + answer[7] == 0) {
            fprintf(stderr, "traffic: %s has no address: code %d\n", name, answer[3] & 15);
            exit(1);
        }
    }
    printf("%.0f\n", count / (now() - begin));
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        serve(atoi(argv[2]));
    if (argc == 4 && strcmp(argv[1], "ask") == 0) {
        ask_for(argv[2], atof(argv[3]));
        return 0;
    }
    if (argc != 5)
        return 2;
    struct sockaddr_in to = address_of(argv[2], atoi(argv[3]));
    if (strcmp(argv[1], "send") == 0)
        send_for(&to, atof(argv[4]));
    else if (strcmp(argv[1], "connect") == 0)
        connect_for(&to, atof(argv[4]));
    else
        return 2;
    return 0;
}
