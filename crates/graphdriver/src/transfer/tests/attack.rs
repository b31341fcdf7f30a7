//! A process of the container that swaps directories and files for links to the host while files are copied
//! (CVE-2018-15664, CVE-2019-10152).

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{RenameFlags, renameat_with};
use tar::EntryType::{Directory, Fifo, Regular, Symlink};

use super::super::Error;
use super::{CANARY, Place, archive};

const ROUNDS: usize = 10_000;

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `round` while another thread exchanges each pair of names in the root, over and over.
fn under_attack(place: &Place, pairs: &[(&str, &str)], mut round: impl FnMut()) {
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    // While an entry is being replaced there is nothing to exchange.
                    if renameat_with(&place.root, *one, &place.root, *other, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        // Also when a round fails: the scope waits for its thread.
        let _stop = Stop(&stop);
        (0..ROUNDS).for_each(|_| round());
    });
    assert!(swaps.load(Ordering::Relaxed) > 100, "the attack did not run");
    place.check_canary();
}

fn reads_canary(archive: &[u8]) -> bool {
    archive.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

fn arena() -> Place {
    let place = Place::new();
    fs::create_dir_all(place.at("top/dir")).unwrap();
    fs::write(place.at("top/dir/f"), "inside").unwrap();
    fs::write(place.at("top/file"), "inside").unwrap();
    symlink(place.outside(), place.at("top/out")).unwrap();
    symlink(place.outside().join("f"), place.at("top/outfile")).unwrap();
    symlink("../../outside", place.at("top/outup")).unwrap();
    place
}

#[test]
fn nothing_of_the_host_is_read_while_directories_turn_into_links() {
    let place = arena();
    let pairs = [("top/dir", "top/out"), ("top/file", "top/outfile"), ("top/dir", "top/outup")];
    let (mut read, mut missed) = (0, 0);
    under_attack(&place, &pairs, || {
        for path in ["/top/dir/f", "/top", "/top/file", "/top/dir/."] {
            match place.pack(path, "x") {
                Ok(packed) => {
                    assert!(!reads_canary(&packed), "{path} read the host's file");
                    read += 1;
                }
                Err(Error::NotFound(_) | Error::NotDirectory(_)) => missed += 1,
                Err(other) => panic!("{path}: {other}"),
            }
        }
    });
    assert!(read > 0 && missed > 0, "{read} read, {missed} missed: no race was run");
}

#[test]
fn nothing_of_the_host_is_written_while_directories_turn_into_links() {
    let place = arena();
    let pairs = [("top/dir", "top/out"), ("top/file", "top/outfile"), ("top/dir", "top/outup")];
    let into = archive(&[(Regular, "new", "", "bad"), (Regular, "f", "", "bad"), (Directory, "made", "", "")]);
    let through = archive(&[
        (Regular, "dir/new", "", "bad"),
        (Regular, "dir/deep/er", "", "bad"),
        (Directory, "dir/made", "", ""),
        (Symlink, "dir/link", "x", ""),
    ]);
    let (mut written, mut missed) = (0, 0);
    under_attack(&place, &pairs, || {
        for (directory, archive) in [("/top/dir", &into), ("/top", &through)] {
            match place.unpack(directory, archive) {
                Ok(_) => written += 1,
                Err(_) => missed += 1,
            }
        }
    });
    assert!(written > 0 && missed > 0, "{written} written, {missed} missed: no race was run");
}

#[test]
fn owner_and_mode_never_reach_a_link_that_took_the_place_of_a_new_entry() {
    let place = arena();
    let archive = archive(&[(Regular, "x", "", "bad"), (Directory, "y", "", ""), (Fifo, "z", "", "")]);
    symlink(place.outside().join("f"), place.at("link")).unwrap();
    symlink(place.outside(), place.at("other")).unwrap();
    symlink(place.outside().join("f"), place.at("third")).unwrap();
    place.unpack("/", &archive).unwrap();
    let mut written = 0;
    under_attack(&place, &[("x", "link"), ("y", "other"), ("z", "third")], || {
        written += usize::from(place.unpack("/", &archive).is_ok());
        for (name, target) in [("link", "f"), ("other", ""), ("third", "f")] {
            // What was a link may have been replaced: the attack needs it again.
            let missing = fs::symlink_metadata(place.at(name)).is_ok_and(|metadata| !metadata.is_symlink())
                && fs::remove_file(place.at(name)).or_else(|_| fs::remove_dir(place.at(name))).is_ok();
            if missing {
                let _ = symlink(place.outside().join(target), place.at(name));
            }
        }
    });
    assert!(written > 0);
}
