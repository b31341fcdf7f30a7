//! What the resolver gives up before it reads the first byte of a stranger's: every capability, for ever, and every
//! system call that answering names does not take.

use gantry_linux::seccomp::install_filter;
use gantry_linux::{Result, ResultExt};
use libcontainer::seccomp::{Action, Arch, Argument, Condition, Operator, Profile, Rule, Target, compile};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Calls that are free, in the order of what they are for: waiting, packets, files that are open, memory, threads' and the C
/// library's own, leaving.
const FREE: [&str; 42] = [
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "inotify_add_watch",
    "poll",
    "restart_syscall",
    "recvfrom",
    "recvmsg",
    "sendto",
    "sendmsg",
    "connect",
    "accept4",
    "getsockopt",
    "shutdown",
    "read",
    "write",
    "pread64",
    "close",
    "fcntl",
    "fstat",
    "newfstatat",
    "statx",
    "lseek",
    "readlink",
    "readlinkat",
    "brk",
    "munmap",
    "mremap",
    "madvise",
    "futex",
    "getrandom",
    "clock_gettime",
    "gettimeofday",
    "sched_yield",
    "rt_sigprocmask",
    "rt_sigaction",
    "rt_sigreturn",
    "sigaltstack",
    "gettid",
    "getpid",
    "exit",
    "exit_group",
];
/// `SIOCGIFINDEX`: the number of a link by its name.
const LINK_INDEX: u64 = 0x8933;

/// Confines the calling thread.
///
/// # Errors
/// The kernel's refusal.
pub fn confine() -> Result<()> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // The kernel has no more.
            Err(Errno::INVAL) => break,
            other => other.during("give up for ever", format_args!("capability {number}"))?,
        }
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_no_new_privs(true).during("set", "no new privileges")?;
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).during("give up", "capabilities")?;
    let profile = profile();
    let program = compile(&profile, &Target::host(&profile, &[]))
        .map_err(|error| gantry_linux::Error::new("compile", "seccomp program", std::io::Error::other(error)))?;
    install_filter(&program, 0).during("install", "seccomp program")
}

fn profile() -> Profile {
    let rule = |names: &[&str], arguments: Vec<Argument>| Rule {
        names: names.iter().map(ToString::to_string).collect(),
        action: Action::Allow,
        arguments,
        includes: Condition::default(),
        excludes: Condition::default(),
    };
    let lacks = |index, bits: i32| Argument {
        index,
        operator: Operator::MaskedEqual,
        value: u64::from(bits.unsigned_abs()),
        second: 0,
    };
    let is = |index, value| Argument { index, operator: Operator::Equal, value, second: 0 };
    let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
    Profile {
        default_action: Action::Errno(Errno::PERM.raw_os_error().unsigned_abs().try_into().unwrap_or(1)),
        architectures: vec![Arch::NATIVE],
        flags: 0,
        listener: None,
        rules: vec![
            rule(&FREE, Vec::new()),
            rule(&["openat"], vec![lacks(2, writing)]),
            rule(&["mmap", "mprotect"], vec![lacks(2, libc::PROT_EXEC)]),
            rule(&["socket"], vec![is(0, libc::AF_INET.unsigned_abs().into())]),
            rule(&["socket"], vec![is(0, libc::AF_INET6.unsigned_abs().into())]),
            rule(&["ioctl"], vec![is(1, LINK_INDEX)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_confined_reads_and_sends_and_does_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        gantry_linux::fs::write(&file, "text").unwrap();
        let confined = std::thread::spawn(move || {
            confine().unwrap();
            assert_eq!(gantry_linux::fs::read_to_string(&file).unwrap(), "text");
            assert!(UdpSocket::bind("127.0.0.1:0").is_err(), "it binds nothing");
            let any = rustix::net::AddressFamily::INET;
            rustix::net::socket(any, rustix::net::SocketType::DGRAM, None).unwrap();
            let unix = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
            assert_eq!(unix.unwrap_err(), Errno::PERM);
            for refused in [
                gantry_linux::fs::write(&file, "other").unwrap_err(),
                gantry_linux::fs::remove_file(&file).unwrap_err(),
                gantry_linux::fs::set_mode(&file, 0o777).unwrap_err(),
                gantry_linux::fs::rename(&file, file.with_extension("x")).unwrap_err(),
            ] {
                assert_eq!(refused.errno(), libc::EPERM, "{refused}");
            }
            let status = gantry_linux::fs::read_to_string("/proc/thread-self/status").unwrap();
            for none in ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"] {
                assert!(status.contains(&format!("{none}:\t0000000000000000")), "{status}");
            }
        });
        confined.join().unwrap();
    }
}
