//! Images in which something is not what it seems, or changes while it is used.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags};
use serde_json::{Value, json};

use crate::common::{ConsoleSocket, World};
use crate::{inside, run, run_line};

fn bind(source: &Path, destination: &str) -> Value {
    json!({"destination": destination, "type": "none", "source": source, "options": ["bind"]})
}

fn add_mount(world: &World, mount: Value) {
    world.configure(|config| config["mounts"].as_array_mut().unwrap().push(mount));
}

/// Leaves only the mounts of these destinations.
fn keep_mounts(world: &World, kept: &[&str]) {
    world.configure(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| kept.contains(&mount["destination"].as_str().unwrap()));
    });
}

/// Exchanges the names again and again while something is done.
fn exchanging(one: &Path, other: &Path, act: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Refused for a moment, when one of them is not there or busy.
                let _ = rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
            }
        });
        // Also when it panics, or the other thread would go on for ever.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Has every mount that the container's process makes on this directory of the host's, or below it, written to a file:
/// by a hook that sees both, after the mounts and before the root is the end of the world.
fn record_mounts_below(world: &World, outside: &Path) -> PathBuf {
    let record = PathBuf::from(world.file("mounts"));
    std::fs::write(&record, "").unwrap();
    let line = format!("grep -F ' {}' /proc/self/mountinfo >>{}; true", outside.display(), record.display());
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/bin:/bin"]});
    world.configure(|config| config["hooks"] = json!({"createContainer": [hook]}));
    record
}

/// CVE-2021-30465, CVE-2023-28642: a directory on the way to a mount's destination is a link to the host.
#[test]
fn a_link_on_the_way_to_a_mounts_destination_never_leads_outside() {
    let host = tempfile::tempdir().unwrap();
    let outside = host.path().join("outside");
    std::fs::create_dir_all(outside.join("there")).unwrap();
    std::fs::write(host.path().join("file"), "volume\n").unwrap();
    let mut world = World::new();
    symlink(&outside, inside(&world, "absolute")).unwrap();
    symlink(format!("../../../../../../../..{}", outside.display()), inside(&world, "relative")).unwrap();
    let places = ["/absolute/there", "/absolute/new", "/relative/there", "/relative/more"];
    places.iter().for_each(|place| add_mount(&world, bind(host.path(), place)));
    let record = record_mounts_below(&world, &outside);
    let ran = run_line(&mut world, &format!("cd /; for place in {}; do cat $place/file; done", places.join(" ")));
    assert_eq!(std::fs::read_to_string(record).unwrap(), "", "mounted outside of the root");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "something was made outside of the root");
    assert_eq!((ran.code, ran.out.as_str()), (0, "volume\nvolume\nvolume\nvolume\n"), "{ran:?}");
}

/// CVE-2021-30465, CVE-2019-19921: it becomes such a link while the container starts.
#[test]
fn a_destination_that_becomes_a_link_while_it_is_mounted_on_never_leads_outside() {
    const STARTS: usize = 60;
    let host = tempfile::tempdir().unwrap();
    let outside = host.path().join("outside");
    std::fs::create_dir_all(outside.join("deep/place")).unwrap();
    let mut world = World::new();
    let (directory, link) = (inside(&world, "data"), inside(&world, "link"));
    std::fs::create_dir_all(directory.join("deep/place")).unwrap();
    symlink(&outside, &link).unwrap();
    add_mount(&world, bind(host.path(), "/data/deep/place"));
    let record = record_mounts_below(&world, &outside);
    let escaped = || std::fs::read_to_string(&record).unwrap();
    world.program(&["true"]);
    let mut succeeded = 0;
    exchanging(&directory, &link, || {
        for _ in 0..STARTS {
            // It may fail when its directory goes away beneath it; it must not succeed elsewhere.
            succeeded += usize::from(run(&mut world).code == 0);
            if !escaped().is_empty() {
                break;
            }
        }
    });
    assert_eq!(escaped(), "", "mounted outside of the root");
    assert!(succeeded > 0, "no start succeeded: nothing was tried");
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: with `/proc` elsewhere what is masked later is not masked.
#[test]
fn proc_and_sys_that_are_links_of_the_image_are_refused() {
    for name in ["proc", "sys"] {
        let mut world = World::new();
        std::fs::remove_dir(inside(&world, name)).unwrap();
        std::fs::create_dir(inside(&world, "trap")).unwrap();
        symlink("/trap", inside(&world, name)).unwrap();
        let ran = run_line(&mut world, "ls /trap");
        assert!(ran.code != 0 && ran.err.contains("not an ordinary directory"), "{name}: {ran:?}");
        assert_eq!(ran.out, "", "{name}");
    }
}

/// CVE-2025-31133: what the image has as `/dev/null` is bound over the files that are to be masked, and so they stay what
/// they are, or become something else.
#[test]
fn only_a_null_device_is_put_over_what_is_masked_however_it_is_swapped() {
    const STARTS: usize = 60;
    let mut world = World::new();
    keep_mounts(&world, &["/proc"]);
    world.configure(|config| config["linux"]["maskedPaths"] = json!(["/proc/version"]));
    world.configure(|config| config["root"]["readonly"] = json!(false));
    let seen = "busybox stat -c %F /proc/version";
    assert_eq!(run_line(&mut world, seen).out, "character special file\n");
    let (null, other) = (inside(&world, "dev/null"), inside(&world, "dev/other"));
    std::fs::write(&other, "of the image").unwrap();
    let mut succeeded = 0;
    exchanging(&null, &other, || {
        for _ in 0..STARTS {
            let ran = run(&mut world);
            assert!(ran.code != 0 || ran.out == "character special file\n", "{ran:?}");
            succeeded += usize::from(ran.code == 0);
        }
    });
    assert!(succeeded > 0, "no start succeeded: nothing was tried");
}

/// CVE-2025-52565: the terminal is bound over whatever `/dev/console` leads to, before that is masked.
#[test]
fn a_console_that_is_a_link_of_the_image_is_refused() {
    let mut world = World::new();
    keep_mounts(&world, &["/proc", "/dev/pts"]);
    std::fs::create_dir(inside(&world, "dev/pts")).unwrap();
    std::fs::write(inside(&world, "victim"), "").unwrap();
    symlink("/victim", inside(&world, "dev/console")).unwrap();
    world.configure(|config| config["process"]["terminal"] = json!(true));
    world.program(&["true"]);
    let socket = ConsoleSocket::new(&world);
    let id = world.id();
    let created = world.command(&["create", "--console-socket", &socket.path, &id]);
    assert!(created.code != 0 && created.err.contains("/dev/console"), "{created:?}");
}
