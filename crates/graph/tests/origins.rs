//! What an image came as is kept byte for byte, and goes with it: indexes, manifests, attestations.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::io::Read;

use common::{Source, debian, files, fsck, load, lose_database, name, open, pack, save, store};
use gantry_api::platform::Platform;
use gantry_api::reference::Digest;
use gantry_graph::{Document, Durability, Graph, Image, Manifest, Outcome, Place, Problem, digest_of};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn describe(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest_of(bytes).to_string(), "size": bytes.len()})
}

fn manifest(config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<_> = layers.iter().map(|layer| describe("layer", layer)).collect();
    let words =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": describe("config", config), "layers": layers});
    serde_json::to_vec_pretty(&words).unwrap()
}

/// An image as a builder pushes it today: an index, and an attestation.
struct Multi {
    source: Source,
    manifest: Vec<u8>,
    /// The attestation's manifest, configuration and statement.
    attestation: Vec<Vec<u8>>,
    index: Vec<u8>,
    /// The image for another machine, which the index has too.
    foreign: Source,
}

impl Multi {
    fn new(word: &str) -> Self {
        let source = debian();
        let foreign = Source::new(&[&[("etc/os", "for arm")]]);
        let config = String::from_utf8(foreign.config.clone()).unwrap().replace("amd64", "arm64");
        let foreign = Source { config: config.into_bytes(), ..foreign };
        let statement = json!({"_type": "https://in-toto.io/Statement/v0.1", "subject": word}).to_string().into_bytes();
        let attested = json!({"architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(&statement)]}});
        let attested = attested.to_string().into_bytes();
        let about = manifest(&attested, std::slice::from_ref(&statement));
        let own = manifest(&source.config, &source.blobs);
        let with = |mut entry: Value, architecture: &str| {
            let os = if architecture == "unknown" { "unknown" } else { "linux" };
            entry["platform"] = json!({"os": os, "architecture": architecture});
            entry
        };
        let mut attests = with(describe(MANIFEST, &about), "unknown");
        attests["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": digest_of(&own)});
        let other = with(describe(MANIFEST, &manifest(&foreign.config, &foreign.blobs)), "arm64");
        let index = json!({"schemaVersion": 2, "mediaType": INDEX,
            "manifests": [other, with(describe(MANIFEST, &own), "amd64"), attests]});
        let index = serde_json::to_vec_pretty(&index).unwrap();
        Self { source, manifest: own, attestation: vec![about, attested, statement], index, foreign }
    }

    fn pull(&self, graph: &Graph, names: &[&str]) -> Digest {
        let kind = |kind: &str, raw: &[u8]| Document { media_type: kind.to_owned(), raw: raw.to_vec() };
        let manifest =
            Manifest { raw: self.manifest.clone(), media_type: MANIFEST.to_owned(), ..self.source.manifest() };
        let registration = graph.register(self.source.config.clone(), Some(manifest)).unwrap();
        let registration = registration.chosen_from(kind(INDEX, &self.index));
        let attached = self.attestation.iter().zip([MANIFEST, "config", "statement"]);
        let registration = registration.attested_by(attached.map(|(raw, word)| kind(word, raw)).collect());
        for (number, blob) in self.source.blobs.iter().enumerate() {
            registration.unpack(number, &mut blob.as_slice()).unwrap();
        }
        let mut names: Vec<_> = names.iter().map(|text| name(text)).collect();
        names.push(name("debian").with_digest(digest_of(&self.index)));
        registration.commit(&names).unwrap().id.clone()
    }

    fn documents(&self) -> Vec<&Vec<u8>> {
        [&self.source.config, &self.manifest, &self.index].into_iter().chain(&self.attestation).collect()
    }

    /// As Docker with containerd's store saves it: all platforms, and a `manifest.json` beside the index.
    fn archive(&self, docker: bool) -> Vec<u8> {
        let mut entry = describe(INDEX, &self.index);
        entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/debian:12"});
        let layout = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
        let foreign = manifest(&self.foreign.config, &self.foreign.blobs);
        let path = |bytes: &[u8]| format!("blobs/sha256/{}", digest_of(bytes).hex());
        let blobs = self.documents().into_iter().chain(&self.source.blobs);
        let blobs = blobs.chain([&foreign, &self.foreign.config]).chain(&self.foreign.blobs);
        let mut files: Vec<_> = blobs.map(|blob| (path(blob), blob.clone())).collect();
        files.push(("index.json".to_owned(), layout));
        files.push(("oci-layout".to_owned(), b"{}".to_vec()));
        if docker {
            let layers: Vec<_> = self.source.blobs.iter().map(|blob| path(blob)).collect();
            let words = json!([{"Config": path(&self.source.config), "RepoTags": ["debian:12"], "Layers": layers}]);
            files.push(("manifest.json".to_owned(), words.to_string().into_bytes()));
        }
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

fn assert_whole(graph: &Graph, multi: &Multi, image: &Image) {
    let [origin] = &image.origins[..] else { panic!("{:?}", image.origins) };
    assert_eq!(origin.root().digest, digest_of(&multi.index));
    assert_eq!((origin.root().media_type.as_str(), origin.manifest.media_type.as_str()), (INDEX, MANIFEST));
    assert_eq!(origin.documents().count(), 5);
    for document in multi.documents() {
        assert_eq!(&graph.content().read(&digest_of(document)).unwrap(), document);
    }
    assert_eq!(fsck(graph, true), []);
}

#[test]
fn an_index_comes_with_its_attestations_byte_for_byte_stays_over_a_restart_and_goes_with_the_image() {
    let (root, graph) = store();
    let multi = Multi::new("one");
    let id = multi.pull(&graph, &["debian:12"]);
    assert_whole(&graph, &multi, &graph.image("debian:12").unwrap());
    drop(graph);
    let graph = open(root.path(), "overlay");
    let image = graph.image(&format!("debian@{}", digest_of(&multi.index))).unwrap();
    assert_eq!(image.id, id);
    assert_whole(&graph, &multi, &image);
    graph.remove_image("debian:12", false, true, &[]).unwrap();
    assert_eq!(graph.content().list().unwrap(), []);
}

#[test]
fn an_image_that_comes_by_another_index_keeps_what_its_names_say_and_no_more() {
    let (_root, graph) = store();
    let (one, two) = (Multi::new("one"), Multi::new("two"));
    let id = one.pull(&graph, &["debian:12"]);
    assert_eq!(two.pull(&graph, &["debian:13"]), id);
    let image = graph.image(id.as_str()).unwrap();
    assert_eq!(image.origins.len(), 2, "both have a name");
    assert_eq!(image.manifest().unwrap().digest, digest_of(&two.manifest));
    graph.remove_image(&format!("debian@{}", digest_of(&one.index)), false, true, &[]).unwrap();
    two.pull(&graph, &["debian:13"]);
    assert_whole(&graph, &two, &graph.image(id.as_str()).unwrap());
    assert!(graph.content().read(&digest_of(&one.attestation[2])).is_err());
}

#[test]
fn what_was_pulled_is_saved_and_loaded_with_its_origin_whatever_reads_the_archive() {
    let (_here, from) = store();
    let (_there, to) = store();
    let multi = Multi::new("one");
    multi.pull(&from, &["debian:12"]);
    let save = |graph: &Graph| {
        let mut archive = Vec::new();
        graph.save(&[(graph.image("debian:12").unwrap(), vec![name("debian:12")])], &mut archive).unwrap();
        archive
    };
    let archive = save(&from);
    to.load(&mut archive.as_slice(), None, &|_| {}).unwrap();
    let image = to.image("debian:12").unwrap();
    assert_whole(&to, &multi, &image);
    assert_eq!(to.images().names(&image.id), [name("debian:12")], "which digest it has only a registry says");
    assert_eq!(save(&to), archive);
    // Who does not know of origins finds a whole image: all layers that its index leads to are there.
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        let (mut entry, mut bytes) = (entry.unwrap(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), bytes);
    }
    let parse = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
    let path = |words: &Value| words["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let manifest = parse(&path(&parse("index.json")["manifests"][0]));
    assert!(manifest["layers"].as_array().unwrap().iter().all(|layer| files.contains_key(&path(layer))));
}

#[test]
fn an_archive_that_names_an_index_alone_as_before_is_loaded_with_the_index() {
    let (_here, from) = store();
    let (_there, to) = store();
    let multi = Multi::new("one");
    multi.pull(&from, &["debian:12"]);
    let mut files = files(&save(&from, &["debian:12"]));
    let (index, manifest) = (digest_of(&multi.index), digest_of(&multi.manifest));
    let told = String::from_utf8(files["index.json"].clone()).unwrap();
    let before = told.replace(&format!("{index}/{manifest}"), index.as_str());
    assert_ne!(told, before);
    files.insert("index.json".to_owned(), before.into_bytes());
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    load(&to, &pack(&files)).unwrap();
    assert_whole(&to, &multi, &to.image("debian:12").unwrap());
}

/// Loads an archive, saves all images, loads that elsewhere, and saves again: the two that were saved.
fn saved_twice(archive: &[u8]) -> [Vec<u8>; 2] {
    let save_all = |archive: &[u8]| {
        let (_root, graph) = store();
        load(&graph, archive).unwrap();
        let images = graph.images();
        let all: Vec<_> = images.iter().map(|image| (image.clone(), images.names(&image.id))).collect();
        let mut saved = Vec::new();
        graph.save(&all, &mut saved).unwrap();
        saved
    };
    let first = save_all(archive);
    let second = save_all(&first);
    [first, second]
}

#[test]
fn a_manifest_that_save_makes_does_not_become_what_the_image_came_as_because_an_index_beside_it_has_it() {
    let sources = ["one", "two"].map(|text| Source::new(&[&[("file", text)]]));
    // As save makes it of an image that came without a manifest.
    let made = sources.each_ref().map(|source| {
        let (_root, graph) = store();
        let registration = graph.register(source.config.clone(), None).unwrap();
        registration.unpack(0, &mut source.layers[0].as_slice()).unwrap();
        registration.commit(&[name("image")]).unwrap();
        let files = files(&save(&graph, &["image"]));
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        files[&index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/")].clone()
    });
    let inner = json!({"schemaVersion": 2, "manifests": made.each_ref().map(|raw| describe(MANIFEST, raw))});
    let inner = inner.to_string().into_bytes();
    let layout = json!({"schemaVersion": 2, "manifests": [describe(INDEX, &inner)]}).to_string().into_bytes();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", digest_of(bytes).hex());
    let docker =
        sources.each_ref().map(|source| json!({"Config": path(&source.config), "Layers": [path(&source.layers[0])]}));
    let docker = json!(docker).to_string().into_bytes();
    // The index names the manifest of the first, too, which is not in the archive.
    let blobs = sources.iter().flat_map(|source| [&source.config, &source.layers[0]]).chain([&inner, &made[1]]);
    let blobs: Vec<_> = blobs.map(|blob| (path(blob), blob.as_slice())).collect();
    let mut files = vec![("index.json", layout.as_slice()), ("manifest.json", &docker)];
    files.extend(blobs.iter().map(|(path, bytes)| (path.as_str(), *bytes)));
    let [first, second] = saved_twice(&pack(&files));
    assert_eq!(common::files(&first)[&path(&made[0])], made[0], "now it is there");
    assert!(first == second, "another archive of the same images");
}

#[test]
fn an_image_that_came_both_by_an_index_and_by_its_manifest_alone_is_saved_as_both() {
    let (_root, graph) = store();
    let multi = Multi::new("one");
    multi.pull(&graph, &["debian:12"]);
    let manifest = Manifest { raw: multi.manifest.clone(), media_type: MANIFEST.to_owned(), ..multi.source.manifest() };
    let registration = graph.register(multi.source.config.clone(), Some(manifest)).unwrap();
    registration.commit(&[name("debian").with_digest(digest_of(&multi.manifest))]).unwrap();
    assert_eq!(graph.image("debian:12").unwrap().origins.len(), 2);
    let archive = save(&graph, &["debian:12"]);
    let [first, second] = saved_twice(&archive);
    assert!(archive == first && first == second, "another archive of the same image");
}

#[test]
fn archives_of_other_tools_are_loaded_with_their_index_and_attestations() {
    for docker in [false, true] {
        let (_root, graph) = store();
        let multi = Multi::new("one");
        let loaded = graph.load(&mut multi.archive(docker).as_slice(), None, &|_| {}).unwrap();
        assert_eq!(loaded.len(), 1, "of several platforms one");
        assert_whole(&graph, &multi, &graph.image("debian:12").unwrap());
        graph.sweep().unwrap();
        assert_eq!(graph.driver().list().unwrap().len(), 2, "no layer of another platform");
    }
}

#[test]
fn load_takes_the_platform_that_is_wanted_and_says_when_there_is_none() {
    let (_root, graph) = store();
    let multi = Multi::new("one");
    let load = |docker: bool, platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        graph.load(&mut multi.archive(docker).as_slice(), Some(&platform), &|_| {})
    };
    let loaded = load(false, "linux/arm64").unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].image.id, digest_of(&multi.foreign.config));
    assert_eq!(load(true, "linux/amd64").unwrap()[0].image.id, digest_of(&multi.source.config));
    for docker in [false, true] {
        let error = load(docker, "linux/s390x").unwrap_err().to_string();
        assert!(error.contains("no image in it is for linux/s390x"), "{error}");
    }
}

#[test]
fn a_lost_attestation_is_found_and_given_up_without_its_image() {
    let (_root, graph) = store();
    let multi = Multi::new("one");
    let id = multi.pull(&graph, &["debian:12"]);
    let lost = digest_of(&multi.attestation[2]);
    graph.content().delete(&lost).unwrap();
    let found = fsck(&graph, true);
    assert!(matches!(&found[..], [finding] if finding.place == Place::Document(lost.clone())), "{found:?}");
    assert_eq!(graph.sources(&found[0].place)[0].0, id);
    assert!(matches!(graph.give_up(&found[0].place, &[]).unwrap(), Outcome::Repaired(_)));
    assert_eq!(fsck(&graph, false), []);
    assert_eq!(graph.image("debian:12").unwrap().id, id);
    // The manifest is more than that.
    graph.content().delete(&digest_of(&multi.manifest)).unwrap();
    graph.give_up(&Place::Document(digest_of(&multi.manifest)), &[]).unwrap();
    assert!(graph.images().is_empty());
}

#[test]
fn a_lost_database_is_found_again_with_origins_and_no_attestation_becomes_an_image() {
    let (root, graph) = store();
    let multi = Multi::new("one");
    let id = multi.pull(&graph, &["debian:12"]);
    drop(graph);
    lose_database(root.path());
    let graph = open(root.path(), "overlay");
    assert_eq!(graph.images().len(), 1);
    assert_whole(&graph, &multi, &graph.image(id.as_str()).unwrap());
}

#[test]
fn the_images_of_another_driver_outlive_the_loss_of_the_database() {
    let (root, graph) = store();
    let multi = Multi::new("one");
    let id = multi.pull(&graph, &["debian:12"]);
    drop(graph);
    lose_database(root.path());
    let graph = open(root.path(), "vfs");
    assert!(graph.images().is_empty());
    let lost = fsck(&graph, false);
    assert!(matches!(&lost[..], [finding] if finding.place == Place::Lost(id.to_string())), "{lost:?}");
    graph.end_rescue().unwrap();
    // What is pulled meanwhile makes nothing of the old store litter.
    let own = Source::new(&[&[("own", "1")]]).pull(&graph, &["own"]);
    drop(graph);
    drop(open(root.path(), "vfs"));
    let graph = open(root.path(), "overlay");
    assert_whole(&graph, &multi, &graph.image(id.as_str()).unwrap());
    drop(graph);
    let graph = open(root.path(), "vfs");
    assert_eq!(graph.image("own").unwrap().id, own);
    assert_eq!(fsck(&graph, false), []);
}

#[test]
fn what_no_rescue_could_place_is_removed_when_it_is_given_up() {
    let (root, graph) = store();
    let id = Multi::new("one").pull(&graph, &["debian:12"]);
    drop(graph);
    lose_database(root.path());
    let graph = open(root.path(), "vfs");
    assert_eq!(
        graph.give_up(&Place::Lost(id.to_string()), &[]).unwrap(),
        Outcome::Repaired(gantry_graph::Repair::Deleted)
    );
    assert_eq!(graph.content().list().unwrap(), []);
    assert_eq!(fsck(&graph, false), []);
}

fn edges(graph: &Graph, id: &str) -> BTreeMap<String, String> {
    graph.db().read(|db| db.edges(id)).unwrap()
}

#[test]
fn an_image_leads_to_its_layers_and_its_parent_and_a_check_tells_when_it_does_not() {
    let (root, graph) = store();
    let source = debian();
    let base = source.pull(&graph, &["debian:12"]);
    graph.create_container_layer("web", &base, None).unwrap();
    let child = graph.commit_container("web", gantry_graph::Commit { name: Some(name("child")), ..Default::default() });
    let child = child.unwrap().id.clone();
    let layer = |index: usize| format!("layer:{}", source.chain()[index].hex());
    let own = BTreeMap::from([("layer:000".to_owned(), layer(0)), ("layer:001".to_owned(), layer(1))]);
    let mut of_child = own.clone();
    of_child.insert("parent".to_owned(), base.to_string());
    assert_eq!((edges(&graph, base.as_str()), edges(&graph, child.as_str())), (own, of_child.clone()));
    let path = graph.db().read(|db| db.references(&layer(1))).unwrap();
    assert!(path.contains(&"/images/docker.io%2Flibrary%2Fdebian:12/layer:001".to_owned()), "{path:?}");
    assert_eq!(fsck(&graph, false), []);
    let break_edges = |graph: &Graph| {
        let change = |db: &gantry_graph::Transaction<'_>| {
            db.unlink(child.as_str(), "parent")?;
            db.link(child.as_str(), "layer:000", &layer(1))?;
            db.link(child.as_str(), "more", &layer(0))
        };
        graph.db().write(Durability::Process, change).unwrap();
    };
    break_edges(&graph);
    let found = fsck(&graph, true);
    let told = |finding: &gantry_graph::Finding| {
        finding.place == Place::Record(child.to_string()) && matches!(finding.problem, Problem::Altered(_))
    };
    assert!(found.len() == 1 && told(&found[0]), "{found:?}");
    assert_eq!(edges(&graph, child.as_str()), of_child);
    // A database that an older version wrote has none: they are made once.
    break_edges(&graph);
    graph.db().write(Durability::Process, |db| db.purge("edges")).unwrap();
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_eq!(edges(&graph, child.as_str()), of_child);
    graph.remove_container_layer("web").unwrap();
    graph.remove_image("child", false, true, &[]).unwrap();
    graph.remove_image("debian:12", false, true, &[]).unwrap();
    assert_eq!(fsck(&graph, false), []);
    assert!(graph.db().entities("layer").unwrap().is_empty());
}

#[test]
fn a_damaged_shelf_loses_no_image_of_its_driver_and_is_told() {
    let (root, graph) = store();
    let multi = Multi::new("one");
    let id = multi.pull(&graph, &["debian:12"]);
    drop(graph);
    let graph = open(root.path(), "vfs");
    graph.db().put_entity(Durability::Disk, "shelf:overlay", "shelf", "[]").unwrap();
    drop(graph);
    let graph = open(root.path(), "vfs");
    graph.sweep().unwrap();
    let found = fsck(&graph, true);
    assert!(matches!(&found[..], [finding] if finding.place == Place::Record("shelf:overlay".to_owned())), "{found:?}");
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_whole(&graph, &multi, &graph.image(id.as_str()).unwrap());
}

#[test]
fn a_start_whose_driver_of_before_is_not_known_any_more_takes_nobodys_images() {
    let (root, graph) = store();
    let multi = Multi::new("one");
    let id = multi.pull(&graph, &["debian:12"]);
    let damage = |graph: &Graph| graph.db().put_entity(Durability::Disk, "graphdriver", "graphdriver", "[]").unwrap();
    damage(&graph);
    drop(graph);
    let graph = open(root.path(), "overlay");
    assert_whole(&graph, &multi, &graph.image("debian:12").unwrap());
    damage(&graph);
    drop(graph);
    let graph = open(root.path(), "vfs");
    assert!(graph.images().is_empty());
    assert_eq!(fsck(&graph, true), []);
    graph.sweep().unwrap();
    for document in multi.documents() {
        assert!(graph.content().exists(&digest_of(document)), "of {id}");
    }
}
