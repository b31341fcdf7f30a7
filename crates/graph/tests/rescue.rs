//! A damaged database never keeps the store from opening, and nothing is lost by it that can be found again.
#![allow(clippy::disallowed_methods, reason = "the tests damage the files as they are")]
#![allow(missing_docs, reason = "tests")]

use std::path::Path;

mod common;

use common::{Source, debian, name, open, store};
use gantry_graph::{Blob, Descriptor, Durability, Graph, Import, Manifest, Place, Registration, digest_of};

fn fsck(graph: &Graph) -> Vec<Place> {
    let mut found = Vec::new();
    graph.fsck(false, &mut |finding| found.push(finding.place)).unwrap();
    found
}

/// Brings everything from SQLite's log into the file, so that damage to the file is damage.
fn settle(root: &Path) {
    let db = rusqlite::Connection::open(root.join("gantry.db")).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

/// An image on its way in by a manifest that says whose it is, unpacked.
fn register(graph: &Graph, source: &Source) -> Registration {
    let Manifest { layers, media_type, .. } = source.manifest();
    let config = Descriptor {
        media_type: "config".to_owned(),
        digest: digest_of(&source.config),
        size: source.config.len() as u64,
    };
    let raw = serde_json::json!({"mediaType": "manifest", "config": config, "layers": layers});
    let manifest = Manifest { raw: raw.to_string().into_bytes(), media_type, layers };
    let registration = graph.register(source.config.clone(), Some(manifest)).unwrap();
    for (index, blob) in source.blobs.iter().enumerate() {
        registration.unpack(index, &mut blob.as_slice()).unwrap();
    }
    registration
}

/// A store with a pulled image, an imported one, and a container; its backup is as old as the first two.
fn filled(root: &Path) -> (Source, [gantry_api::reference::Digest; 3]) {
    let graph = open(root, "overlay");
    let source = debian();
    let pulled = register(&graph, &source).commit(&[name("debian:12")]).unwrap().id.clone();
    let import = Import { name: Some(name("imported")), ..Import::default() };
    let imported = graph.import(&mut common::tar(&[("own", "x")]).as_slice(), import).unwrap().id.clone();
    assert!(graph.back_up().unwrap());
    assert!(!graph.back_up().unwrap(), "nothing changed");
    let young = Source::new(&[&[("etc/os", "debian"), ("bin/sh", "sh")], &[("young", "1")]]);
    let young = register(&graph, &young).commit(&[name("young")]).unwrap().id.clone();
    graph.create_container_layer("web", &young, None).unwrap();
    drop(graph);
    settle(root);
    (source, [pulled, imported, young])
}

fn databases(aside: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(aside).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What is done to the database's file.
type Damage = fn(&Path);

/// The ways in which a disk damages a file.
const DAMAGES: [(&str, Damage); 5] = [
    ("garbage", |path| {
        std::fs::write(path, "no database at all, but long enough to be looked at".repeat(200)).unwrap()
    }),
    ("truncated", |path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("empty", |path| std::fs::write(path, "").unwrap()),
    ("missing", |path| std::fs::remove_file(path).unwrap()),
    ("pages flipped", |path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[4096..].iter_mut().step_by(7).for_each(|byte| *byte ^= 0xff);
        std::fs::write(path, bytes).unwrap();
    }),
];

#[test]
fn a_damaged_database_is_put_aside_and_its_backup_and_what_came_since_are_taken() {
    for (how, damage) in DAMAGES {
        let root = tempfile::tempdir().unwrap();
        let (_, [pulled, imported, young]) = filled(root.path());
        damage(&root.path().join("gantry.db"));
        let graph = open(root.path(), "overlay");
        assert!(graph.was_rescued(), "{how}");
        let aside = graph.quarantined();
        assert!(aside.len() == 1 && aside[0].1.contains("backup was taken"), "{how}: {aside:?}");
        assert_eq!(databases(&aside[0].0).contains(&"gantry.db".to_owned()), how != "missing");
        assert_eq!(graph.image("debian:12").unwrap().id, pulled, "{how}");
        assert_eq!(graph.image("imported").unwrap().id, imported, "{how}");
        assert_eq!(graph.image(young.as_str()).unwrap().size(), 9, "{how}: indexed again");
        // The container's layer is nobody's now, and kept until its record is found.
        assert_eq!(fsck(&graph), [Place::Lost("web".to_owned())], "{how}");
        drop(graph);
        let graph = open(root.path(), "overlay");
        assert!(graph.was_rescued() && graph.quarantined().len() == 1, "{how}: until it is complete");
        assert_eq!(fsck(&graph), [Place::Lost("web".to_owned())], "{how}");
        assert!(graph.adopt_container_layer("web", &young).unwrap());
        graph.end_rescue().unwrap();
        drop(graph);
        let graph = open(root.path(), "overlay");
        assert!(!graph.was_rescued() && graph.quarantined().len() == 1, "{how}: only the start that found it");
        assert_eq!(fsck(&graph), [], "{how}");
        assert_eq!(graph.container_size("web").unwrap().1, 9);
    }
}

#[test]
fn a_rescue_that_was_killed_after_the_backup_took_its_place_goes_on_with_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let (_, [.., young]) = filled(root.path());
    std::fs::write(root.path().join("gantry.db"), "garbage").unwrap();
    drop(open(root.path(), "overlay"));
    // As if nothing had been indexed again yet.
    for part in ["gantry.db-wal", "gantry.db-shm"] {
        let _ = std::fs::remove_file(root.path().join(part));
    }
    std::fs::copy(root.path().join("gantry.db.backup"), root.path().join("gantry.db")).unwrap();
    let graph = open(root.path(), "overlay");
    assert!(graph.was_rescued());
    assert_eq!(graph.image(young.as_str()).unwrap().size(), 9);
    assert!(graph.adopt_container_layer("web", &young).unwrap(), "the container's layer is there");
    assert_eq!(fsck(&graph), []);
}

#[test]
fn without_a_good_backup_images_are_found_in_what_is_stored() {
    for backup in [None, Some("damaged as well")] {
        let root = tempfile::tempdir().unwrap();
        let (source, [pulled, imported, young]) = filled(root.path());
        std::fs::write(root.path().join("gantry.db"), "garbage").unwrap();
        match backup {
            None => std::fs::remove_file(root.path().join("gantry.db.backup")).unwrap(),
            Some(text) => std::fs::write(root.path().join("gantry.db.backup"), text).unwrap(),
        }
        let graph = open(root.path(), "overlay");
        assert_eq!(graph.quarantined().len(), if backup.is_some() { 2 } else { 1 });
        for id in [&pulled, &imported, &young] {
            assert!(graph.image(id.as_str()).is_ok(), "{id}");
        }
        assert_eq!(fsck(&graph), [Place::Lost("web".to_owned())]);
        let image = graph.image(pulled.as_str()).unwrap();
        assert_eq!(image.layers[1].blobs, [Blob::new(source.manifest().layers[1].clone())]);
        assert!(graph.content().read(&image.manifest().unwrap().digest).is_ok());
        // The names are lost; a pull finds everything there.
        let registration = source.begin(&graph);
        assert!(registration.is_present(0) && registration.is_present(1));
        registration.commit(&[name("debian:12")]).unwrap();
        assert_eq!(graph.image("debian:12").unwrap().id, pulled);
    }
}

#[test]
fn an_image_that_was_removed_after_the_backup_does_not_come_back() {
    let (root, graph) = store();
    let id = debian().pull(&graph, &["debian:12"]);
    graph.back_up().unwrap();
    graph.remove_image("debian:12", true, true, &[]).unwrap();
    drop(graph);
    settle(root.path());
    std::fs::write(root.path().join("gantry.db"), "garbage").unwrap();
    let graph = open(root.path(), "overlay");
    assert!(graph.was_rescued());
    assert!(graph.image(id.as_str()).is_err() && graph.images().is_empty());
    // Its layers' records are taken for litter when the rescue is over, and not by it.
    graph.end_rescue().unwrap();
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(fsck(&graph), []);
    assert!(graph.images().is_empty() && graph.damage().is_empty());
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_not_touched() {
    let (root, graph) = store();
    debian().pull(&graph, &["debian:12"]);
    drop(graph);
    settle(root.path());
    let path = root.path().join("gantry.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60..64].copy_from_slice(&7_u32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let driver = gantry_graphdriver::open(root.path(), Some("overlay")).unwrap().0;
    let error = Graph::open(root.path(), driver).err().unwrap().to_string();
    assert!(error.contains("newer version (schema 7)"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert!(!root.path().join("quarantine").exists());
}

#[test]
fn a_second_damage_does_not_overwrite_what_the_first_put_aside() {
    let (root, graph) = store();
    let id = debian().pull(&graph, &["debian:12"]);
    drop(graph);
    for round in 1..=3 {
        settle(root.path());
        std::fs::write(root.path().join("gantry.db"), format!("garbage {round}")).unwrap();
        let graph = open(root.path(), "overlay");
        assert_eq!(graph.quarantined().len(), round);
        assert!(graph.image(id.as_str()).is_ok());
    }
}

#[test]
fn one_damaged_record_hides_nothing_else_and_a_repair_writes_it_again() {
    let (root, graph) = store();
    let source = debian();
    let id = source.pull(&graph, &["debian:12"]);
    let other = Source::new(&[&[("own", "layer")]]).pull(&graph, &["other"]);
    graph.create_container_layer("web", &id, None).unwrap();
    let chain = &source.chain()[0];
    let records = [id.to_string(), format!("layer:{}", chain.hex()), "writable:web".to_owned()];
    graph
        .db()
        .write(Durability::Disk, |db| {
            db.put_entity(&records[0], "image", r#""not an image""#)?;
            db.put_entity(&records[1], "layer", "[]")?;
            db.put_entity(&records[2], "writable", "{}")?;
            db.put_entity("no digest", "image", "{}")
        })
        .unwrap();
    drop(graph);
    // And one that is not even text.
    let db = rusqlite::Connection::open(root.path().join("gantry.db")).unwrap();
    db.execute("UPDATE entity SET properties = x'ff00fe' WHERE id = ?1", [&records[0]]).unwrap();
    drop(db);
    let graph = open(root.path(), "overlay");
    assert_eq!(graph.image("debian:12").unwrap().id, id);
    assert_eq!(graph.image("other").unwrap().id, other);
    assert_eq!(graph.driver().list().unwrap().len(), 4, "nothing was taken for litter");
    assert!(graph.adopt_container_layer("web", &id).unwrap());
    let mut found = Vec::new();
    graph.fsck(true, &mut |finding| found.push(finding)).unwrap();
    let mut places: Vec<_> = found.iter().map(|finding| finding.place.name().to_owned()).collect();
    places.sort();
    assert_eq!(places, ["layer:".to_owned() + chain.hex(), "no digest".to_owned(), id.to_string()], "{found:#?}");
    assert_eq!(fsck(&graph), []);
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(fsck(&graph), []);
    assert_eq!(graph.image("debian:12").unwrap().layers[0].size, 8);
}
