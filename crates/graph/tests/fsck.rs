//! What a check of the store finds, and what heals it.
#![allow(clippy::disallowed_methods, reason = "the tests damage the files as they are")]
#![allow(missing_docs, reason = "tests")]

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

mod common;

use common::{Source, debian, fsck, name, open, refuse_reading, store};
use gantry_api::reference::Digest;
use gantry_graph::{
    Document, Error, Finding, Graph, Manifest, Outcome, Place, Problem, Repair, Unpacked, Use, digest_of,
};

fn places(findings: &[Finding]) -> Vec<Place> {
    findings.iter().map(|finding| finding.place.clone()).collect()
}

/// Where a layer of an image lies.
fn layer(root: &Path, graph: &Graph, image: &str, index: usize) -> PathBuf {
    let image = graph.image(image).unwrap();
    root.join(graph.driver().name()).join("layers").join(&image.layers[index].store_id)
}

fn tree(driver: &str) -> &'static str {
    if driver == "vfs" { "root" } else { "diff" }
}

#[test]
fn fsck_finds_flipped_bits_missing_files_and_litter_and_a_pull_brings_the_good_ones() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let (source, other) = (debian(), Source::new(&[&[("own", "layer")]]));
        let id = source.pull(&graph, &["debian:12", &format!("debian@{}", digest_of(b"{}"))]);
        let healthy = other.pull(&graph, &["other:1"]);
        graph.create_container_layer("web", &healthy, None).unwrap();
        assert_eq!(fsck(&graph, false), []);
        assert_eq!(fsck(&graph, true), []);

        let at = |index| layer(root.path(), &graph, "debian:12", index).join(tree(driver));
        std::fs::write(at(1).join("etc/app"), "1234!").unwrap();
        std::fs::remove_file(at(0).join("bin/sh")).unwrap();
        std::fs::create_dir(root.path().join(driver).join("layers/litter")).unwrap();
        let stray = graph.content().put(b"nobody's").unwrap();
        let mut wanted: Vec<_> = source.chain().into_iter().map(Place::Layer).collect();
        wanted.extend([Place::Image(id.clone()), Place::Directory("litter".into()), Place::Document(stray)]);
        let found = fsck(&graph, false);
        assert_eq!(places(&found), wanted, "{found:#?}");
        assert!(found.iter().all(|finding| finding.outcome == Outcome::Found), "{found:#?}");
        let again = fsck(&graph, false);
        assert_eq!(found, again, "a check changes nothing");

        let repaired = fsck(&graph, true);
        for finding in &repaired[3..] {
            assert_eq!(finding.outcome, Outcome::Repaired(Repair::Deleted), "{finding}");
        }
        assert_eq!(graph.sources(&Place::Layer(source.chain()[1].clone()))[0].0, id);
        assert_eq!(source.pull(&graph, &["debian:12"]), id);
        assert_eq!(fsck(&graph, false), []);
        assert!(graph.damage().is_empty());
        drop(graph);
        let graph = open(root.path(), driver);
        assert_eq!(fsck(&graph, false), []);
        assert!(graph.damage().is_empty());
    }
}

#[test]
fn a_layer_that_has_its_content_and_is_otherwise_altered_is_made_anew_of_it_without_a_registry() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let source = debian();
        let id = source.pull(&graph, &["debian:12"]);
        graph.create_container_layer("web", &id, None).unwrap();
        let at = layer(root.path(), &graph, "debian:12", 0).join(tree(driver));
        let damage = || {
            std::fs::set_permissions(at.join("bin/sh"), std::fs::Permissions::from_mode(0o4755)).unwrap();
            std::os::unix::fs::chown(at.join("etc/os"), Some(7), None).unwrap();
            std::fs::write(at.join("etc/more"), "x").unwrap();
        };
        damage();
        let told = |findings: &[Finding]| findings.iter().map(ToString::to_string).collect::<Vec<_>>();
        let line = |line: &str| format!("layer {}: it is not what was stored: {line}", source.chain()[0]);
        let lines = [
            line("/bin/sh has mode 4755, not 0644"),
            line("/etc/more is not of this layer"),
            line("/etc/os belongs to 7:0, not to 0:0"),
        ];
        let found = told(&fsck(&graph, false));
        assert_eq!((&found[..3], found.len()), (&lines[..], 4), "{driver}: and the image that stands on it");
        assert!(graph.damage()[0].contains("/bin/sh has mode 4755"), "{:?}", graph.damage());
        let repaired = fsck(&graph, true);
        assert_eq!(repaired.len(), 3, "{repaired:#?}");
        assert!(repaired.iter().all(|finding| finding.outcome == Outcome::Repaired(Repair::Remade)), "{repaired:#?}");
        assert!(graph.damage().is_empty());
        let mode = std::fs::metadata(at.join("bin/sh")).unwrap().permissions().mode();
        assert_eq!((mode & 0o7777, at.join("etc/more").exists()), (0o644, false));
        graph.container_root("web", false).unwrap();
        graph.release_replaced(|| Ok::<_, Error>(Vec::new())).unwrap();
        graph.sweep().unwrap();
        assert_eq!(fsck(&graph, true), []);
        drop(graph);
        assert_eq!(fsck(&open(root.path(), driver), false), []);
    }
}

/// Whoever is told may be slow, or ask for something: nobody waits for it with a lock in hand.
#[test]
fn what_is_found_is_told_while_others_change_the_store() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian:12"]);
    std::fs::remove_file(layer(root.path(), &graph, "debian:12", 0).join("diff/bin/sh")).unwrap();
    std::fs::create_dir(root.path().join("overlay/layers/litter")).unwrap();
    graph.content().put(b"nobody's").unwrap();
    graph.db().put_entity(gantry_graph::Durability::Process, "no digest", "image", "{}").unwrap();
    let mut told = Vec::new();
    for repair in [false, true] {
        let mut number = 0;
        graph
            .fsck(repair, &mut |finding| {
                number += 1;
                let (done, outcome) = std::sync::mpsc::channel();
                let (graph, id, tag) = (graph.clone(), id.clone(), format!("tag:{number}"));
                std::thread::spawn(move || done.send(graph.tag(&name(&tag), &id).map(drop)));
                outcome.recv_timeout(std::time::Duration::from_secs(60)).expect("nobody holds a lock").unwrap();
                told.push(finding.place.kind());
            })
            .unwrap();
    }
    for kind in ["layer", "image", "directory", "document", "record"] {
        assert_eq!(told.iter().filter(|told| **told == kind).count(), 2, "{kind}: {told:?}");
    }
}

#[test]
fn a_pull_sees_at_once_that_a_layer_lacks_a_part_and_brings_that_layer_only() {
    for part in ["", "recipe", "size", "lower", "diff"] {
        let (root, graph) = store();
        let source = debian();
        let id = source.pull(&graph, &["debian:12"]);
        graph.create_container_layer("web", &id, None).unwrap();
        let path = layer(root.path(), &graph, "debian:12", 0).join(part);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
        let registration = source.begin(&graph);
        assert!(!registration.is_present(0) && registration.is_present(1), "without {part:?}");
        assert!(matches!(registration.unpack(0, &mut source.blobs[0].as_slice()).unwrap(), Unpacked::Fresh(_)));
        registration.commit(&[name("debian:12")]).unwrap();
        assert_eq!(fsck(&graph, false), [], "without {part:?}");
        graph.container_root("web", false).unwrap();
    }
}

#[test]
fn a_load_of_what_was_saved_brings_a_damaged_layer_anew() {
    let (root, graph) = store();
    let id = debian().pull(&graph, &["debian:12"]);
    let mut archive = Vec::new();
    graph.save(&[(graph.image("debian:12").unwrap(), vec![name("debian:12")])], &mut archive).unwrap();
    std::fs::remove_dir_all(layer(root.path(), &graph, "debian:12", 0).join("diff")).unwrap();
    assert_eq!(graph.load(&mut archive.as_slice(), None, &|_| {}).unwrap()[0].image.id, id);
    assert_eq!(fsck(&graph, false), []);
}

#[test]
fn a_pull_that_fails_leaves_the_damaged_layer_as_it_was() {
    let (root, graph) = store();
    let source = debian();
    source.pull(&graph, &["debian:12"]);
    let damaged = layer(root.path(), &graph, "debian:12", 1);
    std::fs::remove_file(damaged.join("recipe")).unwrap();
    let registration = source.begin(&graph);
    assert!(!registration.is_present(1));
    assert!(registration.unpack(1, &mut source.blobs[0].as_slice()).is_err());
    registration.unpack(1, &mut source.blobs[1].as_slice()).unwrap();
    drop(registration);
    assert!(damaged.join("diff/etc/app").is_file(), "what stands on it stands still");
    assert!(graph.image("debian:12").is_ok());
    assert!(!source.begin(&graph).is_present(1));
    source.pull(&graph, &["debian:12"]);
    assert_eq!(fsck(&graph, false), []);
}

#[test]
fn what_was_replaced_stays_for_those_who_have_it_mounted() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian:12"]);
    graph.create_container_layer("web", &id, None).unwrap();
    let path = layer(root.path(), &graph, "debian:12", 0).join("diff");
    let mounted = std::fs::File::open(&path).unwrap();
    std::fs::write(path.join("bin/sh"), "xx").unwrap();
    fsck(&graph, false);
    source.pull(&graph, &["debian:12"]);
    assert_eq!(std::fs::read(path.join("bin/sh")).unwrap(), b"sh", "who mounts it now gets the good one");
    let replaced = || std::fs::read_dir(root.path().join("overlay/replaced")).unwrap().count();
    graph.release_replaced(|| Ok::<_, Error>(vec!["web".to_owned()])).unwrap();
    graph.sweep().unwrap();
    assert_eq!(replaced(), 1);
    let seen = format!("/proc/self/fd/{}/bin/sh", mounted.as_raw_fd());
    assert_eq!(std::fs::read(&seen).unwrap(), b"xx");
    graph.release_replaced(|| Ok::<_, Error>(Vec::new())).unwrap();
    graph.sweep().unwrap();
    assert_eq!(replaced(), 0);
    assert!(std::fs::read(&seen).is_err());
}

#[test]
fn what_is_replaced_while_the_running_are_counted_stays() {
    let (root, graph) = store();
    let source = debian();
    source.pull(&graph, &["debian:12"]);
    let file = layer(root.path(), &graph, "debian:12", 0).join("diff/bin/sh");
    let replace = || {
        std::fs::write(&file, "xx").unwrap();
        fsck(&graph, false);
        source.pull(&graph, &["debian:12"]);
    };
    replace();
    let release = || {
        replace();
        Ok::<_, Error>(Vec::new())
    };
    graph.release_replaced(release).unwrap();
    graph.sweep().unwrap();
    assert_eq!(std::fs::read_dir(root.path().join("overlay/replaced")).unwrap().count(), 1);
}

#[test]
fn what_a_check_found_and_a_pull_saw_again_is_known_after_a_restart() {
    let (root, graph) = store();
    let source = debian();
    source.pull(&graph, &["debian:12"]);
    std::fs::remove_file(layer(root.path(), &graph, "debian:12", 1).join("recipe")).unwrap();
    fsck(&graph, false);
    assert!(!source.begin(&graph).is_present(1));
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(graph.damage().len(), 1);
}

#[test]
fn a_start_that_failed_for_a_missing_layer_has_it_brought_again_also_after_a_restart() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian:12"]);
    graph.create_container_layer("web", &id, None).unwrap();
    graph.look_over("web").unwrap();
    let path = layer(root.path(), &graph, "debian:12", 0).join("diff");
    std::fs::remove_dir_all(path).unwrap();
    assert!(matches!(graph.look_over("web"), Err(Error::DamagedLayer { .. })));
    assert!(matches!(graph.container_root("web", false), Err(Error::DamagedLayer { .. })));
    assert!(matches!(graph.create_container_layer("other", &id, None), Err(Error::DamagedLayer { .. })));
    assert!(graph.container_layers() == ["web"], "the failed one left nothing");
    drop(graph);
    let graph = open(root.path(), "overlay");
    let said = graph.damage();
    assert!(said.len() == 1 && said[0].contains("debian:12") && said[0].contains("pull"), "{said:?}");
    source.pull(&graph, &["debian:12"]);
    graph.container_root("web", false).unwrap();
    drop(graph);
    assert!(open(root.path(), "overlay").damage().is_empty());
}

#[test]
fn a_layer_that_is_lost_takes_no_other_with_it() {
    let (root, graph) = store();
    let source = Source::new(&[&[("a", "1")], &[("b", "2")], &[("c", "3")]]);
    let id = source.pull(&graph, &["image"]);
    graph.create_container_layer("web", &id, None).unwrap();
    std::fs::remove_dir_all(layer(root.path(), &graph, "image", 1)).unwrap();
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(graph.image("image").unwrap().id, id, "it is listed, and can be removed");
    assert_eq!(graph.driver().list().unwrap().len(), 3, "two layers and the container's");
    let registration = source.begin(&graph);
    assert_eq!([0, 1, 2].map(|index| registration.is_present(index)), [true, false, true]);
    drop(registration);
    graph.remove_image("image", true, false, &[]).unwrap();
    assert_eq!(graph.driver().list().unwrap().len(), 3, "the container needs them");
    source.pull(&graph, &["image"]);
    assert_eq!(fsck(&graph, false), []);
}

#[test]
fn a_damaged_configuration_is_kept_with_its_names_and_layers_until_a_pull_or_a_removal() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian:12", "debian:bookworm"]);
    let path = root.path().join("content/sha256").join(id.hex());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "damage").unwrap();
    let found = fsck(&graph, true);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].outcome, Outcome::Repaired(Repair::Rewritten), "the daemon knew it");
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    drop(graph);
    std::fs::write(&path, "damage").unwrap();
    let graph = open(root.path(), "overlay");
    assert!(graph.images().is_empty());
    assert!(matches!(graph.image("debian:12"), Err(Error::DamagedImage { .. })));
    assert!(graph.damage()[0].contains("debian:bookworm"), "{:?}", graph.damage());
    assert_eq!(places(&fsck(&graph, true)), [Place::Image(id.clone())]);
    assert_eq!(graph.driver().list().unwrap().len(), 2);
    let registration = source.begin(&graph);
    assert!(registration.is_present(0) && registration.is_present(1), "only the document is brought");
    registration.commit(&[name("debian:12")]).unwrap();
    assert_eq!(graph.image("debian:bookworm").unwrap().id, id);
    assert_eq!(fsck(&graph, false), []);
    drop(graph);
    std::fs::remove_file(&path).unwrap();
    let graph = open(root.path(), "overlay");
    let user = Use { image: id.clone(), container: "c".repeat(64), running: true };
    graph.remove_image("debian:12", false, false, &[]).unwrap();
    assert!(matches!(graph.remove_image(id.as_str(), true, false, &[user]), Err(Error::Conflict(_))));
    graph.remove_image(id.short(), false, false, &[]).unwrap();
    assert_eq!(fsck(&graph, false), []);
    assert!(graph.driver().list().unwrap().is_empty());
}

#[test]
fn a_layer_or_document_that_cannot_be_read_now_is_told_and_neither_suspect_nor_to_be_fetched() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian:12"]);
    let recipe = layer(root.path(), &graph, "debian:12", 0).join("recipe");
    let config = root.path().join("content/sha256").join(id.hex());
    let whole = [&recipe, &config].map(|path| std::fs::read(path).unwrap());
    let _sockets = [&recipe, &config].map(|path| refuse_reading(root.path(), path));
    for (repair, outcome) in [(false, "found"), (true, "unrepaired")] {
        let found = fsck(&graph, repair);
        assert_eq!(places(&found), [Place::Layer(source.chain()[0].clone()), Place::Document(id.clone())]);
        for finding in &found {
            assert!(matches!(finding.problem, Problem::Unreadable(_)), "{finding}");
            assert_eq!(finding.outcome.kind(), outcome, "{finding}");
        }
    }
    assert!(graph.damage().is_empty());
    for (path, bytes) in [&recipe, &config].into_iter().zip(whole) {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(fsck(&graph, true), []);
}

#[test]
fn giving_up_removes_what_nothing_uses() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian:12"]);
    std::fs::write(layer(root.path(), &graph, "debian:12", 1).join("diff/etc/app"), "x").unwrap();
    let found = fsck(&graph, true);
    let place = Place::Layer(source.chain()[1].clone());
    assert_eq!((&found[0].place, found.len()), (&place, 2));
    assert!(!graph.is_whole(&place));
    let user = Use { image: id, container: "c".repeat(64), running: true };
    assert!(matches!(graph.give_up(&place, &[user]).unwrap(), Outcome::Unrepaired(why) if why.starts_with("kept")));
    let removed = graph.give_up(&place, &[]).unwrap();
    assert_eq!(removed, Outcome::Repaired(Repair::Removed(vec!["debian:12".to_owned()])));
    assert_eq!(fsck(&graph, false), []);
}

/// An image that was chosen from a manifest list.
fn multi(graph: &Graph, source: &Source, index: &[u8]) -> gantry_graph::Registration {
    let manifest = Manifest { raw: b"{\"one\":1}".to_vec(), ..source.manifest() };
    graph
        .register(source.config.clone(), Some(manifest))
        .unwrap()
        .chosen_from(Document { media_type: "index".to_owned(), raw: index.to_vec() })
}

#[test]
fn a_manifest_list_comes_and_goes_with_its_image_and_is_no_litter_meanwhile() {
    let (_root, graph) = store();
    let (source, index) = (debian(), b"{\"index\":1}");
    let digest = digest_of(index);
    let named = |digest: &Digest| name(&format!("debian@{digest}"));
    for round in 0..2 {
        let registration = multi(&graph, &source, index);
        for (number, blob) in source.blobs.iter().enumerate() {
            registration.unpack(number, &mut blob.as_slice()).unwrap();
        }
        if round == 0 {
            assert_eq!(fsck(&graph, true), [], "nothing of a pull under way is litter");
        }
        registration.commit(&[name("debian:12"), named(&digest)]).unwrap();
        assert_eq!(graph.content().read(&digest).unwrap(), index);
        assert_eq!(fsck(&graph, true), []);
        graph.content().delete(&digest).unwrap();
        let found = fsck(&graph, true);
        assert!(
            matches!(&found[..], [Finding { place: Place::Document(d), problem: Problem::Missing, .. }] if *d == digest),
            "{found:#?}"
        );
    }
    // By another list the same image.
    let other = b"{\"index\":2}";
    multi(&graph, &source, other).commit(&[name("debian:13"), named(&digest_of(other))]).unwrap();
    multi(&graph, &source, index).commit(&[]).unwrap();
    assert_eq!(fsck(&graph, false), []);
    graph.remove_image(&format!("debian@{}", digest_of(other)), false, true, &[]).unwrap();
    assert_eq!(fsck(&graph, false), []);
    graph.remove_image("debian:12", true, true, &[]).unwrap();
    graph.remove_image("debian:13", true, true, &[]).unwrap();
    assert!(graph.content().list().unwrap().is_empty());
    assert_eq!(fsck(&graph, false), []);
}

#[test]
fn a_check_beside_pulls_and_removals_finds_nothing_and_takes_nothing() {
    let (_root, graph) = store();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let (graph, stop) = (&graph, &stop);
        let worker = |own: usize| {
            move || {
                for round in 0..40 {
                    let text = format!("{own}{}", round % 3);
                    let source = Source::new(&[&[("base", "b")], &[("own", &text)]]);
                    let index = format!("{{\"index\":{own}}}").into_bytes();
                    let registration = multi(graph, &source, &index);
                    for (number, blob) in source.blobs.iter().enumerate() {
                        registration.unpack(number, &mut blob.as_slice()).unwrap();
                    }
                    let name = name(&format!("image{own}"));
                    let digest = digest_of(&index);
                    let id = registration.commit(&[name.clone(), name.with_digest(digest)]).unwrap().id.clone();
                    graph.remove_image(id.as_str(), true, true, &[]).unwrap();
                }
            }
        };
        let workers = [0, 1].map(|own| scope.spawn(worker(own)));
        let checker = scope.spawn(move || {
            while !stop.load(order) {
                assert_eq!(fsck(graph, true), []);
            }
        });
        let ended = workers.map(|worker| worker.join().is_ok());
        stop.store(true, order);
        assert!(checker.join().is_ok() && ended == [true, true]);
    });
}
