//! A file system that is really too small, and one that is full to its last block.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_graph::{Error, Graph};

use crate::common::{self, Source, debian, name, tar};
use crate::copy;

const DRIVERS: [&str; 2] = ["overlay", "btrfs"];
/// Room for the small image, not for the large one.
const SIZE: u64 = 32 << 20;

/// A file system that is as small, which the driver is for.
fn small(scratch: &Path, driver: &str) -> PathBuf {
    let place = scratch.join(gantry_linux::fs::unique());
    let image = place.with_extension("img");
    std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
    std::fs::create_dir(&place).unwrap();
    // Btrfs with separate places for data would be mostly empty.
    let mkfs: &[&str] =
        if driver == "btrfs" { &["mkfs.btrfs", "-q", "--mixed"] } else { &["mkfs.ext4", "-q", "-m", "0"] };
    copy::run(mkfs[0], &[&mkfs[1..], &[image.to_str().unwrap()]].concat());
    copy::run("mount", &["-o", "loop", image.to_str().unwrap(), place.to_str().unwrap()]);
    place
}

/// Two layers, the upper of which does not fit.
fn large() -> Source {
    let text = "x".repeat(2 * SIZE as usize);
    Source::of(vec![tar(&[("small", "s")]), tar(&[("large", &text)])])
}

/// The large image as an archive.
fn archive(scratch: &Path) -> Vec<u8> {
    let graph = common::open(&scratch.join("elsewhere"), "overlay");
    large().pull(&graph, &["large"]);
    let mut archive = Vec::new();
    graph.save(&[(graph.image("large").unwrap(), vec![name("large")])], &mut archive).unwrap();
    archive
}

fn free(place: &Path) -> u64 {
    let found = rustix::fs::statvfs(place).unwrap();
    found.f_bavail * found.f_frsize
}

/// Waits for so many free bytes, where that takes time, and says how many there are: btrfs takes subvolumes apart in the background,
/// and what was theirs is free with the commit after that.
fn wait_for_free(place: &Path, driver: &str, wanted: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(10);
    while driver == "btrfs" && free(place) < wanted && Instant::now() < deadline {
        // The call that is its own also wakes what does that.
        copy::run("btrfs", &["filesystem", "sync", place.to_str().unwrap()]);
    }
    free(place)
}

/// Writes a file that takes all the room there is.
fn fill(path: &Path) -> File {
    let mut filler = OpenOptions::new().create(true).append(true).open(path).unwrap();
    let block = vec![0x55; 1 << 20];
    for length in [1 << 20, 4096, 1] {
        while filler.write(&block[..length]).is_ok() {}
    }
    filler.sync_all().unwrap();
    filler
}

fn findings(graph: &Graph) -> Vec<String> {
    let mut findings = Vec::new();
    graph.fsck(false, &mut |finding: gantry_graph::Finding| findings.push(finding.to_string())).unwrap();
    findings
}

#[test]
fn an_image_that_does_not_fit_is_refused_with_the_path_and_the_space_comes_back() {
    let scratch = copy::scratch("full");
    let archive = archive(&scratch);
    DRIVERS.into_iter().for_each(|driver| refuse_large(&small(&scratch, driver), driver, &archive));
}

fn refuse_large(place: &Path, driver: &str, archive: &[u8]) {
    let root = place.join("data");
    let graph = common::open(&root, driver);
    let small = debian().pull(&graph, &["debian"]);
    graph.sweep().unwrap();
    rustix::fs::syncfs(std::fs::File::open(place).unwrap()).unwrap();
    let before = free(place);
    let pull = |graph: &Graph| {
        let (source, mut failed) = (large(), None);
        let registration = source.begin(graph);
        for (index, blob) in source.blobs.iter().enumerate() {
            failed = failed.or_else(|| registration.unpack(index, &mut blob.as_slice()).err());
        }
        failed.expect("it does not fit")
    };
    let load = |graph: &Graph| graph.load(&mut &*archive, None, &|_| {}).expect_err("it does not fit");
    let attempts: [&dyn Fn(&Graph) -> Error; 2] = [&pull, &load];
    for attempt in attempts {
        let error = attempt(&graph).to_string();
        assert!(error.contains("No space left on device") && error.contains(root.to_str().unwrap()), "{error}");
        graph.sweep().unwrap();
        assert_eq!(findings(&graph), Vec::<String>::new());
        assert_eq!(graph.images().len(), 1);
        // SQLite's log may have grown.
        let wanted = before - (256 << 10);
        let now = wait_for_free(place, driver, wanted);
        assert!(now >= wanted, "{driver}: {before} bytes were free, now {now}");
    }
    drop(graph);
    let graph = copy::reopen(&root, driver);
    assert_eq!(graph.image("debian").unwrap().id, small);
}

#[test]
fn images_can_be_removed_from_a_file_system_that_is_full_to_its_last_block() {
    // With the database's log at its beginning, and far on.
    let scratch = copy::scratch("full");
    for (driver, changes) in DRIVERS.into_iter().flat_map(|driver| [(driver, 0), (driver, 60)]) {
        let place = small(&scratch, driver);
        remove_from_full(&place, driver, changes);
    }
}

fn remove_from_full(place: &Path, driver: &str, changes: usize) {
    let root = place.join("data");
    let graph = common::open(&root, driver);
    debian().pull(&graph, &["debian"]);
    drop(graph);
    // As after a restart, with a new log.
    let graph = copy::reopen(&root, driver);
    let image = graph.image("debian").unwrap();
    (0..changes).for_each(|_| drop(graph.tag(&name("debian"), &image.id).unwrap()));
    let filler = fill(&place.join("filler"));
    let full = free(place);
    assert!(full == 0 || driver == "btrfs", "{full} bytes");
    graph.remove_image("debian", false, true, &[]).unwrap();
    graph.sweep().unwrap();
    assert!(graph.images().is_empty() && graph.driver().list().unwrap().is_empty());
    // What these few bytes had is less than what btrfs gives away at a time.
    assert!(driver == "btrfs" || free(place) > full);
    assert_eq!(findings(&graph), Vec::<String>::new());
    drop(graph);
    if driver == "btrfs" {
        // A start may make files anew, such as the database's log, for which there need be no room.
        drop(filler);
        std::fs::remove_file(place.join("filler")).unwrap();
        wait_for_free(place, driver, full + (1 << 20));
    }
    assert!(copy::reopen(&root, driver).images().is_empty());
}

#[test]
fn a_btrfs_that_a_dead_daemons_draft_fills_is_opened_and_the_first_sweep_gives_the_room_back() {
    let place = small(&copy::scratch("full"), "btrfs");
    let root = place.join("data");
    let graph = common::open(&root, "btrfs");
    debian().pull(&graph, &["debian"]);
    graph.driver().create("draft", None).unwrap();
    drop(graph);
    let draft = root.join("btrfs/drafts/draft");
    drop(fill(&draft.join("filler")));
    let graph = copy::reopen(&root, "btrfs");
    graph.sweep().unwrap();
    assert!(!draft.exists());
    let now = wait_for_free(&place, "btrfs", SIZE / 2);
    assert!(now >= SIZE / 2, "{now} bytes are free");
    assert_eq!(graph.images().len(), 1);
}
