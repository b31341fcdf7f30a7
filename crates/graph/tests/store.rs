//! The image store's promises, on both drivers where it matters: pulls, sharing, removal, containers, crashes.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(missing_docs, reason = "tests")]

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

mod common;

use common::{Source, debian, gzip, name, open, store, tar};
use gantry_graph::{Error, Graph, Import, Removed, Unpacked, Use, digest_of};
use gantry_graphdriver::ChangeKind;
use gantry_linux::mount::RootMount;

fn trash_is_empty(root: &Path, driver: &str) -> bool {
    let empty = |part: &str| std::fs::read_dir(root.join(driver).join(part)).unwrap().next().is_none();
    empty("trash") && empty("drafts")
}

#[test]
fn an_image_is_pulled_and_found_by_every_name_and_after_a_restart() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let source = debian();
        let digest = digest_of(b"{}");
        let id = source.pull(&graph, &["debian:12", &format!("debian@{digest}")]);
        let check = |graph: &Graph| {
            let image = graph.image("debian:12").unwrap();
            assert_eq!((&image.id, image.size()), (&id, 13));
            assert_eq!(&*image.raw, source.config.as_slice());
            assert_eq!(image.config.config.as_ref().unwrap().cmd.as_deref(), Some(&["echo hi".to_owned()][..]));
            let sizes: Vec<_> = image.history().into_iter().map(|(step, size)| (step.created_by, size)).collect();
            assert_eq!(sizes, [("two".to_owned(), 5), ("env".to_owned(), 0), ("one".to_owned(), 8)]);
            assert_eq!(image.layers[1].blobs, [gantry_graph::Blob::new(source.manifest().layers[1].clone())]);
            assert_eq!(graph.content().read(&image.manifest().unwrap().digest).unwrap(), b"{}");
            for text in [id.as_str(), id.hex(), id.short(), &id.hex()[..3], &format!("debian@{digest}")] {
                assert_eq!(graph.image(text).unwrap().id, id, "{text}");
            }
            let names: Vec<_> = graph.images().names(&id).iter().map(ToString::to_string).collect();
            assert_eq!(names, [&format!("docker.io/library/debian@{digest}"), "docker.io/library/debian:12"]);
            assert!(graph.dangling().is_empty());
        };
        check(&graph);
        drop(graph);
        let graph = open(root.path(), driver);
        check(&graph);
        let error = graph.image("debian").unwrap_err();
        assert_eq!(error.to_string(), "no such image: debian:latest");
        graph.sweep().unwrap();
        assert!(trash_is_empty(root.path(), driver));
    }
}

#[test]
fn layers_are_shared_and_unpacked_once() {
    let (_root, graph) = store();
    let source = debian();
    source.pull(&graph, &["debian:12"]);
    let other = Source::new(&[&[("etc/os", "debian"), ("bin/sh", "sh")], &[("srv/other", "x")]]);
    let registration = other.begin(&graph);
    assert!(registration.is_present(0) && !registration.is_present(1));
    let mut unread = std::io::Cursor::new(other.blobs[0].clone());
    assert_eq!(registration.unpack(0, &mut unread).unwrap(), Unpacked::Shared);
    assert_eq!(unread.position(), 0);
    // Multi-member gzip, and uncompressed, are told by their bytes.
    let half = other.layers[1].len() / 2;
    let blob = [gzip(&other.layers[1][..half]), gzip(&other.layers[1][half..])].concat();
    assert_eq!(registration.unpack(1, &mut blob.as_slice()).unwrap(), Unpacked::Fresh(1));
    registration.commit(&[name("other")]).unwrap();
    assert_eq!(graph.driver().list().unwrap().len(), 3);
    let plain = Source::new(&[&[("plain", "p")], &[("zstd", "z")]]);
    let registration = plain.begin(&graph);
    registration.unpack(0, &mut plain.layers[0].as_slice()).unwrap();
    let packed = zstd::encode_all(plain.layers[1].as_slice(), 1).unwrap();
    registration.unpack(1, &mut packed.as_slice()).unwrap();
    registration.commit(&[]).unwrap();
    assert_eq!(graph.dangling().len(), 1);
}

/// Counts what is read of it; optionally fails at the end.
struct Blob<'a>(&'a [u8], &'a AtomicUsize, bool);

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() && self.2 {
            return Err(std::io::Error::other("connection reset"));
        }
        // One byte at first: magic numbers may come in pieces.
        let length = buffer.len().min(self.0.len()).min(if self.1.load(Ordering::Relaxed) < 4 { 1 } else { 4096 });
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        self.1.fetch_add(length, Ordering::Relaxed);
        Ok(length)
    }
}

#[test]
fn a_blob_is_read_to_its_end_and_a_bad_one_leaves_nothing() {
    let (root, graph) = store();
    let source = debian();
    let registration = source.begin(&graph);
    let read = AtomicUsize::new(0);
    let trailing = [&source.blobs[0][..], &[0; 5000]].concat();
    registration.unpack(0, &mut Blob(&trailing, &read, false)).ok();
    let read = AtomicUsize::new(0);
    let failing = registration.unpack(1, &mut Blob(&source.blobs[1][..20], &read, true)).unwrap_err();
    assert!(matches!(&failing, Error::Stream { .. }), "{failing}");
    assert!(failing.to_string().contains("connection reset"), "{failing}");
    let wrong = registration.unpack(1, &mut source.blobs[0].as_slice()).unwrap_err();
    assert!(matches!(wrong, Error::Digest { .. }), "{wrong}");
    let hostile = gzip(&[b'x'; 4096]);
    let refused = registration.unpack(1, &mut hostile.as_slice()).unwrap_err();
    assert!(matches!(refused, Error::Driver(gantry_graphdriver::Error::Archive(_))), "{refused}");
    assert!(!registration.is_present(1));
    assert!(matches!(registration.commit(&[name("debian")]), Err(Error::Conflict(_))));
    assert!(graph.images().is_empty());
    assert_eq!(graph.driver().list().unwrap(), Vec::<String>::new(), "the layer below went with the failed pull");
    graph.sweep().unwrap();
    assert!(trash_is_empty(root.path(), "overlay"));
    // And it can be tried again.
    let read = AtomicUsize::new(0);
    let registration = source.begin(&graph);
    registration.unpack(0, &mut Blob(&source.blobs[0], &read, false)).unwrap();
    assert_eq!(read.load(Ordering::Relaxed), source.blobs[0].len());
}

#[test]
fn concurrent_pulls_of_the_same_layers_are_safe() {
    let (_root, graph) = store();
    let sources: Vec<_> = (0..4)
        .map(|index| {
            let own = index.to_string();
            Source::new(&[&[("base", "b")], &[("middle", "m")], &[("own", own.as_str())]])
        })
        .collect();
    let fresh = AtomicUsize::new(0);
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for index in 0..8 {
            let (graph, source, fresh, start) = (&graph, &sources[index % 4], &fresh, &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..5 {
                    let registration = source.begin(graph);
                    for layer in [2, 0, 1] {
                        if registration.unpack(layer, &mut source.blobs[layer].as_slice()).unwrap() != Unpacked::Shared
                        {
                            fresh.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if index == 7 {
                        // One that gives up every time.
                        continue;
                    }
                    registration.commit(&[name(&format!("i{}", index % 4))]).unwrap();
                }
            });
        }
    });
    assert_eq!(graph.images().len(), 4);
    assert_eq!(graph.driver().list().unwrap().len(), 6);
    for index in 0..4 {
        assert_eq!(graph.image(&format!("i{index}")).unwrap().size(), 3);
    }
}

/// A blob that says when it is asked for, and comes when somebody says so.
struct Held<'a>(&'a [u8], mpsc::Sender<()>, mpsc::Receiver<()>);

impl Read for Held<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1.send(()).ok();
        self.2.recv().ok();
        self.0.read(buffer)
    }
}

#[test]
fn who_waits_for_a_layer_that_another_pull_makes_may_leave_and_the_other_goes_on() {
    let (_root, graph) = store();
    let source = debian();
    let others = source.begin(&graph);
    let ((begins, begun), (go, held)) = (mpsc::channel(), mpsc::channel());
    let (leaving, staying) = (graph.leavable(), graph.leavable());
    let archive = common::layout(&[("debian:12", &source, true)]).0;
    std::thread::scope(|scope| {
        let making = scope.spawn(|| others.unpack(0, &mut Held(&source.blobs[0], begins, held)));
        begun.recv().unwrap();
        // A pull, and a load, which has unpacked a draft of its own by then.
        let pulling = scope.spawn(|| source.begin(&leaving).unpack(0, &mut source.blobs[0].as_slice()));
        let loading = scope.spawn(|| leaving.load(&mut archive.as_slice(), None, &|_| ()));
        let waiting = scope.spawn(|| source.begin(&staying).unpack(0, &mut source.blobs[0].as_slice()));
        let until = |reached: &dyn Fn() -> bool| {
            let end = Instant::now() + Duration::from_secs(60);
            while !reached() && Instant::now() < end {
                std::thread::yield_now();
            }
            reached()
        };
        let all_wait = until(&|| graph.waiting() == 3);
        leaving.leave();
        let have_left = until(&|| pulling.is_finished() && loading.is_finished());
        let others_stay = !waiting.is_finished() && !making.is_finished();
        // Whoever did not leave ends now, and the test fails instead of waiting with them.
        drop(go);
        assert!(all_wait && have_left && others_stay, "{all_wait} {have_left} {others_stay}");
        let left = |error: Error| assert!(matches!(error, Error::Left { .. }), "{error}");
        left(pulling.join().unwrap().unwrap_err());
        left(loading.join().unwrap().unwrap_err());
        assert!(matches!(making.join().unwrap(), Ok(Unpacked::Fresh(_))));
        assert_eq!(waiting.join().unwrap().unwrap(), Unpacked::Shared);
    });
    drop(others);
    assert_eq!(graph.driver().list().unwrap().len(), 0, "nothing is left of either");
}

#[test]
fn pulls_beside_removals_leave_whole_images() {
    let (_root, graph) = store();
    let source = debian();
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            for _ in 0..20 {
                source.pull(&graph, &["debian:12"]);
            }
        });
        start.wait();
        for _ in 0..40 {
            graph.remove_image("debian:12", false, true, &[]).ok();
        }
    });
    source.pull(&graph, &["debian:12"]);
    for chain in source.chain() {
        assert!(graph.driver().exists(chain.hex()));
    }
}

#[test]
fn removal_follows_dockers_rules() {
    let (root, graph) = store();
    let source = debian();
    let digest = digest_of(b"{}");
    let id = source.pull(&graph, &["debian:12", &format!("debian@{digest}")]);
    assert_eq!(graph.tag(&name("mine"), &id).unwrap(), None);
    let users = |running| vec![Use { image: id.clone(), container: "c".repeat(64), running }];
    let conflict = |error: Error| match error {
        Error::Conflict(text) => text,
        other => panic!("{other}"),
    };
    let text = conflict(graph.remove_image(id.short(), false, true, &[]).unwrap_err());
    assert!(text.ends_with("(must be forced) - image is referenced in multiple repositories"), "{text}");
    let text = conflict(graph.remove_image(id.short(), true, true, &users(true)).unwrap_err());
    assert!(text.contains("(cannot be forced) - image is being used by running container cccccccccccc"), "{text}");
    // A name of several goes even when the image is in use; the digests of its repository go with its last tag.
    let removed = graph.remove_image("debian:12", false, true, &users(true)).unwrap();
    assert_eq!(removed, [Removed::Untagged("debian:12".into()), Removed::Untagged(format!("debian@{digest}"))]);
    let text = conflict(graph.remove_image("mine", false, true, &users(false)).unwrap_err());
    assert!(text.contains("unable to remove repository reference \"mine:latest\" (must force)"), "{text}");
    let text = conflict(graph.remove_image(id.as_str(), false, true, &users(false)).unwrap_err());
    assert!(text.contains("stopped container"), "{text}");
    let removed = graph.remove_image(id.as_str(), false, true, &[]).unwrap();
    let chain = source.chain();
    let gone = [id.clone(), chain[1].clone(), chain[0].clone()].map(Removed::Deleted);
    assert_eq!(removed[0], Removed::Untagged("mine:latest".into()));
    assert_eq!(removed[1..], gone);
    assert!(graph.images().is_empty());
    assert!(graph.driver().list().unwrap().is_empty());
    assert!(graph.content().list().unwrap().is_empty());
    assert!(matches!(graph.remove_image("mine", false, true, &[]), Err(Error::NoSuchImage(_))));
    graph.sweep().unwrap();
    assert!(trash_is_empty(root.path(), "overlay"));
    assert!(graph.db().entities("layer").unwrap().is_empty());
}

#[test]
fn a_tag_moves_and_leaves_a_dangling_image() {
    let (root, graph) = store();
    let old = debian().pull(&graph, &["app"]);
    let new = Source::new(&[&[("new", "n")]]).pull(&graph, &["app"]);
    assert_eq!(graph.image("app:latest").unwrap().id, new);
    assert_eq!(graph.dangling(), std::slice::from_ref(&old));
    assert_eq!(graph.tag(&name("app"), &old).unwrap(), Some(new.clone()));
    assert_eq!(graph.tag(&name("app"), &old).unwrap(), None);
    assert!(matches!(graph.tag(&name("x"), &digest_of(b"none")), Err(Error::NoSuchImage(_))));
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(graph.image("app").unwrap().id, old);
    assert!(graph.image("app").unwrap().last_tagged > 0);
    assert_eq!(graph.dangling(), [new]);
    let error = graph.image("").unwrap_err();
    assert!(matches!(error, Error::NoSuchImage(_)));
}

#[test]
fn import_makes_an_image_of_an_archive() {
    let (root, graph) = store();
    let archive = gzip(&tar(&[("etc/os", "mine")]));
    let import = |text: &str| Import {
        name: Some(name(text)),
        created: "2026-11-25T00:00:00Z".to_owned(),
        message: "imported".to_owned(),
        ..Import::default()
    };
    let image = graph.import(&mut archive.as_slice(), import("mine:1")).unwrap();
    assert_eq!((image.size(), image.config.os.as_str(), image.history().len()), (4, "linux", 1));
    let again = graph.import(&mut archive.as_slice(), import("mine:2")).unwrap();
    assert_eq!(again.id, image.id);
    assert_eq!(graph.driver().list().unwrap().len(), 1, "the same archive is one layer");
    assert!(graph.import(&mut &b"no archive, and too long for a header"[..], import("bad")).is_err());
    drop(graph);
    let graph = open(root.path(), "overlay");
    graph.create_container_layer("web", &graph.image("mine:2").unwrap().id, None).unwrap();
    // A pull of an image on that layer stands on it.
    let source = Source::new(&[&[("etc/os", "mine")], &[("more", "m")]]);
    source.pull(&graph, &["more"]);
    assert_eq!(graph.driver().list().unwrap().len(), 3);
    let RootMount::Overlay { lower, .. } = graph.image_root(&graph.image("more").unwrap().id).unwrap() else {
        panic!("overlay mounts overlays")
    };
    assert_eq!(std::fs::read(lower[1].join("etc/os")).unwrap(), b"mine");
    graph.sweep().unwrap();
    assert!(trash_is_empty(root.path(), "overlay"));
}

#[test]
fn containers_have_layers_that_outlive_their_image() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian"]);
    graph.create_container_layer("web", &id, None).unwrap();
    assert!(matches!(graph.create_container_layer("web", &id, None), Err(Error::Conflict(_))));
    assert!(matches!(graph.create_container_layer("x", &digest_of(b"none"), None), Err(Error::NoSuchImage(_))));
    let RootMount::Overlay { upper: Some(upper), lower, .. } = graph.container_root("web", false).unwrap() else {
        panic!("a writable overlay")
    };
    assert_eq!(lower.len(), 2);
    std::fs::write(upper.upper.join("new"), "12345678").unwrap();
    assert_eq!(graph.container_size("web").unwrap(), (8, 21));
    let changes = graph.container_changes("web").unwrap();
    assert_eq!((changes.len(), changes[0].kind), (1, ChangeKind::Added));
    let mut archive = Vec::new();
    graph.container_diff("web", &mut archive).unwrap();
    assert_eq!(tar::Archive::new(archive.as_slice()).entries().unwrap().count(), 1);
    // Its image is removed by force; the layers stay for it, also through a restart.
    let users = [Use { image: id.clone(), container: "web".to_owned(), running: false }];
    let removed = graph.remove_image(id.as_str(), true, true, &users).unwrap();
    assert_eq!(removed.last(), Some(&Removed::Deleted(id)));
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(graph.container_layers(), ["web"]);
    assert_eq!(graph.container_size("web").unwrap(), (8, 21));
    graph.remove_container_layer("web").unwrap();
    graph.remove_container_layer("web").unwrap();
    assert!(matches!(graph.container_root("web", false), Err(Error::NotFound { .. })));
    assert!(graph.driver().list().unwrap().is_empty(), "the layers went with their last user");
}

#[test]
fn what_a_crash_left_is_removed_at_the_next_start() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let id = debian().pull(&graph, &["debian"]);
        // Killed while a layer was unpacked, after one was committed and before its image was, and while content was
        // written: what was held in memory is forgotten, not dropped.
        let other = Source::new(&[&[("a", "a")], &[("b", "b")]]);
        let registration = other.begin(&graph);
        registration.unpack(1, &mut other.blobs[1].as_slice()).unwrap();
        std::mem::forget(registration);
        let chain = &other.chain()[0];
        graph.driver().create(chain.hex(), None).unwrap();
        graph.driver().apply(chain.hex(), &mut other.layers[0].as_slice()).unwrap();
        graph.driver().commit(chain.hex()).unwrap();
        std::mem::forget(graph.content().ingest().unwrap());
        // Killed between a container's files and its record, and between its removal and the record's.
        graph.driver().create_writable("unrecorded", None, None).unwrap();
        graph.create_container_layer("removed", &id, None).unwrap();
        graph.driver().remove("removed").unwrap();
        let before = graph.driver().list().unwrap().len();
        assert_eq!(before, 4);
        // The lock is freed as the kernel would.
        let copy = tempfile::tempdir().unwrap();
        drop(graph);
        let status = std::process::Command::new("cp").arg("-a").arg(root.path()).arg(copy.path()).status().unwrap();
        assert!(status.success());
        let graph = open(&copy.path().join(root.path().file_name().unwrap()), driver);
        assert_eq!(graph.driver().list().unwrap().len(), 2, "only the image's layers");
        assert!(graph.container_layers().is_empty());
        assert_eq!(graph.image("debian").unwrap().id, id);
        graph.sweep().unwrap();
        let pulled = other.pull(&graph, &["other"]);
        assert_eq!(graph.image("other").unwrap().id, pulled);
    }
}

#[test]
fn hostile_configurations_are_refused() {
    let (_root, graph) = store();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let many = format!(
        r#"{{"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        vec![format!("\"{}\"", digest_of(b"x")); 501].join(",")
    );
    for bad in [
        "",
        "[]",
        "null",
        "{}",
        "{",
        &deep,
        &many,
        r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}"#,
        r#"{"rootfs":{"type":"layers","diff_ids":["sha256:ABC"]}}"#,
        r#"{"rootfs":{"type":"windows","diff_ids":[]}}"#,
        r#"{"rootfs":{"type":"layers","diff_ids":"x"}}"#,
        &" ".repeat((4 << 20) + 1),
    ] {
        let result = graph.register(bad.as_bytes().to_vec(), None);
        assert!(matches!(result, Err(Error::Invalid { .. })), "{}", &bad[..bad.len().min(60)]);
    }
    let source = debian();
    let mut manifest = source.manifest();
    manifest.layers.pop();
    assert!(matches!(graph.register(source.config.clone(), Some(manifest)), Err(Error::Invalid { .. })));
    assert!(matches!(source.begin(&graph).unpack(9, &mut &b""[..]), Err(Error::Invalid { .. })));
}

#[test]
fn reads_do_not_wait_for_changes() {
    let (_root, graph) = store();
    let id = debian().pull(&graph, &["debian"]);
    let before = graph.images();
    graph
        .db()
        .write(gantry_graph::Durability::Process, |_| {
            // A transaction is open: reading goes on.
            assert_eq!(graph.image("debian").unwrap().id, id);
            assert!(graph.container_layers().is_empty());
            Ok(())
        })
        .unwrap();
    graph.remove_image("debian", false, true, &[]).unwrap();
    assert!(before.get(&id).is_some(), "a snapshot is what it was");
}
