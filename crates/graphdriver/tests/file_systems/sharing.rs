//! Copies that share their blocks.

use std::fs;

use crate::place::{BTRFS, FileSystem, MIB, XFS, base, open, place, root};

/// A base of 8 MiB, four times.
fn vfs_copies_take_no_space_until_they_are_written_to(file_system: &FileSystem) {
    let Some(place) = place(file_system) else { return };
    let driver = open(&place.mounted(), "vfs", &[]).unwrap();
    base(&*driver);
    let mounted = fs::File::open(place.mounted()).unwrap();
    let free = || {
        rustix::fs::syncfs(&mounted).unwrap();
        let found = rustix::fs::fstatvfs(&mounted).unwrap();
        found.f_bfree * found.f_frsize
    };
    let before = free();
    for id in ["a", "b", "c", "d"] {
        driver.create_writable(id, Some("base"), None).unwrap();
    }
    let taken = before.saturating_sub(free());
    assert!(taken < 4 * MIB, "{taken}");
    let (_mount, copy) = root(&*driver, "a");
    fs::write(copy.join("base"), "mine").unwrap();
    assert_eq!(root(&*driver, "b").1.join("base").metadata().unwrap().len(), 8 * MIB);
    assert_eq!(fs::read(copy.join("base")).unwrap(), b"mine");
}

#[test]
fn vfs_on_btrfs_copies_take_no_space_until_they_are_written_to() {
    vfs_copies_take_no_space_until_they_are_written_to(&BTRFS);
}

#[test]
fn vfs_on_xfs_copies_take_no_space_until_they_are_written_to() {
    vfs_copies_take_no_space_until_they_are_written_to(&XFS);
}
