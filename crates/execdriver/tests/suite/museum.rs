//! The part of the escape museum that needs more than an OCI runtime has: users by name, the default seccomp profile,
//! supervisors. As the runtime's part, each test is seen to fail by `cargo xtask museum` without its protection.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use gantry_execdriver::Error;
use libcontainer::config::{Config, Resources};

use crate::common::{Rig, exec, process};

fn refused(rig: &Rig, config: Config) -> Error {
    rig.start_with(config, |_| ()).map(drop).unwrap_err()
}

/// CVE-2024-40635, CVE-2026-46680: a number that is none becomes root.
#[test]
fn a_user_that_is_no_id_is_an_error_and_never_root() {
    let Some(rig) = Rig::new() else { return };
    let container = rig.start(&rig.config("exec sleep 60"));
    let users = ["4294967296", "4294967295", "-1", "99999999999999999999999", "1:4294967296", "1:-1"];
    for (number, user) in users.into_iter().enumerate() {
        let mut config = rig.config("id");
        config.process.user = user.into();
        let error = refused(&rig, config);
        assert!(matches!(&error, Error::Invalid(text) if text.contains("range")), "{user}: {error}");
        let mut further = process(&["id"]);
        further.user = user.into();
        let error = exec(&*container, &format!("e{number}"), further).unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.contains("range")), "{user}: {error}");
    }
    container.kill_all().unwrap();
    container.wait().unwrap();
}

/// CVE-2023-25173: groups of the engine's stay, or those of the user are missing.
#[test]
fn a_user_by_name_has_the_groups_that_su_gives_and_no_others() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("id -G; exec sleep 60");
    config.process.user = "web".into();
    let container = rig.start(&config);
    let mut further = process(&["id", "-G"]);
    further.user = "web".into();
    assert_eq!(exec(&*container, "e", further).unwrap().1, "1000 8\n");
    crate::common::eventually("the program's output", || rig.output(&config) == "1000 8\n");
    container.kill_all().unwrap();
    container.wait().unwrap();
}

/// CVE-2026-47262: the whole file is read into memory.
#[test]
fn users_files_of_a_gigabyte_are_refused_and_cost_no_memory() {
    let Some(rig) = Rig::new() else { return };
    for name in ["passwd", "group"] {
        let path = rig.root.join("etc").join(name);
        let before = std::fs::read(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let mut config = rig.config("id");
        config.process.user = "web".into();
        config.resources = Resources { memory: Some(64 << 20), memory_swap: Some(64 << 20), ..Resources::default() };
        let error = refused(&rig, config).to_string();
        assert!(error.contains(&format!("/etc/{name} in the container is longer than")), "{error}");
        std::fs::write(path, before).unwrap();
    }
}

/// CVE-2026-31431: a socket of the kernel's cryptography, of virtual machines, and io_uring, by the 64-bit and the 32-bit
/// door; also by the call that hides what it makes.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_refuses_alg_vsock_and_io_uring_by_every_door() {
    use gantry_tests::elf::{self, Entry, WORDS};
    use libcontainer::seccomp::{Target, compile, default_profile};
    const ALG: [u32; 3] = [38, 5, 0];
    const VSOCK: [u32; 3] = [40, 1, 0];
    const REFUSED: i32 = 256 - rustix::io::Errno::PERM.raw_os_error();
    let Some(rig) = Rig::new() else { return };
    let program = |name: &str, entry, number, arguments: &[u32], words: &[u32]| {
        let path = rig.root.join("bin").join(name);
        std::fs::write(&path, elf::program(entry, number, arguments, words)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let mut names = Vec::new();
    for (entry, door, socket) in
        [(Entry::Long, "long", 41), (Entry::Short, "short", 359), (Entry::ShortFromLong, "short-from-long", 359)]
    {
        let mut add = |what: &str, number, arguments: &[u32], words: &[u32]| {
            let name = format!("{what}-{door}");
            program(&name, entry, number, arguments, words);
            names.push(name);
        };
        add("alg", socket, &ALG, &[]);
        add("vsock", socket, &VSOCK, &[]);
        add("io_uring", 425, &[1, 0], &[]);
        if entry != Entry::Long {
            const SOCKETCALL: u32 = 102;
            add("hidden-alg", SOCKETCALL, &[1, WORDS], &ALG);
            add("hidden-vsock", SOCKETCALL, &[1, WORDS], &VSOCK);
        }
    }
    // What is not refused: 32-bit programs run, and an ordinary socket is made.
    program("getuid", Entry::Short, 24, &[], &[]);
    program("unix", Entry::Short, 359, &[1, 1, 0], &[]);
    let script = format!("for p in {} getuid unix; do $p; echo $p $?; done", names.join(" "));
    let mut expected: String = names.iter().map(|name| format!("{name} {REFUSED}\n")).collect();
    expected.push_str("getuid 0\nunix 3\n");
    let profile = default_profile();
    let seccomp = compile(&profile, &Target::host(&profile, &[])).unwrap();
    let confined =
        |args: &[&str]| libcontainer::config::Process { seccomp: Some(seccomp.clone().into()), ..process(args) };
    let mut config = rig.config("");
    config.process = confined(&["sh", "-c", &script]);
    assert_eq!(rig.run(&config).1, expected);
    let container = rig.start(&rig.config("exec sleep 60"));
    assert_eq!(exec(&*container, "e", confined(&["sh", "-c", &script])).unwrap().1, expected);
    container.kill_all().unwrap();
    container.wait().unwrap();
}

/// CVE-2020-15257: whoever reaches a supervisor's socket commands it. The directory is closed; this is the second lock.
#[test]
fn a_supervisor_hears_nobody_but_its_own_user() {
    let Some(rig) = Rig::new() else { return };
    let config = rig.config("exec sleep 60");
    let container = rig.start(&config);
    let mut place = rig.dir.path().to_path_buf();
    for name in ["", "run", "c", &config.id, "s"] {
        place.push(name);
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let socket = place.components().collect::<std::path::PathBuf>();
    let heard = std::thread::scope(|threads| threads.spawn(|| first_words(&socket)).join().unwrap());
    assert_eq!(heard, Ok(0), "the connection was not closed at once");
    container.kill_all().unwrap();
    container.wait().unwrap();
}

/// What somebody else is told who connects and says nothing: the end. The calling thread is that somebody from then on.
fn first_words(path: &std::path::Path) -> rustix::io::Result<usize> {
    use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketType};
    let nobody = rustix::process::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody)?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    gantry_linux::socket::set_timeouts(&socket, None, Some(Duration::from_secs(2))).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut buffer = [0u8; 64];
    rustix::net::recv(&socket, &mut buffer, RecvFlags::empty()).map(|(length, _)| length)
}

/// CVE-2021-41091: what is kept of running containers is nobody else's to look at.
#[test]
fn what_is_kept_of_a_container_is_closed_to_other_users() {
    let Some(rig) = Rig::new() else { return };
    let config = rig.config("exec sleep 60");
    let container = rig.start(&config);
    let all = rig.dir.path().join("run/c");
    for path in [all.clone(), all.join(&config.id)] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
    container.kill_all().unwrap();
    container.wait().unwrap();
}

/// CVE-2019-5736: of ours an init stays in the container, and its program is in reach as `/proc/1/exe`.
#[test]
fn what_stays_of_ours_in_a_container_is_a_program_that_nobody_can_write_to() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("exec sleep 60");
    config.init = true;
    let container = rig.start(&config);
    let program = format!("/proc/{}/exe", container.pid());
    let file = std::fs::File::open(&program).unwrap();
    let sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(rustix::fs::SealFlags::WRITE));
    assert!(sealed, "{:?} can be written to", std::fs::read_link(program));
    container.kill_all().unwrap();
    container.wait().unwrap();
}
