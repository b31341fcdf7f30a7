//! Scratch file systems that go with the thread, and copies of stores on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_graph::Graph;

use crate::common;

/// What btrfs has layers in, which are subvolumes.
const SUBVOLUMES: [&str; 3] = ["layers", "drafts", "trash"];

/// A file system in memory, mounted in a mount namespace of the calling thread (and of those that it starts).
pub fn scratch(name: &str) -> PathBuf {
    gantry_linux::process::unshare(gantry_linux::process::CloneFlags::NEWNS).unwrap();
    run("mount", &["--make-rprivate", "/"]);
    // The mount hides the directory's content from this thread only; it is empty.
    let place = Path::new("/mnt");
    run("mount", &["-t", "tmpfs", "-o", "mode=755", &format!("gantry-{name}"), "/mnt"]);
    place.to_path_buf()
}

/// A btrfs on a file in `scratch`, mounted there.
pub fn btrfs(scratch: &Path) -> PathBuf {
    let (image, mounted) = (scratch.join("btrfs.img"), scratch.join("btrfs"));
    std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    std::fs::create_dir(&mounted).unwrap();
    run("mkfs.btrfs", &["-q", image.to_str().unwrap()]);
    run("mount", &["-o", "loop", image.to_str().unwrap(), mounted.to_str().unwrap()]);
    mounted
}

/// Unmounts at once what a process that was just made, for another thread, may hold open until it executes its program.
pub fn unmount(place: &Path) {
    run("umount", &["--lazy", place.to_str().unwrap()]);
}

/// Copies a store that nobody has open: inodes become others, all else stays.
pub fn store(from: &Path, to: &Path, driver: &str) {
    if driver != "btrfs" {
        return run("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
    }
    // Layers are subvolumes.
    for part in ["", driver] {
        if !from.join(part).exists() {
            continue;
        }
        std::fs::create_dir(to.join(part)).unwrap();
        let names = std::fs::read_dir(from.join(part)).unwrap().map(|entry| entry.unwrap().file_name());
        let own = |name: &std::ffi::OsString| name == driver || SUBVOLUMES.iter().any(|own| name == *own);
        let mut paths: Vec<_> = names.filter(|name| !own(name)).map(|name| from.join(part).join(name)).collect();
        paths.push(to.join(part));
        // All at once: to start a program takes longer than to copy.
        let paths: Vec<_> = paths.iter().filter_map(|path| path.to_str()).collect();
        if paths.len() > 1 {
            run("cp", &[&["-a"], &paths[..]].concat());
        }
    }
    for part in SUBVOLUMES {
        let (from, to) = (from.join(driver).join(part), to.join(driver).join(part));
        if !from.exists() {
            continue;
        }
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            gantry_linux::btrfs::snapshot(&entry.path(), &to.join(entry.file_name())).unwrap();
        }
    }
}

/// Removes a copy.
pub fn remove(root: &Path, driver: &str) {
    if driver == "btrfs" {
        for part in SUBVOLUMES.iter().filter(|part| root.join(driver).join(part).exists()) {
            for entry in std::fs::read_dir(root.join(driver).join(part)).unwrap() {
                gantry_linux::btrfs::delete(&entry.unwrap().path()).unwrap();
            }
        }
    }
    std::fs::remove_dir_all(root).unwrap();
}

/// Opens a store that this process had open just now: a process that it made meanwhile, for another thread, may have the lock
/// until it executes its program.
pub fn reopen(root: &Path, driver: &str) -> Graph {
    let lock = std::fs::File::open(root.join(driver).join("lock")).unwrap();
    lock.lock().unwrap();
    lock.unlock().unwrap();
    common::open(root, driver)
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}
