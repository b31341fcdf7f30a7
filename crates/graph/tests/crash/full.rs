//! A file system that is really too small, and one that is full to its last block.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use gantry_graph::{Error, Graph};

use crate::common::{self, Source, debian, name, tar};
use crate::copy;

/// Room for the small image, not for the large one.
const SIZE: u64 = 32 << 20;

fn small_ext4(scratch: &Path) -> std::path::PathBuf {
    let (image, place) = (scratch.join("small.img"), scratch.join("small"));
    std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
    std::fs::create_dir(&place).unwrap();
    copy::run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
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

fn findings(graph: &Graph) -> Vec<String> {
    let mut findings = Vec::new();
    graph.fsck(false, &mut |finding: gantry_graph::Finding| findings.push(finding.to_string())).unwrap();
    findings
}

#[test]
fn an_image_that_does_not_fit_is_refused_with_the_path_and_the_space_comes_back() {
    let scratch = copy::scratch("full");
    let place = small_ext4(&scratch);
    let (root, archive) = (place.join("data"), archive(&scratch));
    let graph = common::open(&root, "overlay");
    let small = debian().pull(&graph, &["debian"]);
    graph.sweep().unwrap();
    let before = free(&place);
    let pull = |graph: &Graph| {
        let (source, mut failed) = (large(), None);
        let registration = source.begin(graph);
        for (index, blob) in source.blobs.iter().enumerate() {
            failed = failed.or_else(|| registration.unpack(index, &mut blob.as_slice()).err());
        }
        failed.expect("it does not fit")
    };
    let load = |graph: &Graph| graph.load(&mut archive.as_slice(), None, &|_| {}).expect_err("it does not fit");
    let attempts: [&dyn Fn(&Graph) -> Error; 2] = [&pull, &load];
    for attempt in attempts {
        let error = attempt(&graph).to_string();
        assert!(error.contains("No space left on device") && error.contains(root.to_str().unwrap()), "{error}");
        graph.sweep().unwrap();
        assert_eq!(findings(&graph), Vec::<String>::new());
        assert_eq!(graph.images().len(), 1);
        // SQLite's log may have grown.
        assert!(free(&place) + (256 << 10) >= before, "{} bytes were free, now {}", before, free(&place));
    }
    drop(graph);
    let graph = copy::reopen(&root, "overlay");
    assert_eq!(graph.image("debian").unwrap().id, small);
}

#[test]
fn images_can_be_removed_from_a_file_system_that_is_full_to_its_last_block() {
    // With the database's log at its beginning, and far on.
    [0, 60].into_iter().for_each(remove_from_full);
}

fn remove_from_full(changes: usize) {
    let scratch = copy::scratch("full");
    let place = small_ext4(&scratch);
    let root = place.join("data");
    let graph = common::open(&root, "overlay");
    debian().pull(&graph, &["debian"]);
    drop(graph);
    // As after a restart, with a new log.
    let graph = copy::reopen(&root, "overlay");
    let image = graph.image("debian").unwrap();
    (0..changes).for_each(|_| drop(graph.tag(&name("debian"), &image.id).unwrap()));
    let mut filler = OpenOptions::new().create(true).append(true).open(place.join("filler")).unwrap();
    let block = vec![0x55; 1 << 20];
    for length in [1 << 20, 4096, 1] {
        while filler.write(&block[..length]).is_ok() {}
    }
    filler.sync_all().unwrap();
    assert_eq!(free(&place), 0);
    graph.remove_image("debian", false, true, &[]).unwrap();
    graph.sweep().unwrap();
    assert!(graph.images().is_empty() && free(&place) > 0);
    assert_eq!(findings(&graph), Vec::<String>::new());
    drop(graph);
    assert!(copy::reopen(&root, "overlay").images().is_empty());
}
