//! Programs run in an interpreter, against the profile's meaning, and on the kernel.
#![allow(unsafe_code, reason = "a forked child installs the filter and tries raw system calls")]

use super::meaning::run;
use super::*;

const AUDIT_64: u32 = 0xc000_003e;
const AUDIT_32: u32 = 0x4000_0003;
pub(super) const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;

fn errno(value: u32) -> u32 {
    0x0005_0000 | value
}

fn default_program(capabilities: &[&str]) -> Vec<u8> {
    let profile = default_profile();
    let capabilities: Vec<String> = capabilities.iter().map(|c| (*c).to_owned()).collect();
    compile(&profile, &Target::new(&profile, &capabilities, (6, 1))).unwrap()
}

fn verdict(program: &[u8], arch: Arch, name: &str, first: u64) -> u32 {
    run(program, arch.audit(), arch.number(name).unwrap(), [first, 0, 0, 0, 0, 0]).0
}

#[test]
fn tables_are_sorted_and_agree_with_libc() {
    for table in [x86_64::TABLE, i386::TABLE, x32::OWN, aarch64::TABLE, arm::TABLE] {
        assert!(table.is_sorted_by(|a, b| a.0 < b.0));
    }
    assert!(x32::MISSING.is_sorted());
    for (name, number) in [
        ("read", libc::SYS_read),
        ("clone3", libc::SYS_clone3),
        ("socket", libc::SYS_socket),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("fchmodat2", libc::SYS_fchmodat2),
        ("mseal", libc::SYS_mseal),
        ("personality", libc::SYS_personality),
    ] {
        assert_eq!(Arch::X86_64.number(name), u32::try_from(number).ok(), "{name}");
    }
}

#[test]
fn the_default_refuses_af_alg_vsock_and_io_uring_in_every_entry() {
    let program = default_program(&[]);
    for arch in [Arch::X86_64, Arch::I386, Arch::X32] {
        for family in [38, 40, 0x1_0000_0026, 0xffff_ffff_0000_0028] {
            assert_eq!(verdict(&program, arch, "socket", family), errno(1), "{arch:?} {family:#x}");
        }
        for family in [1, 2, 10, 16, 17, 37, 39, 41] {
            assert_eq!(verdict(&program, arch, "socket", family), ALLOW, "{arch:?} {family}");
        }
        for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key", "userfaultfd"] {
            assert_eq!(verdict(&program, arch, name, 0), errno(1), "{arch:?} {name}");
        }
        for name in ["read", "write", "openat", "mmap", "exit_group", "execve", "futex", "ptrace"] {
            assert_eq!(verdict(&program, arch, name, 0), ALLOW, "{arch:?} {name}");
        }
    }
    // The multiplexed call of old 32-bit programs makes no socket, and does the rest.
    assert_eq!(verdict(&program, Arch::I386, "socketcall", 1), errno(1));
    assert_eq!(verdict(&program, Arch::I386, "socketcall", 3), ALLOW);
    let profile = beside_module();
    let program = compile(&profile, &Target::new(&profile, &[], (6, 1))).unwrap();
    assert_eq!(verdict(&program, Arch::I386, "socketcall", 1), ALLOW);
    assert_eq!(verdict(&program, Arch::I386, "socket", 38), errno(1));
}

#[test]
fn namespaces_and_mounts_need_their_capability() {
    let plain = default_program(&[]);
    let admin = default_program(&["CAP_SYS_ADMIN"]);
    for arch in [Arch::X86_64, Arch::I386, Arch::X32] {
        assert_eq!(verdict(&plain, arch, "clone", 0x11), ALLOW);
        for flag in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(verdict(&plain, arch, "clone", flag | 0x11), errno(1));
            assert_eq!(verdict(&admin, arch, "clone", flag | 0x11), ALLOW);
        }
        assert_eq!(verdict(&plain, arch, "clone3", 0), errno(38));
        assert_eq!(verdict(&admin, arch, "clone3", 0), ALLOW);
        for name in ["mount", "umount2", "unshare", "setns", "bpf", "perf_event_open", "fsopen", "move_mount"] {
            assert_eq!(verdict(&plain, arch, name, 0), errno(1), "{name}");
            assert_eq!(verdict(&admin, arch, name, 0), ALLOW, "{name}");
        }
        for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            assert_eq!(verdict(&plain, arch, "personality", value), ALLOW);
        }
        assert_eq!(verdict(&plain, arch, "personality", 0x0004_0000), errno(1));
    }
    assert_eq!(verdict(&default_program(&["CAP_BPF"]), Arch::X86_64, "bpf", 0), ALLOW);
    assert_eq!(verdict(&default_program(&["CAP_PERFMON"]), Arch::X86_64, "perf_event_open", 0), ALLOW);
}

#[test]
fn a_foreign_architecture_is_killed_and_common_calls_take_few_steps() {
    let program = default_program(&[]);
    assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]).0, KILL);
    assert!(program.len() / 8 < 1200, "{} instructions", program.len() / 8);
    let worst = (0..470).map(|n| run(&program, AUDIT_64, n, [0; 6]).1).max().unwrap();
    assert!(worst <= 40, "{worst} steps");
    assert_eq!(run(&program, AUDIT_64, 9999, [0; 6]).0, errno(1));
    let mut profile = default_profile();
    profile.architectures = vec![Arch::X86_64];
    let program = compile(&profile, &Target::new(&profile, &[], (6, 1))).unwrap();
    assert_eq!(run(&program, AUDIT_32, 3, [0; 6]).0, KILL);
    assert_eq!(run(&program, AUDIT_64, 0x4000_0000, [0; 6]).0, KILL);
}

mod random {
    use proptest::prelude::*;

    use super::meaning::{Meaning, word as word_of};
    use super::*;

    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![0..4u64, Just(u64::MAX), Just(1 << 32), Just((1 << 32) - 1), Just(1 << 63), any::<u64>()]
    }

    fn argument() -> impl Strategy<Value = Argument> {
        let operators = prop::sample::select(vec![
            Operator::NotEqual,
            Operator::Less,
            Operator::LessOrEqual,
            Operator::Equal,
            Operator::GreaterOrEqual,
            Operator::Greater,
            Operator::MaskedEqual,
        ]);
        (0..6u8, operators, word(), word()).prop_map(|(index, operator, value, second)| Argument {
            index,
            operator,
            value,
            second,
        })
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![Just(Action::Allow), (1..5u16).prop_map(Action::Errno), Just(Action::Log), Just(Action::Trap)]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let names = prop::collection::vec((0..x86_64::TABLE.len()).prop_map(|i| x86_64::TABLE[i].0.to_owned()), 1..40);
        (names, action(), prop::collection::vec(argument(), 0..3)).prop_map(|(names, action, arguments)| Rule {
            names,
            action,
            arguments,
            includes: Condition::default(),
            excludes: Condition::default(),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_program_means_what_its_profile_means(
            rules in prop::collection::vec(rule(), 0..20),
            default_action in action(),
            values in prop::collection::vec([word(), word(), word(), word(), word(), word()], 8),
        ) {
            let profile = Profile { default_action, architectures: vec![Arch::X86_64, Arch::X32], flags: 0, listener: None, rules };
            let program = compile(&profile, &Target::new(&profile, &[], (6, 1)));
            prop_assume!(program.is_ok());
            let program = program.unwrap();
            let meaning = Meaning::of(&profile, &[], (6, 1));
            for arch in [Arch::X86_64, Arch::X32] {
                for (name, _) in x86_64::TABLE {
                    let Some(number) = arch.number(name) else { continue };
                    for values in &values {
                        let (verdict, _) = run(&program, AUDIT_64, number, *values);
                        let meant = word_of(meaning.decision(AUDIT_64, number, *values));
                        prop_assert_eq!(verdict, meant, "{:?} {}", arch, name);
                    }
                }
            }
        }
    }
}

#[test]
fn dockers_json_and_ocis_become_the_same_kind_of_profile() {
    let docker = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"archMap":[
        {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
        {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
        "syscalls":[{"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"x",
        "includes":{"minKernel":"4.8"},"excludes":{}},
        {"name":"reboot","action":"SCMP_ACT_ERRNO","errnoRet":5,"includes":{"caps":["CAP_SYS_BOOT"]}}]}"#;
    let profile = Profile::parse(docker).unwrap();
    assert_eq!(profile.architectures, [Arch::X86_64, Arch::I386]);
    let with = Target::new(&profile, &["CAP_SYS_BOOT".into(), "CAP_CHOWN".into()], (5, 15));
    let only = Target::new(&profile, &["CAP_SYS_BOOT".into()], (5, 15));
    assert_eq!(with, only, "capabilities that the profile does not ask about are no part of the key");
    let program = compile(&profile, &with).unwrap();
    assert_eq!(verdict(&program, Arch::X86_64, "read", 0), ALLOW);
    assert_eq!(verdict(&program, Arch::I386, "reboot", 0), errno(5));
    assert_eq!(verdict(&program, Arch::X86_64, "write", 0), errno(38));
    let old = compile(&profile, &Target::new(&profile, &[], (4, 4))).unwrap();
    assert_eq!(verdict(&old, Arch::X86_64, "read", 0), errno(38));
    let oci = br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X32","SCMP_ARCH_S390X"],
        "flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let profile = Profile::parse(oci).unwrap();
    assert_eq!((profile.flags, &profile.architectures[..]), (2, &[Arch::X86_64, Arch::X32][..]));
    for (given, flags) in [("", flags::SPEC_ALLOW), (r#","flags":null"#, flags::SPEC_ALLOW), (r#","flags":[]"#, 0)] {
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{given}}}"#);
        assert_eq!(Profile::parse(text.as_bytes()).unwrap().flags, flags, "{given}");
    }
}

#[test]
fn bad_profiles_are_refused_with_a_reason() {
    let of = |text: &str| Profile::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(of("{").contains("cannot be read"));
    assert!(of(r#"{"defaultAction":"X"}"#).contains("unknown action \"X\""));
    let both = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":[]}]}"#;
    assert!(of(both).contains("both architectures and archMap"));
    let rule = |r: &str| of(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{r}]}}"#));
    assert!(rule(r#"{"names":["a"],"action":"SCMP_ACT_NOTIFY"}"#).contains("needs a listenerPath"));
    assert!(rule(r#"{"action":"SCMP_ACT_TRAP"}"#).contains("names no system call"));
    assert!(
        rule(r#"{"names":["a"],"action":"SCMP_ACT_TRAP","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}"#)
            .contains("out of range")
    );
    assert_eq!(Profile::parse(&vec![b' '; Profile::MAX_SIZE + 1]), Err(Error::TooLarge));
}

/// Tries calls in a child under the filter; the child's status is the first one that surprised, 0 when none.
#[test]
fn the_kernel_takes_the_default_and_enforces_it() {
    let program = default_program(&[]);
    // SAFETY: the child makes only raw system calls and leaves by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: as above; every pointer is null or not a pointer at all.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if gantry_linux::seccomp::install_filter(&program, 0).is_err() {
                libc::_exit(1);
            }
            let refused = |result: i64, errno: i32| result == -1 && *libc::__errno_location() == errno;
            let checks = [
                refused(libc::syscall(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0), libc::EPERM),
                refused(libc::syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0), libc::EPERM),
                refused(libc::syscall(libc::SYS_clone3, 0, 0), libc::ENOSYS),
                refused(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS), libc::EPERM),
                refused(libc::syscall(libc::SYS_io_uring_setup, 1, 0), libc::EPERM),
                libc::syscall(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0) >= 0,
                libc::syscall(libc::SYS_personality, 0xffff_ffffu64) >= 0,
            ];
            let failed = checks.iter().position(|ok| !ok);
            libc::_exit(failed.map_or(0, |i| i as i32 + 2));
        }
    }
    let mut status = 0;
    // SAFETY: `status` is valid for the write.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "exit status {} or signal {}", status >> 8, status & 0x7f);
}

#[test]
fn arm_is_compiled_too_and_refuses_what_x86_refuses() {
    let profile = Profile { architectures: vec![Arch::Aarch64, Arch::Arm], ..default_profile() };
    let program = compile(&profile, &Target::new(&profile, &[], (6, 1))).unwrap();
    for arch in [Arch::Aarch64, Arch::Arm] {
        for family in [38, 40, 0x1_0000_0026] {
            assert_eq!(verdict(&program, arch, "socket", family), errno(1), "{arch:?} {family:#x}");
        }
        assert_eq!(verdict(&program, arch, "socket", 2), ALLOW);
        for name in ["read", "openat", "execve", "futex"] {
            assert_eq!(verdict(&program, arch, name, 0), ALLOW, "{arch:?} {name}");
        }
        for name in ["io_uring_setup", "mount", "unshare", "keyctl"] {
            assert_eq!(verdict(&program, arch, name, 0), errno(1), "{arch:?} {name}");
        }
        assert_eq!(verdict(&program, arch, "clone3", 0), errno(38));
    }
    assert_eq!(verdict(&program, Arch::Arm, "cacheflush", 0), ALLOW);
    assert_eq!(run(&program, AUDIT_64, 0, [0; 6]).0, KILL);
}

#[test]
fn a_call_that_a_tracer_took_away_is_not_killed_where_x32_is_not_allowed() {
    let profile = Profile { architectures: vec![Arch::X86_64], ..default_profile() };
    let program = compile(&profile, &Target::new(&profile, &[], (6, 1))).unwrap();
    assert_eq!(run(&program, AUDIT_64, u32::MAX, [0; 6]).0, errno(1));
    assert_eq!(run(&program, AUDIT_64, u32::MAX - 1, [0; 6]).0, KILL);
}

#[test]
fn a_listener_is_there_exactly_when_a_rule_notifies() {
    let of = |more: &str| Profile::parse(format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{more}}}"#).as_bytes());
    let notify = r#","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]"#;
    let profile = of(&format!(r#","listenerPath":"/run/agent","listenerMetadata":"m"{notify}"#)).unwrap();
    let listener = profile.listener.clone().unwrap();
    assert_eq!((listener.path.to_str(), listener.metadata.as_str()), (Some("/run/agent"), "m"));
    let program = compile(&profile, &Target::new(&profile, &[], (6, 1))).unwrap();
    assert_eq!(verdict(&program, Arch::X86_64, "mkdir", 0), 0x7fc0_0000);
    assert_eq!(of(r#","listenerPath":"/run/agent""#).unwrap().listener, None);
    for bad in [
        notify.to_owned(),
        r#","listenerMetadata":"m""#.to_owned(),
        format!(r#","listenerPath":"relative"{notify}"#),
        r#","listenerPath":"/a","syscalls":[{"names":["sendmsg"],"action":"SCMP_ACT_NOTIFY"}]"#.to_owned(),
    ] {
        assert!(matches!(of(&bad), Err(Error::Invalid(_))), "{bad}");
    }
    assert!(Profile::parse(br#"{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/a"}"#).is_err());
}

/// The agent's side in this process: the filter is put on a child, whose listener comes over a socket as from a container.
#[test]
fn an_agent_answers_the_calls_that_are_passed_on() {
    use std::io::Read;
    use std::os::fd::AsFd;

    use gantry_linux::socket;

    let profile = Profile::parse(
        br#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/unused","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls":[{"names":["getppid"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    )
    .unwrap();
    let program = compile(&profile, &Target::host(&profile, &[])).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (outside, inside) = socket::pair().unwrap();
    // SAFETY: the child makes only raw system calls (and one send) and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let Ok(fd) = gantry_linux::seccomp::install_filter_with_listener(&program, profile.flags) else {
                libc::_exit(1)
            };
            if socket::send(&inside, b"x", &[fd.as_fd()]).is_err() {
                libc::_exit(2);
            }
            libc::_exit(if libc::syscall(libc::SYS_getppid) == 4711 { 0 } else { 3 });
        }
    }
    drop(inside);
    let mut packet = socket::receive(&outside).unwrap().unwrap();
    let listener = crate::config::SeccompListener { path, metadata: "for you".into() };
    let state = crate::oci::State {
        oci_version: "1.3.0".into(),
        id: "c".into(),
        status: crate::oci::Status::Running,
        pid: child,
        bundle: "/b".into(),
        annotations: Default::default(),
    };
    hand_over(&listener, &packet.fds.remove(0), child, &state).unwrap();
    let (mut stream, _) = agent.accept().unwrap();
    let (text, fd) = receive_with_fd(&stream);
    let told: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(told["fds"][0], "seccompFd");
    assert_eq!((told["pid"].as_i64(), told["metadata"].as_str()), (Some(i64::from(child)), Some("for you")));
    assert_eq!((told["state"]["id"].as_str(), told["state"]["status"].as_str()), (Some("c"), Some("running")));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the connection ends after the message");
    answer_one(&fd, 4711);
    let mut status = 0;
    // SAFETY: `status` is valid for the write.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "exit status {}", status >> 8);
}

fn receive_with_fd(stream: &std::os::unix::net::UnixStream) -> (Vec<u8>, std::os::fd::OwnedFd) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = vec![0; 4096];
    let received = recvmsg(stream, &mut [std::io::IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
    text.truncate(received.unwrap().bytes);
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next()).unwrap();
    (text, fd)
}

/// Receives one notification and answers it with `value` in place of the call.
fn answer_one(listener: &std::os::fd::OwnedFd, value: i64) {
    use std::os::fd::AsRawFd;
    /// `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND` of `linux/seccomp.h`, with the sizes of their structures.
    const RECEIVE: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    // SAFETY: both structures are plain numbers, of the sizes that the requests name.
    unsafe {
        let mut call: libc::seccomp_notif = std::mem::zeroed();
        assert_eq!(libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call), 0);
        assert_eq!(i64::from(call.data.nr), libc::SYS_getppid);
        let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
        (answer.id, answer.val) = (call.id, value);
        assert_eq!(libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer), 0);
    }
}
