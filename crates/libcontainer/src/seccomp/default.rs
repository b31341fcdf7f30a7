//! The profile of a container that asked for none: what ordinary programs need, the rest only with the capability
//! that guards it. The meaning is that of Docker's default.
//!
//! 32-bit programs may run, old ones as well: `nice`, `signal`, `sigaction`, `sigpending` and `sigsuspend` are allowed,
//! which Docker's refuses. `socketcall` takes the family of a new socket from memory, where a filter cannot look, so that
//! AF_ALG and AF_VSOCK could be had through it (CVE-2026-31431): making a socket that way is refused, its other calls are
//! allowed, except [`beside_module`]: where a security module refuses these families. See
//! `docs/decisions/006-sockets-of-32-bit-programs.md`.
//!
//! One more difference from Docker's of May 2026: the family of a socket is compared by its lower half alone, for the
//! kernel looks at no more. io_uring is refused by both, in every entry.

use super::flags;
use super::profile::{Action, Argument, Condition, Operator, Profile, Rule};
use super::syscalls::Arch;

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;
const AF_ALG: u16 = 38;
const AF_VSOCK: u16 = 40;
/// `SYS_SOCKET` of `linux/net.h`, the first argument of socketcall(2).
const SOCKETCALL_SOCKET: u64 = 1;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: a namespace needs CAP_SYS_ADMIN, because a user
/// namespace would give all capabilities inside it.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Allowed to everyone, by subject.
#[rustfmt::skip]
const ALLOWED: &[&[&str]] = &[
    // Files by path.
    &["access", "chdir", "chmod", "chown", "chown32", "creat", "faccessat", "faccessat2", "fchmodat", "fchmodat2",
      "fchownat", "fstatat64", "futimesat", "getcwd", "lchown", "lchown32", "link", "linkat", "lstat", "lstat64", "mkdir",
      "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "readlink",
      "readlinkat", "rename", "renameat", "renameat2", "rmdir", "stat", "stat64", "statfs", "statfs64", "statx",
      "symlink", "symlinkat", "truncate", "truncate64", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64",
      "utimes"],
    // Files by descriptor.
    &["_llseek", "cachestat", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fadvise64_64",
      "fallocate", "fchdir", "fchmod", "fchown", "fchown32", "fcntl", "fcntl64", "fdatasync", "flock", "fstat", "fstat64",
      "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "getdents", "getdents64", "ioctl", "lseek", "pread64",
      "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readv", "sendfile", "sendfile64",
      "splice", "sync", "sync_file_range", "syncfs", "tee", "umask", "vmsplice", "write", "writev"],
    // Extended attributes and notification.
    &["fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr",
      "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat",
      "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch"],
    // Memory.
    &["brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2",
      "mlockall", "mmap", "mmap2", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap",
      "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages"],
    // Waiting on descriptors, pipes, events, asynchronous I/O (not io_uring: its bugs reached the host too often).
    &["_newselect", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
      "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents",
      "io_pgetevents_time64", "io_setup", "io_submit", "pipe", "pipe2", "poll", "ppoll", "ppoll_time64", "pselect6",
      "pselect6_time64", "select", "signalfd", "signalfd4"],
    // Sockets, except how they are made.
    &["accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv", "recvfrom",
      "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
      "socketpair"],
    // System V and POSIX IPC.
    &["ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
      "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop",
      "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget"],
    // Processes and threads.
    &["execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue", "futex_time64", "futex_wait",
      "futex_waitv", "futex_wake", "get_robust_list", "get_thread_area", "getcpu", "getpgid", "getpgrp", "getpid",
      "getppid", "getpriority", "getsid", "gettid", "ioprio_get", "ioprio_set", "pidfd_open", "pidfd_send_signal", "prctl",
      "process_mrelease", "rseq", "seccomp", "set_robust_list", "set_thread_area", "set_tid_address", "setpgid",
      "setpriority", "setsid", "vfork", "wait4", "waitid", "waitpid", "nice", "uretprobe"],
    // Scheduling and limits.
    &["getrlimit", "getrusage", "prlimit64", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
      "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
      "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "setrlimit", "sysinfo",
      "times", "ugetrlimit", "uname"],
    // Signals.
    &["kill", "pause", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
      "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sigaction",
      "sigaltstack", "signal", "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "tgkill", "tkill"],
    // Time and timers; clock_adjtime and adjtimex only read without CAP_SYS_TIME.
    &["adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime",
      "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer", "gettimeofday", "nanosleep",
      "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64",
      "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
      "timerfd_settime64"],
    // Identity: the kernel asks for the capabilities itself.
    &["capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
      "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid", "getuid32", "setfsgid", "setfsgid32", "setfsuid",
      "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setregid", "setregid32", "setresgid",
      "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32"],
    // Restricting oneself further, random numbers.
    &["getrandom", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self"],
    // x86 alone.
    &["arch_prctl", "modify_ldt"],
    // ARM alone.
    &["arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"],
    // Mounts, read only: what is mounted in one's own namespace.
    &["listmount", "statmount"],
];

/// Allowed with a capability.
#[rustfmt::skip]
const GUARDED: &[(&str, &[&str])] = &[
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    ("CAP_SYS_ADMIN", &["bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
      "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr",
      "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname",
      "setns", "syslog", "umount", "umount2", "unshare"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// PER_LINUX, PER_LINUX32, UNAME26, both, and the question what it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile used when a container names none.
#[must_use]
pub fn default_profile() -> Profile {
    let mut rules: Vec<Rule> = ALLOWED.iter().map(|names| rule(names, Action::Allow)).collect();
    rules.extend(sockets());
    for personality in PERSONALITIES {
        rules.push(with(rule(&["personality"], Action::Allow), Operator::Equal, personality, 0));
    }
    // Before 4.8 a tracer could get round the filter.
    let mut tracing = rule(&["process_vm_readv", "process_vm_writev", "ptrace"], Action::Allow);
    tracing.includes.kernel = Some((4, 8));
    rules.push(tracing);
    for (capability, names) in GUARDED {
        let mut guarded = rule(names, Action::Allow);
        guarded.includes = needs(capability);
        rules.push(guarded);
    }
    rules.extend(clones());
    Profile {
        default_action: Action::Errno(EPERM),
        architectures: Arch::of_machine().to_vec(),
        flags: flags::SPEC_ALLOW,
        listener: None,
        rules,
    }
}

/// The default profile of a container whose sockets of the refused families a security module refuses as well, whatever
/// call makes them: 32-bit programs may then make theirs by socketcall(2), as most do.
#[must_use]
pub fn beside_module() -> Profile {
    let mut profile = default_profile();
    profile.rules.push(rule(&["socketcall"], Action::Allow));
    profile
}

/// Families of sockets that no container gets.
pub const REFUSED_FAMILIES: [u16; 2] = [AF_ALG, AF_VSOCK];

/// The kernel takes the lower half of the register as the family: so does the comparison, or it could be got round.
fn sockets() -> [Rule; 4] {
    let refuse =
        |family: u16| with(rule(&["socket"], Action::Errno(EPERM)), Operator::MaskedEqual, 0xffff_ffff, family.into());
    let multiplexed = with(rule(&["socketcall"], Action::Allow), Operator::NotEqual, SOCKETCALL_SOCKET, 0);
    [refuse(AF_ALG), refuse(AF_VSOCK), rule(&["socket"], Action::Allow), multiplexed]
}

/// clone3 has its flags in memory: "no such call" makes the C library fall back to clone.
fn clones() -> [Rule; 2] {
    let mut clone = with(rule(&["clone"], Action::Allow), Operator::MaskedEqual, CLONE_NAMESPACES, 0);
    let mut clone3 = rule(&["clone3"], Action::Errno(ENOSYS));
    clone.excludes = needs("CAP_SYS_ADMIN");
    clone3.excludes = needs("CAP_SYS_ADMIN");
    [clone, clone3]
}

fn needs(capability: &str) -> Condition {
    Condition { capabilities: vec![capability.to_owned()], ..Condition::default() }
}

fn rule(names: &[&str], action: Action) -> Rule {
    Rule {
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        action,
        arguments: Vec::new(),
        includes: Condition::default(),
        excludes: Condition::default(),
    }
}

/// With a condition on the first argument.
fn with(mut rule: Rule, operator: Operator, value: u64, second: u64) -> Rule {
    rule.arguments.push(Argument { index: 0, operator, value, second });
    rule
}
