/*
 * Runs a program, with the threads and processes that it makes, and writes which of its functions were called, as offsets,
 * in the order of their first call. A breakpoint on each function goes with the first call. Another program that one of them becomes is left alone.
 *
 * usage: calls OUT FUNCTIONS ENTRY PROGRAM ARGUMENT…
 *     FUNCTIONS: a file of offsets, hexadecimal, one a line
 *     ENTRY: the ELF header's entry point of the static, relocatable PROGRAM, hexadecimal
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_PROCESSES 1024
#define LARGEST (256UL << 20)
#define BREAKPOINT 0xcc

/* By offset: whether a function begins there, and whether it was called. */
static unsigned char function[LARGEST / 8], seen[LARGEST / 8];
/* What is in the place of its breakpoint, by offset. */
static unsigned char original[LARGEST];
static struct { pid_t pid; unsigned long base; } known[MOST_PROCESSES];
static struct stat own;
static FILE *out;
static pid_t first;

static int has(const unsigned char *set, unsigned long offset)
{
    return offset < LARGEST && set[offset / 8] & 1 << offset % 8;
}

static void put(unsigned char *set, unsigned long offset)
{
    set[offset / 8] |= 1 << offset % 8;
}

/* The process's place in the table; a new one inherits where its parent was loaded. */
static int place(pid_t pid, unsigned long base)
{
    for (int i = 0; i < MOST_PROCESSES; i++)
        if (known[i].pid == pid || known[i].pid == 0) {
            if (known[i].pid == 0)
                known[i].base = base;
            known[i].pid = pid;
            return i;
        }
    fprintf(stderr, "calls: more than %d processes\n", MOST_PROCESSES);
    exit(1);
}

static int is_own(pid_t pid)
{
    char path[64];
    struct stat now;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return stat(path, &now) == 0 && now.st_ino == own.st_ino && now.st_dev == own.st_dev;
}

static int memory_of(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* Puts a breakpoint on every function of a process that has just become the program, or takes all of them away. */
static void arm(pid_t pid, unsigned long base, int armed)
{
    const unsigned char breakpoint = BREAKPOINT;
    int memory = memory_of(pid), fine = memory >= 0;
    for (unsigned long offset = 0; fine && offset < LARGEST; offset++) {
        if (!has(function, offset))
            continue;
        if (armed)
            fine = pread(memory, &original[offset], 1, base + offset) == 1;
        fine = fine && pwrite(memory, armed ? &breakpoint : &original[offset], 1, base + offset) == 1;
    }
    if (!fine) {
        perror("calls: breakpoints");
        exit(1);
    }
    close(memory);
}

/* If the process stopped at a breakpoint: notes the call, and lets the process go on with it. */
static void called(pid_t pid, unsigned long base)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, pid, 0, &registers) != 0)
        return;
    unsigned long offset = registers.rip - 1 - base;
    if (!has(function, offset))
        return;
    int memory = memory_of(pid);
    registers.rip--;
    if (memory < 0 || pwrite(memory, &original[offset], 1, base + offset) != 1 ||
        ptrace(PTRACE_SETREGS, pid, 0, &registers) != 0) {
        perror("calls: a breakpoint");
        exit(1);
    }
    close(memory);
    if (!has(seen, offset)) {
        put(seen, offset);
        fprintf(out, "%lx\n", offset);
    }
}

/* Whoever is left goes on by itself; to be let go, it has to stop. */
static void let_go(void)
{
    for (int i = 0; i < MOST_PROCESSES && known[i].pid != 0; i++) {
        pid_t pid = known[i].pid;
        int status;
        if (pid < 0 || pid == first || syscall(SYS_tkill, pid, SIGSTOP) != 0)
            continue;
        if (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
            if (WSTOPSIG(status) == SIGTRAP && status >> 16 == 0)
                called(pid, known[i].base);
            arm(pid, known[i].base, 0);
            ptrace(PTRACE_DETACH, pid, 0, 0);
        }
        kill(pid, SIGCONT);
    }
}

static int read_functions(const char *path)
{
    FILE *list = fopen(path, "r");
    unsigned long offset;
    if (!list)
        return 0;
    while (fscanf(list, "%lx", &offset) == 1)
        if (offset < LARGEST)
            put(function, offset);
    fclose(list);
    return 1;
}

/* Who is asked to end has the program end. */
static void end(int number)
{
    if (first > 0)
        kill(first, number);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    char **command = argv + 4;
    out = fopen(argv[1], "a");
    unsigned long entry = strtoul(argv[3], NULL, 16), last = 0;
    if (!out || stat(command[0], &own) != 0 || !read_functions(argv[2])) {
        perror("calls");
        return 1;
    }
    signal(SIGTERM, end);
    first = fork();
    if (first == 0) {
        /* Whoever is forked or executed lies where the first does. */
        personality(ADDR_NO_RANDOMIZE);
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(command[0], command);
        _exit(127);
    }
    int status, code = 1;
    while (1) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            break;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first)
                code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
            known[place(pid, 0)].pid = -1;
            if (pid == first) {
                let_go();
                break;
            }
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16, i = place(pid, last);
        if (event == PTRACE_EVENT_EXEC || (pid == first && known[i].base == 0)) {
            long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;
            ptrace(PTRACE_SETOPTIONS, pid, 0, options);
            if (!is_own(pid)) {
                known[i].pid = -1;
                ptrace(PTRACE_DETACH, pid, 0, 0);
                continue;
            }
            struct user_regs_struct registers;
            if (ptrace(PTRACE_GETREGS, pid, 0, &registers) != 0)
                continue;
            known[i].base = registers.rip - entry;
            arm(pid, known[i].base, 1);
        }
        last = known[i].base;
        if (event == 0 && signal == SIGTRAP)
            called(pid, known[i].base);
        /* Its own signals are passed on; those of tracing are not. */
        int pass = event == 0 && signal != SIGTRAP && signal != SIGSTOP ? signal : 0;
        ptrace(PTRACE_CONT, pid, 0, pass);
    }
    fclose(out);
    return code;
}
