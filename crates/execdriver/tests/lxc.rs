//! The suite that every driver passes, with the lxc driver.
#![allow(clippy::disallowed_methods, reason = "tests use the standard library plainly")]
#![allow(unsafe_code, reason = "the test binary is its own template: see common")]

#[path = "suite/attributes.rs"]
mod attributes;
mod common;
#[path = "suite/hostile.rs"]
mod hostile;
#[path = "suite/life.rs"]
mod life;
#[path = "suite/museum.rs"]
mod museum;
#[path = "suite/recovery.rs"]
mod recovery;

const DRIVER: &str = "lxc";

/// A program in LXC's place.
fn pretend(rig: &common::Rig, script: &str) -> gantry_execdriver::lxc::Tools {
    use std::os::unix::fs::PermissionsExt;
    let start = rig.dir.path().join("lxc-start");
    std::fs::write(&start, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&start, PermissionsExt::from_mode(0o755)).unwrap();
    gantry_execdriver::lxc::Tools { start, version: "5.0".into() }
}

#[test]
fn an_old_lxc_is_refused_with_the_packages_name() {
    let Some(rig) = common::Rig::new() else { return };
    let tools = pretend(&rig, "echo 4.0.11");
    let error = gantry_execdriver::lxc::Tools::at(tools.start).unwrap_err().to_string();
    assert!(error.contains("4.0.11") && error.contains("package lxc"), "{error}");
}

#[test]
fn why_lxc_gave_up_is_told_and_nothing_stays() {
    let Some(mut rig) = common::Rig::new() else { return };
    let cgroups = std::path::PathBuf::from("/sys/fs/cgroup");
    let scripts = [
        ("exit 3", "it left no message"),
        (
            "for a; do case $a in --logfile=*) echo 'lxc-start c 2026 ERROR    conf - ../conf.c:f:1 - No such thing' \
             > ${a#*=};; esac; done; exit 1",
            "No such thing",
        ),
        // What is no hello is not taken for one.
        ("echo hello >&0; exit 0", "message"),
    ];
    for (script, told) in scripts {
        let tools = pretend(&rig, script);
        rig.driver = None;
        rig.driver = Some(Box::new(gantry_execdriver::lxc::Lxc::with(rig.options(), tools).unwrap()));
        let config = rig.config("true");
        let error = rig.start_with(config.clone(), |_| ()).map(drop).unwrap_err().to_string();
        assert!(error.contains(told), "{script}: {error}");
        assert!(!rig.dir.path().join("run/c").join(&config.id).exists());
        for hierarchy in std::fs::read_dir(&cgroups).unwrap().flatten() {
            let parent = hierarchy.path().join(&rig.cgroup[1..]);
            for name in [config.id.clone(), format!("@lxc-{}", config.id)] {
                assert!(!parent.join(&name).exists(), "{} is left", parent.join(&name).display());
            }
        }
    }
}

#[test]
fn what_lxc_cannot_do_is_refused_before_anything_is_made() {
    use libcontainer::config::Namespace;
    let Some(rig) = common::Rig::new() else { return };
    let change: [fn(&mut libcontainer::config::Config); 4] = [
        |config| config.namespaces.user = Namespace::New,
        |config| config.namespaces.time = Namespace::New,
        |config| config.namespaces.mount = Namespace::Host,
        |config| config.hostname = "box\nlxc.hook.pre-start = /bin/sh".into(),
    ];
    for change in change {
        let mut config = rig.config("true");
        change(&mut config);
        let error = rig.start_with(config, |_| ()).map(drop).unwrap_err();
        let gantry_execdriver::Error::Invalid(text) = &error else { panic!("{error:?}") };
        assert!(text.starts_with("the lxc execdriver cannot "), "{text}");
    }
    assert_eq!(rig.driver().list().unwrap(), Vec::<String>::new());
}

#[test]
fn a_start_leaves_nothing_of_lxcs_but_the_configuration_to_read() {
    let Some(rig) = common::Rig::new() else { return };
    let config = rig.config("exec sleep 60");
    let container = rig.start(&config);
    let directory = rig.dir.path().join("run/c").join(&config.id);
    let told = std::fs::read_to_string(directory.join("lxc.conf")).unwrap();
    assert!(told.contains("lxc.uts.name = box\n"), "{told}");
    assert!(!directory.join("lxc.log").exists());
    assert!(!std::path::Path::new("/run/lxc/lock").exists() || !locks_of(&directory), "LXC's lock is left");
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let monitor = hierarchy.path().join(&rig.cgroup[1..]).join(format!("@lxc-{}", config.id));
        assert!(!monitor.exists(), "{} is left", monitor.display());
    }
    // No process of LXC's is there: the container's parent is its supervisor.
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    assert_eq!(std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap(), "gantry-sup\n");
    // Its command socket is an abstract one: none may be in the container's network namespace.
    let sockets = common::exec(&*container, "e", common::process(&["cat", "/proc/net/unix"])).unwrap().1;
    assert!(sockets.starts_with("Num") && !sockets.contains("lxc"), "{sockets}");
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn ten_at_once_start_and_end() {
    let Some(rig) = common::Rig::new() else { return };
    let configs: Vec<_> = (0..10).map(|number| rig.config(&format!("echo {number}; exit {number}"))).collect();
    let driver = rig.driver();
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let run = |config: &libcontainer::config::Config| {
            let start = gantry_execdriver::Start {
                config: config.clone(),
                log: None,
                open_stdin: false,
                stdin_once: false,
                attached: vec![],
            };
            driver.prepare().unwrap().start(start).unwrap().wait().unwrap().code
        };
        let threads: Vec<_> = configs.iter().map(|config| scope.spawn(move || run(config))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(codes, (0..10).collect::<Vec<_>>());
}

fn locks_of(directory: &std::path::Path) -> bool {
    std::path::Path::new("/run/lxc/lock").join(directory.strip_prefix("/").unwrap()).exists()
}
