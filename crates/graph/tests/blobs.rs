//! Compressed layers: what they are known as, where that was seen, and the bytes of those that no registry has.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{
    Source, bzip2, debian, files, fsck, gzip, layout, load, lose_database, name, open, pack, refuse_reading, save,
    store,
};
use gantry_api::reference::Digest;
use gantry_graph::{Blob, Graph, Manifest, Outcome, Place, Problem, Repair, digest_of};
use serde_json::{Value, json};

fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", digest_of(bytes).hex())
}

/// The blobs of an image's layers whose bytes are there.
fn kept(graph: &Graph, image: &str) -> Vec<Digest> {
    let image = graph.image(image).unwrap();
    let blobs = image.layers.iter().flat_map(|layer| graph.blobs(&layer.diff_id));
    blobs.filter(|blob| blob.kept).map(|blob| blob.descriptor.digest).collect()
}

fn digests(blobs: &[Vec<u8>]) -> Vec<Digest> {
    blobs.iter().map(|blob| digest_of(blob)).collect()
}

fn debian_layout() -> (Source, Vec<u8>, Vec<u8>) {
    let source = debian();
    let (archive, mut manifests) = layout(&[("debian:12", &source, true)]);
    (source, archive, manifests.remove(0))
}

#[test]
fn compressed_layers_of_an_archive_are_saved_as_they_came_with_their_manifest_and_go_with_the_image() {
    for (driver, compress) in [("overlay", gzip as fn(&[u8]) -> Vec<u8>), ("vfs", bzip2)] {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let graph = open(here.path(), driver);
        let source = Source { blobs: debian().layers.iter().map(|layer| compress(layer)).collect(), ..debian() };
        let (archive, mut manifests) = layout(&[("debian:12", &source, true)]);
        let manifest = manifests.remove(0);
        load(&graph, &archive).unwrap();
        let check = |graph: &Graph| {
            assert_eq!(kept(graph, "debian:12"), digests(&source.blobs));
            assert_eq!(graph.layers_size(), 13 + source.blobs.iter().map(|blob| blob.len() as u64).sum::<u64>());
            assert_eq!(fsck(graph, true), []);
            save(graph, &["debian:12"])
        };
        let saved = check(&graph);
        let files = files(&saved);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], json!(digest_of(&manifest)));
        assert_eq!(files[&blob_path(&manifest)], manifest);
        let words: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        for (blob, path) in source.blobs.iter().zip(words[0]["Layers"].as_array().unwrap()) {
            assert_eq!((&files[&blob_path(blob)], path), (blob, &json!(blob_path(blob))));
        }
        // A start, and another store.
        drop(graph);
        let graph = open(here.path(), driver);
        assert_eq!(check(&graph), saved);
        let other = open(there.path(), driver);
        load(&other, &saved).unwrap();
        assert_eq!(check(&other), saved);
        graph.remove_image("debian:12", false, true, &[]).unwrap();
        assert_eq!(graph.content().list().unwrap(), []);
        assert_eq!(std::path::Path::new(&here.path().join("content/ingest")).read_dir().unwrap().count(), 0);
    }
}

#[test]
fn a_blob_that_a_registry_has_is_not_kept_and_where_it_was_seen_is_remembered() {
    let (root, graph) = store();
    let (source, archive, _) = debian_layout();
    let registration = source.begin(&graph).seen_in("docker.io/library/debian");
    for (index, blob) in source.blobs.iter().enumerate() {
        registration.unpack(index, &mut blob.as_slice()).unwrap();
    }
    registration.commit(&[name("debian:12")]).unwrap();
    load(&graph, &archive).unwrap();
    let check = |graph: &Graph, seen: &[&str]| {
        for (layer, blob) in source.layers.iter().zip(source.manifest().layers) {
            let seen = seen.iter().map(|seen| (*seen).to_owned()).collect();
            assert_eq!(graph.blobs(&digest_of(layer)), [Blob { seen, verified: true, ..Blob::new(blob.clone()) }]);
            assert!(graph.kept_blob(&blob.digest).unwrap().is_none());
        }
    };
    check(&graph, &["docker.io/library/debian"]);
    // What a push learns is known of the layer in every image.
    let above = Source::new(&[&[("under", "it")], &[("etc/app", "12345")]]);
    above.pull(&graph, &["above"]);
    for (layer, blob) in source.layers.iter().zip(source.manifest().layers) {
        let seen = Blob { seen: vec!["example.com/mine".to_owned()], ..Blob::new(blob) };
        graph.note_blob(&digest_of(layer), &seen).unwrap();
    }
    let seen = ["docker.io/library/debian", "example.com/mine"];
    check(&graph, &seen);
    drop(graph);
    let graph = open(root.path(), "overlay");
    check(&graph, &seen);
    assert_eq!(graph.image("above").unwrap().layers[1].blobs[0].seen, ["example.com/mine"]);
}

#[test]
fn a_blob_that_a_pull_hands_over_is_kept_and_leaves_with_a_pull_that_fails() {
    let (root, graph) = store();
    let (source, _, raw) = debian_layout();
    let part = root.path().join("part");
    let hand_over = |index: usize| {
        let manifest = Manifest { raw: raw.clone(), ..source.manifest() };
        let registration =
            graph.register(source.config.clone(), Some(manifest)).unwrap().seen_in("docker.io/library/debian");
        registration.unpack(index, &mut source.blobs[index].as_slice()).unwrap();
        gantry_linux::fs::write(&part, &source.blobs[index]).unwrap();
        registration.keep_blob(index, &digest_of(&source.blobs[index]), &part).unwrap();
        assert!(!part.exists());
        registration
    };
    drop(hand_over(0));
    assert_eq!(graph.content().list().unwrap(), []);
    let registration = hand_over(1);
    let error = registration.keep_blob(0, &digest_of(&source.blobs[1]), &part).unwrap_err();
    assert!(error.to_string().contains("no manifest"), "{error}");
    registration.unpack(0, &mut source.blobs[0].as_slice()).unwrap();
    // A sweep at that moment takes nothing.
    graph.sweep().unwrap();
    registration.commit(&[name("debian:12")]).unwrap();
    assert_eq!(kept(&graph, "debian:12"), digests(&source.blobs[1..]));
    // The other layer is saved as its archive.
    let files = files(&save(&graph, &["debian:12"]));
    let words: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(words[0]["Layers"], json!([blob_path(&source.layers[0]), blob_path(&source.blobs[1])]));
}

#[test]
fn the_blob_of_a_layer_that_was_there_by_then_is_kept_when_it_is_that_layer_and_refused_when_it_is_not() {
    let (root, graph) = store();
    let (source, _, raw) = debian_layout();
    source.pull(&graph, &["there"]);
    let (part, other) = (root.path().join("part"), common::gzip(b"something else"));
    for (blob, is_right) in [(&other, false), (&source.blobs[0], true)] {
        let mut manifest = Manifest { raw: raw.clone(), ..source.manifest() };
        manifest.layers[0].digest = digest_of(blob);
        let registration =
            graph.register(source.config.clone(), Some(manifest)).unwrap().seen_in("docker.io/library/debian");
        assert_eq!(registration.unpack(0, &mut blob.as_slice()).unwrap(), gantry_graph::Unpacked::Shared);
        gantry_linux::fs::write(&part, blob).unwrap();
        let kept = registration.keep_pulled_blob(0, &digest_of(blob), &part);
        assert_eq!(kept.is_ok(), is_right, "{kept:?}");
        if is_right {
            registration.commit(&[name("debian:12")]).unwrap();
        }
    }
    assert_eq!(kept(&graph, "debian:12"), digests(&source.blobs[..1]));
}

#[test]
fn a_manifest_that_lies_about_a_layer_has_nothing_kept_or_saved_in_its_place() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let (source, other) = (debian(), Source::new(&[&[("x", "y")], &[("z", "")]]));
        load(&graph, &layout(&[("honest", &other, true)]).0).unwrap();
        // The layers by an honest `manifest.json`, and an OCI manifest that names those of another image for them.
        let liar = Source { config: source.config.clone(), layers: other.layers.clone(), blobs: other.blobs.clone() };
        let (lying, _) = layout(&[("liar", &liar, true)]);
        let mut lying = files(&lying);
        let layers: Vec<_> = source.layers.iter().map(|layer| blob_path(layer)).collect();
        let words = json!([{"Config": blob_path(&source.config), "RepoTags": ["liar:latest"], "Layers": layers}]);
        lying.insert("manifest.json".to_owned(), words.to_string().into_bytes());
        lying.extend(source.layers.iter().map(|layer| (blob_path(layer), layer.clone())));
        let lying: Vec<_> = lying.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        load(&graph, &pack(&lying)).unwrap();
        assert_eq!(kept(&graph, "liar"), []);
        assert_eq!(kept(&graph, "honest"), digests(&other.blobs));
        let words: Value = serde_json::from_slice(&files(&save(&graph, &["liar"]))["manifest.json"]).unwrap();
        assert_eq!(words[0]["Layers"], json!(layers));
        // Nor after the database was lost.
        drop(graph);
        lose_database(root.path());
        let graph = open(root.path(), driver);
        let id = digest_of(&source.config);
        assert_eq!(kept(&graph, id.as_str()), []);
        assert_eq!(kept(&graph, digest_of(&other.config).as_str()), digests(&other.blobs));
        assert_eq!(fsck(&graph, false), []);
    }
}

#[test]
fn a_kept_blob_that_is_damaged_is_found_and_forgotten_and_its_layer_is_whole() {
    let (root, graph) = store();
    let (source, archive, _) = debian_layout();
    load(&graph, &archive).unwrap();
    let [flipped, missing] = [0, 1].map(|index| digest_of(&source.blobs[index]));
    let path = |digest: &Digest| root.path().join("content/sha256").join(digest.hex());
    let mut bytes = source.blobs[0].clone();
    bytes[20] ^= 1;
    gantry_linux::fs::write(path(&flipped), bytes).unwrap();
    gantry_linux::fs::remove_file(path(&missing)).unwrap();
    let found = |outcome: &Outcome, repair: bool| {
        let findings = fsck(&graph, repair);
        for finding in &findings {
            match &finding.place {
                Place::Blob(digest) if *digest == flipped => assert!(matches!(finding.problem, Problem::Altered(_))),
                place => assert_eq!((place, &finding.problem), (&Place::Blob(missing.clone()), &Problem::Missing)),
            }
            assert_eq!(&finding.outcome, outcome);
        }
        findings.len()
    };
    assert_eq!(found(&Outcome::Found, false), 2);
    assert_eq!(found(&Outcome::Repaired(Repair::Forgotten), true), 2);
    assert_eq!(fsck(&graph, false), []);
    assert_eq!(kept(&graph, "debian:12"), []);
    assert!(files(&save(&graph, &["debian:12"])).contains_key(&blob_path(&source.layers[0])));
    // The same archive brings them again.
    load(&graph, &archive).unwrap();
    assert_eq!(kept(&graph, "debian:12"), [flipped, missing]);
    assert_eq!(fsck(&graph, false), []);
}

#[test]
fn a_kept_blob_that_was_cut_short_is_saved_as_its_layer() {
    let (root, graph) = store();
    let (source, archive, _) = debian_layout();
    load(&graph, &archive).unwrap();
    let path = root.path().join("content/sha256").join(digest_of(&source.blobs[0]).hex());
    gantry_linux::fs::write(path, &source.blobs[0][..9]).unwrap();
    let files = files(&save(&graph, &["debian:12"]));
    let words: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(words[0]["Layers"], json!([blob_path(&source.layers[0]), blob_path(&source.blobs[1])]));
}

#[test]
fn a_kept_blob_that_cannot_be_read_now_is_told_and_stays() {
    let (root, graph) = store();
    let (source, archive, _) = debian_layout();
    load(&graph, &archive).unwrap();
    let digest = digest_of(&source.blobs[0]);
    let path = root.path().join("content/sha256").join(digest.hex());
    let _socket = refuse_reading(root.path(), &path);
    let found = fsck(&graph, true);
    assert!(matches!(&found[..], [finding] if finding.place == Place::Blob(digest.clone())), "{found:#?}");
    assert!(matches!(found[0].problem, Problem::Unreadable(_)) && found[0].outcome.kind() == "unrepaired");
    gantry_linux::fs::write(root.path().join("blob"), &source.blobs[0]).unwrap();
    gantry_linux::fs::rename(root.path().join("blob"), &path).unwrap();
    assert_eq!(kept(&graph, "debian:12"), digests(&source.blobs));
    assert_eq!(fsck(&graph, true), []);
}

#[test]
fn the_kept_blobs_of_another_driver_and_of_an_unreadable_record_are_no_litter() {
    let (root, graph) = store();
    let (source, archive, _) = debian_layout();
    load(&graph, &archive).unwrap();
    drop(graph);
    let graph = open(root.path(), "vfs");
    graph.sweep().unwrap();
    assert_eq!(fsck(&graph, true), []);
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(kept(&graph, "debian:12"), digests(&source.blobs));
    assert_eq!(fsck(&graph, false), []);
    let record = graph.db().entities("layer").unwrap().remove(0).id;
    graph.db().put_entity(gantry_graph::Durability::Process, &record, "layer", "[]").unwrap();
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(kept(&graph, "debian:12"), digests(&source.blobs));
    assert_eq!(fsck(&graph, true).len(), 1);
    assert_eq!(fsck(&graph, false), []);
    // A lost database, and a start with another driver before this one finds its layers again.
    drop(graph);
    lose_database(root.path());
    let graph = open(root.path(), "vfs");
    graph.end_rescue().unwrap();
    drop(graph);
    let graph = open(root.path(), "vfs");
    graph.sweep().unwrap();
    fsck(&graph, true);
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(kept(&graph, digest_of(&source.config).as_str()), digests(&source.blobs));
    assert_eq!(fsck(&graph, false), []);
}

#[test]
fn a_blob_is_verified_for_the_layer_that_it_is_and_not_for_another_that_a_manifest_says_it_is() {
    let (root, graph) = store();
    let source = debian();
    source.pull(&graph, &["debian:12"]);
    // The first layer's blob is said to be the second layer, too.
    let mut manifest = source.manifest();
    manifest.layers[1] = manifest.layers[0].clone();
    let registration = graph.register(source.config.clone(), Some(manifest)).unwrap().seen_in("example.com/liar");
    let (part, blob) = (root.path().join("part"), digest_of(&source.blobs[0]));
    let hand_over = |index| {
        gantry_linux::fs::write(&part, &source.blobs[0]).unwrap();
        registration.keep_pulled_blob(index, &blob, &part)
    };
    hand_over(0).unwrap();
    let error = hand_over(1).unwrap_err();
    assert!(matches!(error, gantry_graph::Error::Digest { .. }), "{error}");
    registration.commit(&[name("liar")]).unwrap();
    let of = |layer: usize| {
        let known = graph.blobs(&digest_of(&source.layers[layer])).into_iter();
        known
            .filter(|known| known.descriptor.digest == blob)
            .map(|known| (known.verified, known.kept))
            .collect::<Vec<_>>()
    };
    assert_eq!((of(0), of(1)), (vec![(true, true)], vec![(false, false)]));
}
