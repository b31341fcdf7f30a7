//! What the resolver gives up before it reads the first byte of a stranger's: being root, every capability, for ever, and
//! every system call that answering names does not take.

use std::path::Path;

use gantry_linux::seccomp::install_filter;
use gantry_linux::{Result, ResultExt};
use libcontainer::seccomp::{Action, Arch, Argument, Condition, Operator, Profile, Rule, Target, compile};
use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

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

/// Whom it becomes.
const NOBODY: u32 = 65534;

/// Confines the calling thread, which reads the file of the host's servers again later on.
///
/// # Errors
/// The kernel's refusal.
pub fn confine(servers: &Path) -> Result<()> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // The kernel has no more.
            Err(Errno::INVAL) => break,
            other => other.during("give up for ever", format_args!("capability {number}"))?,
        }
    }
    // Last of what takes a capability.
    become_nobody(servers)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_no_new_privs(true).during("set", "no new privileges")?;
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).during("give up", "capabilities")?;
    let profile = profile();
    let program = compile(&profile, &Target::host(&profile, &[]))
        .map_err(|error| gantry_linux::Error::new("compile", "seccomp program", std::io::Error::other(error)))?;
    install_filter(&program, 0).during("install", "seccomp program")
}

/// Where only root may read the file of the servers, it stays root, without a capability.
fn become_nobody(servers: &Path) -> Result<()> {
    let become_user = |effective: u32, saved: u32| {
        let user = |number| Some(Uid::from_raw(number));
        set_thread_res_uid(user(effective), user(effective), user(saved))
            .during("become", format_args!("user {effective}"))
    };
    let become_group = |number: u32| {
        let group = Some(Gid::from_raw(number));
        set_thread_res_gid(group, group, group).during("become", format_args!("group {number}"))
    };
    set_thread_groups(&[]).during("give up", "groups")?;
    become_group(NOBODY)?;
    become_user(NOBODY, 0)?;
    match rustix::fs::accessat(rustix::fs::CWD, servers, Access::READ_OK, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => {
            become_user(0, 0)?;
            become_group(0)
        }
        // One that is not there yet will be there for everybody.
        _ => become_user(NOBODY, NOBODY),
    }
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
    fn where_everybody_may_read_the_servers_it_is_nobody() {
        use std::os::unix::fs::PermissionsExt as _;
        // Directories for temporary files are often one's own.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let (servers, secret) = (directory.path().join("resolv.conf"), directory.path().join("secret"));
        for (path, mode) in [(&servers, 0o644), (&secret, 0o600)] {
            gantry_linux::fs::write(path, "text").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let confined = std::thread::spawn(move || {
            confine(&servers).unwrap();
            assert_eq!(gantry_linux::fs::read_to_string(&servers).unwrap(), "text");
            let error = gantry_linux::fs::read_to_string(&secret).unwrap_err();
            assert_eq!(error.errno(), Errno::ACCESS.raw_os_error(), "{error}");
        });
        confined.join().unwrap();
    }

    #[test]
    fn the_confined_reads_and_sends_and_does_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        gantry_linux::fs::write(&file, "text").unwrap();
        let confined = std::thread::spawn(move || {
            confine(&file).unwrap();
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
