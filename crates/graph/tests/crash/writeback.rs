//! What goes to the disk while an image is still unpacked: a disk that fails then fails the image, whoever waited.

use crate::common::{Source, fsck, layout, load, name, open, tar};
use crate::copy;
use crate::points::{Plan, run};

/// More than twice what is written before the disk is waited for.
const LARGE: usize = 80 << 20;
/// More waits than there can be.
const WAITS: usize = 12;

#[test]
fn a_disk_that_fails_at_any_wait_before_the_last_one_fails_the_image_and_neither_that_after_it_nor_that_before_which_it_failed()
 {
    let scratch = copy::scratch("writeback");
    let source = Source::of(vec![tar(&[("large", &"x".repeat(LARGE))]), tar(&[("small", "s")])]);
    let archive = layout(&[("large", &source, false)]).0;
    let mut waits = 0;
    for wait in 1..=WAITS {
        let root = scratch.join(wait.to_string());
        let graph = open(&root, "overlay");
        let seen = run(&root, Plan::WaitBrokenAt(wait), || load(&graph, &archive).map(drop).map_err(|e| e.to_string()));
        let is_there = graph.image(&name("large").to_string()).is_ok();
        match (&seen.hit, &seen.result) {
            (None, Ok(())) => assert!(is_there),
            // The first wait tells what failed before the image was begun.
            (Some(_), Ok(())) if wait == 1 => assert!(is_there),
            (Some(_), Err(error)) if wait == 1 => panic!("it is failed by what failed before it: {error}"),
            (Some(_), Err(error)) => {
                assert!(error.contains("Input/output error") && error.contains('/'), "{error}");
                assert!(!is_there, "wait {wait} failed");
            }
            // It began when everything was on the disk.
            (Some(_), Ok(())) => assert!(is_there && wait > 2, "the first wait of its own failed and nobody said so"),
            (None, Err(error)) => panic!("nothing failed, and yet: {error}"),
        }
        graph.sweep().unwrap();
        load(&graph, &archive).unwrap();
        assert_eq!(fsck(&graph, false), []);
        drop(graph);
        copy::remove(&root, "overlay");
        if seen.hit.is_none() {
            waits = wait - 1;
            break;
        }
    }
    assert!(waits > 2, "{waits} waits: the disk was not waited for before the end");
}
