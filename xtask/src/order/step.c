/*
 * Runs a program instruction by instruction, with the processes that it forks, and writes which instructions of its own file
 * were executed, as offsets, in the order of their first execution. Another program that one of them becomes is left alone.
 *
 * usage: step OUT ENTRY PROGRAM ARGUMENT…      (ENTRY: the ELF header's entry point of the static, relocatable PROGRAM, hexadecimal)
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_PROCESSES 64
#define LARGEST (256UL << 20)

static unsigned char seen[LARGEST / 8];
static struct { pid_t pid; unsigned long base; } known[MOST_PROCESSES];
static struct stat own;

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
    fprintf(stderr, "step: more than %d processes\n", MOST_PROCESSES);
    exit(1);
}

static int is_own(pid_t pid)
{
    char path[64];
    struct stat now;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return stat(path, &now) == 0 && now.st_ino == own.st_ino && now.st_dev == own.st_dev;
}

/* Whoever is left goes on by itself; to be let go, it has to stop. */
static void let_go(pid_t first)
{
    for (int i = 0; i < MOST_PROCESSES && known[i].pid != 0; i++) {
        pid_t pid = known[i].pid;
        int status;
        if (pid < 0 || pid == first || kill(pid, SIGSTOP) != 0)
            continue;
        if (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
            ptrace(PTRACE_DETACH, pid, 0, 0);
        kill(pid, SIGCONT);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    FILE *out = fopen(argv[1], "a");
    unsigned long entry = strtoul(argv[2], NULL, 16), last = 0;
    if (!out || stat(argv[3], &own) != 0) {
        perror("step");
        return 1;
    }
    pid_t first = fork();
    if (first == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(argv[3], argv + 3);
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
                let_go(first);
                break;
            }
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16, i = place(pid, last);
        struct user_regs_struct registers;
        if (ptrace(PTRACE_GETREGS, pid, 0, &registers) != 0)
            continue;
        if (event == PTRACE_EVENT_EXEC || (pid == first && known[i].base == 0)) {
            long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;
            ptrace(PTRACE_SETOPTIONS, pid, 0, options);
            if (!is_own(pid)) {
                known[i].pid = -1;
                ptrace(PTRACE_DETACH, pid, 0, 0);
                continue;
            }
            known[i].base = registers.rip - entry;
        }
        last = known[i].base;
        unsigned long offset = registers.rip - known[i].base;
        if (offset < LARGEST && !(seen[offset / 8] & 1 << offset % 8)) {
            seen[offset / 8] |= 1 << offset % 8;
            fprintf(out, "%lx\n", offset);
        }
        /* Its own signals are passed on; those of tracing are not. */
        int pass = event == 0 && signal != SIGTRAP && signal != SIGSTOP ? signal : 0;
        ptrace(PTRACE_SINGLESTEP, pid, 0, pass);
    }
    fclose(out);
    return code;
}
