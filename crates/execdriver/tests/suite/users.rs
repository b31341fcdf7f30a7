//! Containers with a user namespace of their own.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_execdriver::Users;
use gantry_linux::mount::RootMount;
use libcontainer::config::{Config, MountMapping, Namespace};

use crate::common::{MAPPED, Rig, bind, eventually, exec, process};

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let stat = std::fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

fn upper(config: &Config) -> PathBuf {
    let RootMount::Mapped { root, .. } = &config.root else { panic!("not mapped") };
    let RootMount::Overlay { upper: Some(upper), .. } = &**root else { panic!("no overlay") };
    upper.upper.clone()
}

#[test]
fn its_users_are_others_outside_and_everything_of_it_is_theirs() {
    let Some(rig) = Rig::new() else { return };
    let script = "cat /proc/self/uid_map; id -u; stat -c %u /bin/busybox; echo x >> /etc/passwd; mkdir /new; \
                  echo again > /dev/stdout; for p in net uts ipc pid mnt cgroup; do readlink /proc/self/ns/$p; done; exec sleep 60";
    let config = rig.mapped(script);
    let container = rig.start(&config);
    eventually("the output", || rig.output(&config).lines().count() == 10);
    let output = rig.output(&config);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["0", "500000", "65536"]);
    assert_eq!(lines[1..4], ["0", "0", "again"]);
    for (name, line) in ["net", "uts", "ipc", "pid", "mnt", "cgroup"].iter().zip(&lines[4..]) {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(own.to_str(), Some(*line), "{name} is the host's");
    }
    for path in ["etc/passwd", "new"] {
        assert_eq!(owner(upper(&config).join(path)), (MAPPED, MAPPED), "{path}");
    }
    assert_eq!(owner(format!("/proc/{}", container.pid())), (MAPPED, MAPPED));
    // What is seen from outside is whose it is outside.
    let root = container.root().unwrap();
    assert_eq!(owner(format!("/proc/self/fd/{}/bin/busybox", root.as_raw_fd())), (MAPPED, MAPPED));
    container.kill_all().unwrap();
    assert_eq!(container.wait().unwrap().code, 137);
}

#[test]
fn its_execs_are_in_its_user_namespace_also_when_the_daemon_is_another_one() {
    let Some(mut rig) = Rig::new() else { return };
    let config = rig.mapped("exec sleep 60");
    let container = rig.start(&config);
    let script = "id -u; cat /proc/self/uid_map; touch /made; echo s > /dev/stderr";
    let (code, out, err) = exec(&*container, "e", process(&["sh", "-c", script])).unwrap();
    assert_eq!((code, err.as_str()), (0, "s\n"));
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "0", "500000", "65536"]);
    assert_eq!(owner(upper(&config).join("made")), (MAPPED, MAPPED));
    drop(container);
    rig.driver = None;
    rig.driver = Some(rig.new_driver());
    let container = rig.driver().restore(&config.id).unwrap();
    let mut web = process(&["sh", "-c", "id -u; echo again > /dev/stdout"]);
    web.user = "web".into();
    assert_eq!(exec(&*container, "f", web).unwrap(), (0, "1000\nagain\n".into(), String::new()));
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn binds_are_mapped_as_they_say_and_stay_plain_where_they_cannot_be() {
    let Some(rig) = Rig::new() else { return };
    let host = rig.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("a"), "").unwrap();
    let mut config =
        rig.mapped("stat -c %u:%g /host/a; touch /host/b; stat -c %u /kernel; stat -c %u /plain/a; touch /plain/c");
    let mapped = MountMapping { recursive: true, optional: true, ..MountMapping::default() };
    for (source, destination, mapped) in [
        (host.as_path(), "/host", Some(mapped.clone())),
        (Path::new("/sys/kernel"), "/kernel", Some(mapped)),
        (&host, "/plain", None),
    ] {
        config.mounts.push(libcontainer::config::Mount { mapped, ..bind(source, destination, false) });
    }
    let (exit, output) = rig.run(&config);
    assert!(output.starts_with("0:0\n65534\n65534\n") && output.contains("Permission denied"), "{output}");
    assert_ne!(exit.code, 0, "what is not mapped is not its own");
    assert_eq!(owner(host.join("b")), (0, 0));
    assert!(!host.join("c").exists());
}

#[test]
fn another_one_can_share_its_users_with_its_network_or_its_processes() {
    let Some(rig) = Rig::new() else { return };
    let first = rig.start(&rig.mapped("exec sleep 60"));
    let space = |kind: &str| PathBuf::from(format!("/proc/{}/ns/{kind}", first.pid()));
    let id = |kind: &str| std::fs::read_link(space(kind)).unwrap().to_str().unwrap().to_owned();
    for (shared, script) in [
        ("net", "cd /proc/self/ns; for kind in user net; do readlink $kind; done"),
        ("pid", "cd /proc/self/ns; for kind in user pid; do readlink $kind; done"),
    ] {
        let mut config = rig.mapped(script);
        config.namespaces.user = Namespace::Path(space("user"));
        let of = if shared == "net" { &mut config.namespaces.net } else { &mut config.namespaces.pid };
        *of = Namespace::Path(space(shared));
        let (exit, output) = rig.run(&config);
        assert_eq!((exit.code, output), (0, format!("{}\n{}\n", id("user"), id(shared))));
    }
    first.kill_all().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_mapping_without_root_or_with_a_range_that_is_none_is_refused_and_the_sandbox_is_as_before() {
    let Some(rig) = Rig::new() else { return };
    let mut sandbox = rig.driver().prepare().unwrap();
    let RootMount::Mapped { mut map, .. } = rig.mapped("true").root else { panic!("not mapped") };
    map.uids = vec![(1, MAPPED, 10)];
    let error = sandbox.map_users(&Users { map: map.clone(), of: None }).unwrap_err();
    assert!(error.to_string().contains("no user 0"), "{error}");
    map.uids = vec![(0, MAPPED, 10), (5, 1, 10)];
    let error = sandbox.map_users(&Users { map, of: None }).unwrap_err();
    assert!(error.to_string().contains("uid_map"), "{error}");
    let config = rig.config("id -u");
    let log = gantry_execdriver::LogFile { path: rig.log_path(&config), max_size: None, max_files: 1 };
    let start = gantry_execdriver::Start {
        config: config.clone(),
        log: Some(log),
        open_stdin: false,
        stdin_once: false,
        attached: vec![],
    };
    assert_eq!(sandbox.start(start).unwrap().wait().unwrap().code, 0);
    assert_eq!(rig.output(&config), "0\n");
}
