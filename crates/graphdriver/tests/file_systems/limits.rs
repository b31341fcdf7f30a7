//! Limits of writable layers.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use gantry_graphdriver::Error;
use gantry_linux::quota::{self, Usage};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::image::run;
use crate::place::{BTRFS, EXT4_QUOTA, FileSystem, MIB, XFS_QUOTA, base, open, place, root};

/// Writes up to so many bytes as a container's process does, without the right to go past quotas; returns how many went in
/// and why no more.
fn write(path: &Path, bytes: u64) -> (u64, Option<Errno>) {
    let writer = || {
        let mut held = capabilities(None).unwrap();
        held.effective -= CapabilitySet::SYS_RESOURCE;
        set_capabilities(None, held).unwrap();
        let mut file = fs::File::create(path).map_err(|error| (0, error))?;
        let block = vec![b'x'; 64 << 10];
        for at in (0..bytes).step_by(block.len()) {
            file.write_all(&block).map_err(|error| (at, error))?;
        }
        file.sync_all().map_err(|error| (bytes, error))
    };
    let written = std::thread::scope(|scope| scope.spawn(writer).join().unwrap());
    match written {
        Ok(()) => (bytes, None),
        Err((at, error)) => (at, error.raw_os_error().map(Errno::from_raw_os_error)),
    }
}

fn assert_stops(path: &Path, most: u64) {
    let (written, error) = write(path, 64 * MIB);
    assert!(matches!(error, Some(Errno::DQUOT | Errno::NOSPC)), "{error:?} after {written}");
    assert!((most / 2..=most).contains(&written), "{written} of {most}");
}

fn a_writer_stops_at_its_limit_and_others_go_on(file_system: &FileSystem, name: &str) {
    let Some(place) = place(file_system) else { return };
    let driver = open(&place.mounted(), name, &[]).unwrap();
    base(&*driver);
    driver.create_writable("small", Some("base"), Some(4 * MIB)).unwrap();
    driver.create_writable("free", Some("base"), None).unwrap();
    let ((small, at), (free, beside)) = (root(&*driver, "small"), root(&*driver, "free"));
    assert_eq!(write(&at.join("fits"), 2 * MIB), (2 * MIB, None));
    assert_stops(&at.join("more"), 2 * MIB);
    assert_eq!(write(&beside.join("much"), 32 * MIB), (32 * MIB, None));
    fs::remove_file(at.join("more")).unwrap();
    // btrfs gives the space back with the transaction.
    rustix::fs::syncfs(fs::File::open(&at).unwrap()).unwrap();
    assert_eq!(write(&at.join("again"), MIB), (MIB, None));
    drop((small, free));

    // The limit is the layer's, whoever opens the store.
    drop(driver);
    let driver = open(&place.mounted(), name, &[]).unwrap();
    let (_small, at) = root(&*driver, "small");
    assert_stops(&at.join("more"), MIB);
}

fn the_project(home: &Path, driver: &str, id: &str) -> u32 {
    let layer = home.join(driver).join("layers").join(id);
    let number = |part| quota::project(fs::File::open(layer.join(part)).unwrap()).unwrap().unwrap();
    if driver == "vfs" {
        return number("root");
    }
    assert_eq!(number("diff"), number("work"));
    number("diff")
}

fn projects_are_free_when_their_layers_are_gone_and_never_shared(file_system: &FileSystem, name: &str) {
    let Some(place) = place(file_system) else { return };
    let driver = open(&place.mounted(), name, &[]).unwrap();
    base(&*driver);
    let (home, beside) = (place.mounted(), place.mounted().join("beside"));
    let other = open(&beside, name, &[]).unwrap();
    let mut numbers = std::collections::BTreeSet::new();
    for id in ["a", "b", "c"] {
        driver.create_writable(id, Some("base"), Some(4 * MIB)).unwrap();
        other.create_writable(id, None, Some(4 * MIB)).unwrap();
        numbers.extend([the_project(&home, name, id), the_project(&beside, name, id)]);
    }
    drop(driver);
    // A daemon that starts anew finds those that are in use.
    let driver = open(&place.mounted(), name, &[]).unwrap();
    driver.create_writable("d", Some("base"), Some(4 * MIB)).unwrap();
    numbers.insert(the_project(&home, name, "d"));
    assert_eq!(numbers.len(), 7);
    let store = fs::File::open(&home).unwrap();
    let number = the_project(&home, name, "a");
    assert!(quota::usage(&store, number).unwrap().limit >= 4 * MIB);
    driver.remove("a").unwrap();
    driver.sweep(false).unwrap();
    assert_eq!(quota::usage(&store, number).unwrap().limit, 0);
    // xfs takes the files apart in the background.
    let end = Instant::now() + Duration::from_secs(20);
    while quota::usage(&store, number).unwrap() != Usage::default() {
        assert!(Instant::now() < end, "{:?}", quota::usage(&store, number));
        std::thread::yield_now();
    }
    // What could not be made leaves nothing either.
    assert!(driver.create_writable("x", Some("none"), Some(MIB)).is_err());
    driver.sweep(false).unwrap();
    let unlimited = quota::project(fs::File::open(place.mounted().join(name)).unwrap()).unwrap().unwrap();
    driver.create_writable("plain", Some("base"), Some(0)).unwrap();
    assert_eq!(the_project(&home, name, "plain"), unlimited);
}

fn the_daemons_limit_is_that_of_containers_that_say_none(file_system: &FileSystem, name: &str, option: &str) {
    let Some(place) = place(file_system) else { return };
    let driver = open(&place.mounted(), name, &[option]).unwrap();
    driver.create_writable("default", None, None).unwrap();
    driver.create_writable("own", None, Some(0)).unwrap();
    assert_stops(&root(&*driver, "default").1.join("f"), 4 * MIB);
    assert_eq!(write(&root(&*driver, "own").1.join("f"), 16 * MIB), (16 * MIB, None));
}

#[test]
fn quota_groups_go_with_their_subvolumes_and_come_with_the_first_limit() {
    let Some(place) = place(&BTRFS) else { return };
    let driver = open(&place.mounted(), "btrfs", &["btrfs.min_space=1m"]).unwrap();
    base(&*driver);
    driver.create_writable("free", Some("base"), None).unwrap();
    let show =
        || run(&["btrfs".as_ref(), "qgroup".as_ref(), "show".as_ref(), "--raw".as_ref(), place.mounted().as_os_str()]);
    assert!(show().is_err(), "nobody asked for a limit");
    let error = driver.create_writable("web", Some("base"), Some(1000)).unwrap_err();
    assert!(error.to_string().contains("1000 bytes are less than btrfs.min_space, 1048576"), "{error}");
    assert!(show().is_err(), "and nothing was made for one that was refused");
    let groups = || show().unwrap().lines().filter(|line| line.starts_with("0/")).count();
    driver.create_writable("web", Some("base"), Some(4 * MIB)).unwrap();
    let before = groups();
    for round in 0..3 {
        let id = format!("more-{round}");
        driver.create_writable(&id, Some("base"), Some(4 * MIB)).unwrap();
        driver.remove(&id).unwrap();
    }
    driver.remove("web").unwrap();
    driver.sweep(false).unwrap();
    run(&["btrfs".as_ref(), "subvolume".as_ref(), "sync".as_ref(), place.mounted().as_os_str()]).unwrap();
    // Some kernels let a group go only when it is seen to be empty: then a later sweep removes it.
    let end = Instant::now() + Duration::from_secs(20);
    while groups() != before - 1 {
        assert!(Instant::now() < end, "{}", show().unwrap());
        rustix::fs::syncfs(fs::File::open(place.mounted()).unwrap()).unwrap();
        driver.sweep(false).unwrap();
    }
    // What the kernel removed itself is noted no longer either.
    driver.sweep(false).unwrap();
    assert!(!place.mounted().join("btrfs/groups").exists());
}

#[test]
fn a_file_system_without_project_quotas_is_named_with_what_to_do() {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["overlay", "vfs"] {
        let driver = open(root.path(), name, &[]).unwrap();
        let error = driver.create_writable("web", None, Some(4 * MIB)).unwrap_err();
        assert!(matches!(error, Error::NoLimit { .. }));
        let said = error.to_string();
        for word in [name, "tmpfs", "pquota", "btrfs"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(driver.list().unwrap().is_empty());
        driver.create_writable("web", None, Some(0)).unwrap();
        drop(driver);
        let error = open(root.path(), name, &["size=1g"]).err().unwrap().to_string();
        assert!(error.contains("storage option size=1g") && error.contains("pquota"), "{error}");
    }
}

mod btrfs {
    #[test]
    fn a_writer_stops_at_its_limit_and_others_go_on() {
        super::a_writer_stops_at_its_limit_and_others_go_on(&super::BTRFS, "btrfs");
    }
}

macro_rules! projects {
    ($($module:ident: $file_system:ident $driver:literal $option:literal;)*) => {$(
        mod $module {
            #[test]
            fn a_writer_stops_at_its_limit_and_others_go_on() {
                super::a_writer_stops_at_its_limit_and_others_go_on(&super::$file_system, $driver);
            }

            #[test]
            fn projects_are_free_when_their_layers_are_gone_and_never_shared() {
                super::projects_are_free_when_their_layers_are_gone_and_never_shared(&super::$file_system, $driver);
            }

            #[test]
            fn the_daemons_limit_is_that_of_containers_that_say_none() {
                super::the_daemons_limit_is_that_of_containers_that_say_none(&super::$file_system, $driver, $option);
            }
        }
    )*};
}

projects! {
    overlay_on_xfs: XFS_QUOTA "overlay" "overlay2.size=4m";
    overlay_on_ext4: EXT4_QUOTA "overlay" "overlay.size=4m";
    vfs_on_xfs: XFS_QUOTA "vfs" "size=4m";
    vfs_on_ext4: EXT4_QUOTA "vfs" "vfs.size=4m";
}
