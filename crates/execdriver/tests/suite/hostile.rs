//! Images and configurations that mean harm, or are wrong: confined or refused, each with a message that helps.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::common::{Rig, bind, exec, process};
use gantry_execdriver::Error;
use libcontainer::config::{CapSet, Capabilities, Config};

fn refused(rig: &Rig, config: Config) -> Error {
    rig.start_with(config, |_| ()).map(drop).unwrap_err()
}

/// The root itself, writable by the test, instead of an overlay on it.
fn plain_root(rig: &Rig, script: &str) -> (Config, std::path::PathBuf) {
    let mut config = rig.config(script);
    let root = rig.dir.path().join(format!("plain-{}", config.id));
    crate::common::make_root(&root);
    config.root = gantry_linux::mount::RootMount::Bind { source: root.clone() };
    (config, root)
}

#[test]
fn proc_and_sys_as_links_of_the_image_are_refused_and_dev_is_confined() {
    let Some(rig) = Rig::new() else { return };
    for name in ["proc", "sys"] {
        let (config, root) = plain_root(&rig, "true");
        std::fs::create_dir(root.join("trap")).unwrap();
        symlink("/trap", root.join(name)).unwrap();
        let error = refused(&rig, config);
        assert!(matches!(&error, Error::Invalid(text) if text.contains("not an ordinary directory")), "{error}");
    }
    let outside = rig.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let (config, root) = plain_root(&rig, "ls /dev/null");
    symlink(format!("../../../../../../..{}", outside.display()), root.join("dev")).unwrap();
    rig.run(&config);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_mount_on_a_link_that_leads_outside_stays_inside() {
    let Some(rig) = Rig::new() else { return };
    let outside = rig.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let source = rig.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "volume").unwrap();
    let (mut config, root) = plain_root(&rig, "cat /data/sub/file");
    symlink(&outside, root.join("data")).unwrap();
    config.mounts.push(bind(&source, "/data/sub", true));
    let (exit, output) = rig.run(&config);
    assert_eq!((exit.code, output.as_str()), (0, "volume"));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn the_engines_binary_cannot_be_written_through_proc_self_exe() {
    let Some(rig) = Rig::new() else { return };
    let before = std::fs::metadata("/proc/self/exe").unwrap().modified().unwrap();
    let mut config =
        rig.config("(echo broken > /proc/1/exe) 2>&1; readlink /proc/1/exe; (echo broken > /proc/$PPID/exe) 2>&1");
    config.init = true;
    let (_, output) = rig.run(&config);
    assert!(output.contains("can't create") && !output.contains("/target/"), "{output}");
    let mut config = rig.config("");
    config.process.args = vec!["/proc/self/exe".into(), "x".into()];
    // It runs the sealed memfd, which is not a template there, or is refused: it changes nothing.
    if let Ok(container) = rig.start_with(config, |_| ()) {
        container.kill_all().unwrap();
        container.wait().unwrap();
    }
    assert_eq!(std::fs::metadata("/proc/self/exe").unwrap().modified().unwrap(), before);
    assert_eq!(rig.script("echo works").1, "works\n");
}

#[test]
fn no_working_directory_leads_through_a_descriptor_to_the_host() {
    let Some(rig) = Rig::new() else { return };
    let container = rig.start(&rig.config("exec sleep 60"));
    for number in 3..=20 {
        let path = format!("/proc/self/fd/{number}");
        let mut config = rig.config("pwd; ls -ld .; ls ../../../../work");
        config.process.cwd = path.clone().into();
        let error = refused(&rig, config);
        assert!(error.to_string().contains("working directory"), "{error}");
        let mut further = process(&["ls"]);
        further.cwd = path.into();
        let error = exec(&*container, &format!("e{number}"), further).unwrap_err();
        assert!(error.to_string().contains("working directory"), "{error}");
    }
    for number in 3..=20 {
        let mut config = rig.config("");
        config.process.args = vec![format!("/proc/self/fd/{number}/../../../../../bin/true")];
        assert!(matches!(refused(&rig, config), Error::CommandNotFound(_) | Error::CommandNotExecutable(_)));
    }
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn only_the_standard_streams_are_open_at_the_first_instruction() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("");
    // `ls` opens the directory it lists, as 3.
    config.process.args = ["ls", "/proc/self/fd"].map(Into::into).into();
    assert_eq!(rig.run(&config).1, "0\n1\n2\n3\n");
    config = rig.config("");
    // The init keeps its signals only, and no stream: it lets go while the program runs already.
    let script = "i=0; while [ $(ls /proc/1/fd | wc -l) != 1 ] && [ $i -lt 500 ]; do i=$((i+1)); usleep 10000; done; \
                  ls /proc/1/fd | wc -l";
    config.process.args = ["sh", "-c", script].map(Into::into).into();
    config.init = true;
    assert_eq!(rig.run(&config).1.trim(), "1");
    let container = rig.start(&rig.config("exec sleep 60"));
    assert_eq!(exec(&*container, "e", process(&["ls", "/proc/self/fd"])).unwrap().1, "0\n1\n2\n3\n");
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn no_process_of_an_exec_shows_the_hosts_files_to_the_container() {
    let Some(rig) = Rig::new() else { return };
    let marker = rig.dir.path().display();
    // Who may trace sees the root of each process of its pid namespace, from its first moment.
    let mut config = rig.config(&format!(
        "echo ready; i=0; while [ ! -e /tmp/stop ] && [ $((i+=1)) -lt 20000 ]; do for p in /proc/[0-9]*; do \
         if [ -e $p/root{marker} ]; then echo escaped by $p; exit; fi; done; done"
    ));
    let tracer = config.process.capabilities.permitted.with(CapSet::parse(["CAP_SYS_PTRACE"]).unwrap());
    config.process.capabilities = Capabilities::of(tracer);
    let container = rig.start(&config);
    for number in 0..50 {
        if let Ok(ended) = exec(&*container, &format!("e{number}"), process(&["true"])) {
            assert_eq!(ended.0, 0);
        }
    }
    let _ended_already = exec(&*container, "stop", process(&["touch", "/tmp/stop"]));
    container.wait().unwrap();
    assert_eq!(rig.output(&config), "ready\n");
}

#[test]
fn programs_that_cannot_run_are_explained() {
    let Some(rig) = Rig::new() else { return };
    let bin = rig.root.join("bin");
    let file = |name: &str, content: &[u8], mode: u32| {
        std::fs::write(bin.join(name), content).unwrap();
        std::fs::set_permissions(bin.join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    file("script", b"#!/no/interp -x\n", 0o755);
    file("dos", b"#!/bin/sh\r\n", 0o755);
    file("plain", b"echo hi\n", 0o644);
    file("empty", b"", 0o755);
    file("text", b"echo hi\n", 0o755);
    let mut arm = std::fs::read("/bin/busybox").unwrap();
    arm[18] = 183;
    file("arm", &arm, 0o755);
    let cases: [(&str, bool, &str); 12] = [
        ("foo", true, "exec: \"foo\": executable file not found in $PATH"),
        ("/foo", true, "exec: \"/foo\": stat /foo: no such file or directory"),
        ("./foo", true, "exec: \"./foo\": stat ./foo: no such file or directory"),
        ("/bin/script", true, "needs the interpreter /no/interp"),
        ("dos", true, "carriage return"),
        ("/bin/plain", false, "permission denied"),
        ("plain", false, "permission denied"),
        ("/etc", false, "permission denied"),
        ("empty", false, "exec format error"),
        ("text", false, "exec format error"),
        ("arm", false, "exec format error: the file is for aarch64, this host is x86_64"),
        ("/bin/sh/x", true, "not a directory"),
    ];
    for (name, not_found, text) in cases {
        let mut config = rig.config("");
        config.process.args = vec![name.into()];
        let error = refused(&rig, config);
        assert!(error.to_string().contains(text), "{name}: {error}");
        let is_not_found = matches!(error, Error::CommandNotFound(_));
        assert!(
            is_not_found == not_found && (not_found || matches!(error, Error::CommandNotExecutable(_))),
            "{name}: {error:?}"
        );
    }
    let mut config = rig.config("");
    config.process.args = vec![];
    assert!(matches!(refused(&rig, config), Error::Invalid(_)));
}

#[test]
fn every_form_of_user_gives_the_identity_that_su_gives() {
    let Some(rig) = Rig::new() else { return };
    let ids = |user: &str, groups: &[&str]| {
        let mut config = rig.config("id -u; id -g; id -G; echo $HOME");
        config.process.user = user.into();
        config.process.additional_groups = groups.iter().map(|group| (*group).to_owned()).collect();
        rig.run(&config).1
    };
    assert_eq!(ids("", &[]), "0\n0\n0\n/root\n");
    assert_eq!(ids("web", &[]), "1000\n1000\n1000 8\n/home/web\n");
    assert_eq!(ids("1000", &["77"]), "1000\n1000\n1000 8 77\n/home/web\n");
    assert_eq!(ids("web:mail", &[]), "1000\n8\n8\n/home/web\n");
    assert_eq!(ids("4242:4343", &[]), "4242\n4343\n4343\n/\n");
    for user in ["4294967296", "-1", "2147483648", "99999999999999999999", "0:4294967296"] {
        let mut config = rig.config("id");
        config.process.user = user.into();
        assert!(matches!(refused(&rig, config), Error::Invalid(text) if text.contains("range")), "{user}");
    }
    let mut config = rig.config("id");
    config.process.user = "ghost".into();
    assert_eq!(refused(&rig, config).to_string(), "unable to find user ghost: no matching entries in passwd file");
    let (config, root) = plain_root(&rig, "id");
    std::fs::File::create(root.join("etc/passwd")).unwrap().set_len(1 << 30).unwrap();
    assert!(refused(&rig, config).to_string().contains("/etc/passwd"));
    let (config, root) = plain_root(&rig, "grep Uid /proc/self/status");
    std::fs::remove_file(root.join("etc/passwd")).unwrap();
    symlink("/dev/zero", root.join("etc/passwd")).unwrap();
    assert_eq!(rig.run(&config).1, "Uid:\t0\t0\t0\t0\n");
}

#[test]
fn capabilities_are_bounded_and_never_ambient() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("grep Cap /proc/self/status; grep NoNewPrivs /proc/self/status");
    config.process.capabilities = Capabilities::plain(["CAP_CHOWN", "CAP_NET_RAW"]).unwrap();
    let (_, root) = rig.run(&config);
    let set = "0000000000002001";
    let none = "0000000000000000";
    let line = |name: &str, value: &str| format!("{name}:\t{value}\n");
    let expected =
        [line("CapInh", none), line("CapPrm", set), line("CapEff", set), line("CapBnd", set), line("CapAmb", none)];
    assert_eq!(root, expected.concat() + "NoNewPrivs:\t0\n");
    config.id = "second".into();
    config.process.user = "web".into();
    config.process.no_new_privileges = true;
    let (_, web) = rig.run(&config);
    let expected =
        [line("CapInh", none), line("CapPrm", none), line("CapEff", none), line("CapBnd", set), line("CapAmb", none)];
    assert_eq!(web, expected.concat() + "NoNewPrivs:\t1\n");
    config.process.capabilities = Capabilities { effective: CapSet::ALL, ..Capabilities::default() };
    config.id = "third".into();
    assert!(matches!(refused(&rig, config), Error::Invalid(_)));
}

#[test]
fn the_init_is_confined_as_its_program_is() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("for p in 1 self; do grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/$p/status; echo; done");
    config.init = true;
    config.process.no_new_privileges = true;
    config.process.capabilities = Capabilities::plain(["CAP_CHOWN"]).unwrap();
    // Everything is allowed.
    config.process.seccomp = Some([0x06, 0, 0, 0, 0, 0, 0xff, 0x7f].into());
    let (exit, output) = rig.run(&config);
    let (init, program) = output.split_once("\n\n").unwrap();
    assert_eq!((exit.code, init), (0, program.trim_end()));
    assert!(init.contains("CapEff:\t0000000000000001") && init.ends_with("Seccomp:\t2"), "{init}");
}

#[test]
fn masked_and_read_only_paths_are_that() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config(
        "at() { ls -d /sys/fs/cgroup/$1 2>/dev/null || echo /sys/fs/cgroup; }; cat /proc/meminfo | wc -c; ls /sys/kernel | wc -l; (echo 1 > /proc/sys/net/ipv4/ip_forward) 2>&1; \
         touch /sys/kernel/x 2>&1; touch /sys/x 2>&1; touch $(at memory)/x 2>&1; \
         mkdir $(at pids)/x 2>&1; (echo 1 > /proc/meminfo) && ls -ln /dev/null",
    );
    config.masked_paths.extend(["/proc/meminfo".into(), "/sys/kernel".into(), "/not/there".into()]);
    let (_, output) = rig.run(&config);
    assert!(output.starts_with("0\n0\n"), "{output}");
    assert_eq!(output.matches("ead-only").count(), 5, "{output}");
    assert!(output.contains("crw-rw-rw-    1 0        0           1,   3"), "{output}");
}

#[test]
fn no_container_reaches_the_null_device_of_the_host() {
    use std::os::unix::fs::MetadataExt;
    let Some(rig) = Rig::new() else { return };
    let host = || std::fs::metadata("/dev/null").map(|null| (null.mode(), null.uid(), null.gid())).unwrap();
    let before = host();
    // Nothing is changed unless it is the container's own: a red test must not harm the host.
    let harm = "own=$(stat -c %d:%i /dev/null); for f in /proc/meminfo /dev/fd/0; do \
                if [ $(stat -Lc %d:%i $f) = $own ]; then chmod 600 $f 2>&1; else echo $f is of the host; fi; done; \
                stat -c %a /dev/null; cat; echo done";
    let mut config = rig.config(harm);
    config.masked_paths.push("/proc/meminfo".into());
    let (_, output) = rig.run(&config);
    assert!(output.starts_with("chmod: /proc/meminfo: Read-only") && output.ends_with("600\ndone\n"), "{output}");
    assert!(!output.contains("of the host"), "{output}");
    let mut config = rig.config("exec sleep 60");
    config.masked_paths.push("/proc/meminfo".into());
    let container = rig.start(&config);
    let (_, output, _) = exec(&*container, "e", process(&["sh", "-c", harm])).unwrap();
    assert!(output.ends_with("600\ndone\n") && !output.contains("of the host"), "{output}");
    // Where the container has put something else it gets an input that has ended.
    let swap = "rm /dev/null; mkfifo /dev/null; readlink /dev/fd/0";
    exec(&*container, "f", process(&["sh", "-c", swap])).unwrap();
    let (code, output, _) = exec(&*container, "g", process(&["sh", "-c", "readlink /dev/fd/0; cat"])).unwrap();
    assert!(code == 0 && output.starts_with("pipe:"), "{output}");
    container.kill_all().unwrap();
    container.wait().unwrap();
    assert_eq!(host(), before);
}

#[test]
fn the_container_sees_its_own_cgroup_and_host_name_only() {
    let Some(rig) = Rig::new() else { return };
    // cgroup v1, where the lone line of the empty cgroup2 says nothing, or v2, where it says all.
    let (_, output) = rig.script(
        "cd /sys/fs/cgroup; if [ -d memory ]; then grep -v ^0: /proc/self/cgroup; else cat /proc/self/cgroup; fi | \
         cut -d: -f3 | sort -u; ls -d memory/memory.limit_in_bytes memory.max 2>/dev/null",
    );
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("/"), "{output}");
    assert!(matches!(lines.next(), Some("memory/memory.limit_in_bytes" | "memory.max")), "{output}");
}

#[test]
fn binds_are_read_only_writable_files_and_mismatches() {
    let Some(rig) = Rig::new() else { return };
    let source = rig.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let mut config = rig.config("cat /a/file /new/place; touch /a/x 2>&1; touch /b/made; cat /etc/hostname");
    config.mounts.extend([
        bind(&source, "/a", true),
        bind(&source, "/b", false),
        bind(&source.join("file"), "/new/place", true),
        bind(&source.join("file"), "/etc/hostname", true),
    ]);
    let (exit, output) = rig.run(&config);
    assert_eq!(exit.code, 0);
    assert!(output.starts_with("contentcontent") && output.contains("Read-only"), "{output}");
    assert!(source.join("made").exists());
    let mut config = rig.config("true");
    config.mounts.push(bind(&source, "/etc/passwd", true));
    assert!(refused(&rig, config).to_string().contains("the source is a directory and the destination is a file"));
    let mut config = rig.config("true");
    config.mounts.push(bind(Path::new("/no/such/thing"), "/x", true));
    assert!(refused(&rig, config).to_string().contains("bind source path does not exist: /no/such/thing"));
}

#[test]
fn a_read_only_root_and_sysctls_and_a_seccomp_program_hold() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("touch /x 2>&1; touch /tmp/x 2>&1; touch /dev/shm/x && cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced");
    config.readonly_root = true;
    config.sysctls = vec![("net.ipv4.ip_forward".into(), "1".into()), ("kernel.shm_rmid_forced".into(), "1".into())];
    let (exit, output) = rig.run(&config);
    assert_eq!(exit.code, 0, "{output}");
    assert!(output.matches("Read-only").count() == 2 && output.ends_with("1\n1\n"), "{output}");
    let mut config = rig.config("true");
    config.sysctls = vec![("net.no.such".into(), "1".into())];
    assert!(matches!(refused(&rig, config), Error::Invalid(_)));
    let mut config = rig.config("true");
    config.sysctls = vec![("../../x".into(), "1".into())];
    refused(&rig, config);
    // Loads the number of the call; answers 83 (mkdir) with EPERM, everything else is allowed.
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([jt, jf]);
        bytes.extend(k.to_ne_bytes());
        bytes
    };
    let program: Vec<u8> = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, 83),
        instruction(0x06, 0, 0, 0x0005_0001),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ]
    .concat();
    for no_new_privileges in [false, true] {
        let mut config = rig.config("mkdir /tmp/d 2>&1; grep Seccomp: /proc/self/status");
        config.process.seccomp = Some(program.clone().into());
        config.process.no_new_privileges = no_new_privileges;
        let (_, output) = rig.run(&config);
        assert!(output.contains("not permitted") && output.ends_with("Seccomp:\t2\n"), "{output}");
    }
}

#[test]
fn rlimits_are_set_or_warned_about() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("ulimit -n; ulimit -c");
    let limit = |name: &str, soft, hard| libcontainer::config::Rlimit { name: name.into(), soft, hard };
    config.process.rlimits = vec![limit("RLIMIT_NOFILE", 100, 200), limit("RLIMIT_CORE", 0, 0)];
    assert_eq!(rig.run(&config).1, "100\n0\n");
    let mut config = rig.config("echo goes on");
    config.process.rlimits = vec![limit("RLIMIT_NPROC", u64::MAX, u64::MAX), limit("RLIMIT_NOFILE", 1 << 19, 1 << 19)];
    assert_eq!(rig.run(&config).1, "goes on\n");
}

#[test]
fn an_id_that_is_a_path_is_refused() {
    let Some(rig) = Rig::new() else { return };
    for id in ["../x", "a/b", "", ".hidden"] {
        let mut config = rig.config("true");
        config.id = id.into();
        assert!(matches!(refused(&rig, config), Error::Invalid(_)), "{id}");
        assert!(rig.driver().forget(id).is_err());
    }
}

#[test]
fn a_privileged_container_mounts_and_sees_devices() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("mkdir /m && mount -t tmpfs x /m && touch /m/x && echo mounted; echo 1 > /proc/sys/net/ipv4/ip_forward && echo written");
    config.process.capabilities = Capabilities::of(CapSet::ALL);
    config.masked_paths.clear();
    config.readonly_paths.clear();
    assert_eq!(rig.run(&config).1, "mounted\nwritten\n");
}
