//! The conformance suite: every driver keeps the same promises, seen through a real mount.
//!
//! The mounts are detached: they are attached nowhere, and gone with their descriptor.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(clippy::print_stderr, reason = "what is skipped is said loudly")]
#![allow(missing_docs, reason = "tests")]

mod archives;
mod bench;
mod devices;
mod files;
#[path = "../image/mod.rs"]
mod image;
mod layers;
mod removal;
mod verify;

use std::fs;
use std::sync::Mutex;

use archives::*;
use files::*;
use layers::*;
use removal::*;
use verify::*;

/// Whether the machine has what the driver's tests need; says loudly what it lacks.
pub fn can_test(driver: &str) -> bool {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let has = |program: &str| std::process::Command::new(program).arg("-V").output().is_ok();
    let lacks = match driver {
        "btrfs" if !has("mkfs.btrfs") => "mkfs.btrfs is not installed (Debian: btrfs-progs)",
        "devmapper" | "devmapper_xfs" if gantry_linux::dm::Control::open().is_err() => {
            "the kernel has no device mapper"
        }
        "aufs" if !fs::read_to_string("/proc/filesystems").unwrap().contains("\taufs\n") => "the kernel has no aufs",
        "devmapper" if !has("mkfs.ext4") => "mkfs.ext4 is not installed (Debian: e2fsprogs)",
        "devmapper_xfs" if !has("mkfs.xfs") => "mkfs.xfs is not installed (Debian: xfsprogs)",
        _ => return true,
    };
    let mut said = SAID.lock().unwrap();
    if !said.iter().any(|name| name == driver) {
        said.push(driver.to_owned());
        let line = format!("SKIPPED: the suite of the graphdriver {driver}: {lacks}");
        eprintln!("{line}");
        if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
            let mut list = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            std::io::Write::write_all(&mut list, format!("{line}\n").as_bytes()).unwrap();
        }
    }
    false
}

macro_rules! suite {
    ($($driver:ident)*; $promises:tt) => { $(suite!(@driver $driver $promises);)* };
    (@driver $driver:ident { $($promise:ident)* }) => {
        mod $driver {
            $(#[test]
            fn $promise() {
                if super::can_test(stringify!($driver)) {
                    super::$promise(stringify!($driver));
                }
            })*
        }
    };
}

suite! {
    overlay vfs btrfs devmapper devmapper_xfs; {
        layers_show_through
        writable_layers_keep_changes_to_themselves
        what_an_engine_makes_for_its_mounts_is_not_told
        what_is_copied_up_and_not_changed_is_not_told
        special_files_survive_the_round_trip
        hard_links_reach_into_layers_below
        deep_stacks_of_layers_are_one_root
        where_a_layer_lies_is_told_in_dockers_words
        removed_layers_are_gone_at_once
        drafts_of_the_dead_are_removed
        sparse_copies_stay_sparse
        archives_of_gnu_tar_are_read
        gnu_tar_reads_what_is_written
        a_layer_gives_back_its_archive_byte_for_byte
        a_mapped_writable_layer_is_its_users_and_its_diff_is_as_they_see_it
        drafts_are_placed_late_and_become_layers_together
        what_leads_through_links_and_what_is_replaced_is_told_of_no_whole_layer
        a_good_layer_takes_the_place_of_a_damaged_one_and_who_has_that_keeps_it
    }
}

// Names in aufs have 247 bytes at most, and nothing maps its users.
suite! {
    aufs; {
        layers_show_through
        writable_layers_keep_changes_to_themselves
        hard_links_reach_into_layers_below
        deep_stacks_of_layers_are_one_root
        removed_layers_are_gone_at_once
        drafts_of_the_dead_are_removed
        sparse_copies_stay_sparse
        a_layer_gives_back_its_archive_byte_for_byte
        a_good_layer_takes_the_place_of_a_damaged_one_and_who_has_that_keeps_it
    }
}
