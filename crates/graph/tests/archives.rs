//! Images as archives, and images of containers: what `save`, `load` and `commit` promise, on both drivers.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(missing_docs, reason = "tests")]

mod common;

use std::io::Read;

use common::{Source, bzip2, debian, files, fsck, gzip, load, name, open, pack, save, store, tar};
use gantry_api::container::Config;
use gantry_graph::{Commit, Error, Graph, Import, Removed, digest_of};
use serde_json::{Value, json};

#[test]
fn what_is_saved_is_loaded_elsewhere_with_the_same_ids_and_archives() {
    for driver in ["overlay", "vfs"] {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (open(here.path(), driver), open(there.path(), driver));
        let source = debian();
        let id = source.pull(&from, &["debian:12", "other/name:1"]);
        let archive = save(&from, &["debian:12"]);
        assert_eq!(archive, save(&from, &["debian:12"]), "the same image gives the same bytes");
        let loaded = load(&to, &gzip(&archive)).unwrap();
        assert_eq!((&loaded[0].image.id, &loaded[0].names[..]), (&id, &[name("debian:12")][..]));
        assert_eq!(&*to.image("debian:12").unwrap().raw, source.config.as_slice());
        assert!(to.image("other/name:1").is_err());
        assert_eq!(archive, save(&to, &["debian:12"]));
        // A second time there is nothing to unpack.
        assert_eq!(load(&to, &archive).unwrap()[0].image.id, id);
        // Every blob is what its name says, and every layer is the one that was pulled.
        let files = files(&archive);
        for (path, bytes) in &files {
            if let Some(hex) = path.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
                assert_eq!(digest_of(bytes).hex(), hex);
            }
        }
        for layer in &source.layers {
            assert_eq!(&files[&format!("blobs/sha256/{}", digest_of(layer).hex())], layer);
        }
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["debian:12"]));
    }
}

#[test]
fn docker_archives_with_links_and_oci_layouts_of_several_machines_are_loaded() {
    let (_root, graph) = store();
    let source = Source::new(&[&[("a", "1")], &[("b", "2")]]);
    let mut old = tar::Builder::new(Vec::new());
    let mut file = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        old.append_data(&mut header, path, bytes).unwrap();
    };
    file("x/layer.tar", &source.layers[0]);
    file("z/layer.tar", &source.layers[1]);
    file("config.json", &source.config);
    let manifest = json!([{"Config": "config.json", "RepoTags": ["old:1"], "Layers": ["y/layer.tar", "z/layer.tar"]}]);
    file("manifest.json", manifest.to_string().as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    old.append_link(&mut header, "y/layer.tar", "../x/layer.tar").unwrap();
    let loaded = load(&graph, &old.into_inner().unwrap()).unwrap();
    assert_eq!(loaded[0].image.id, digest_of(&source.config));
    assert_eq!(graph.image("old:1").unwrap().size(), 2);

    let source = debian();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest_of(bytes).hex());
    let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest_of(bytes).to_string(), "size": bytes.len()});
    let layers: Vec<_> = source.blobs.iter().map(|bytes| describe("layer", bytes)).collect();
    let manifest =
        json!({"schemaVersion": 2, "config": describe("config", &source.config), "layers": layers}).to_string();
    let mut ours = describe("manifest", manifest.as_bytes());
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut foreign = describe("manifest", b"{}");
    foreign["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let nested = json!({"manifests": [foreign, ours]}).to_string();
    let mut entry = describe("index", nested.as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "docker.io/library/debian:sid"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let archive = pack(&[
        ("oci-layout", b"{}"),
        ("index.json", index.as_bytes()),
        (&blob(nested.as_bytes()), nested.as_bytes()),
        (&blob(b"{}"), b"{}"),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(&source.config), &source.config),
        (&blob(&source.blobs[0]), &source.blobs[0]),
        (&blob(&source.blobs[1]), &source.blobs[1]),
    ]);
    if cfg!(target_arch = "x86_64") {
        let loaded = load(&graph, &archive).unwrap();
        assert_eq!(loaded.len(), 1);
        let image = graph.image("debian:sid").unwrap();
        assert_eq!(image.manifest().unwrap().digest, digest_of(manifest.as_bytes()));
        assert_eq!(image.layers[0].blobs[0].descriptor.digest, digest_of(&source.blobs[0]));
    }
}

/// A stream without an end, and how much of it was read.
struct Endless(u64);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer.fill(b'n');
        self.0 += buffer.len() as u64;
        Ok(buffer.len())
    }
}

#[test]
fn a_header_that_never_ends_is_refused_before_it_fills_the_memory() {
    let (_root, graph) = store();
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(64 << 20);
        header.set_cksum();
        let mut rest = Endless(0);
        let error = graph.load(&mut header.as_bytes().chain(&mut rest), None, &|_| {}).unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }) && error.to_string().contains("of headers"),
            "{kind:?}: {error}"
        );
        assert!(rest.0 < 8 << 20, "{kind:?}: {} bytes were read", rest.0);
    }
}

#[test]
fn a_broken_archive_is_refused_and_leaves_nothing() {
    let (root, graph) = store();
    let source = debian();
    let manifest = |layers: Value| json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": layers}]).to_string();
    let both = manifest(json!(["a", "b"]));
    let digested = manifest(json!(["a"])).replace("x:1", &format!("x@sha256:{:064}", 0));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no archive", b"no archive, and longer than the magic".to_vec(), "image archive"),
        ("a root file system", tar(&[("bin/sh", "sh")]), "import"),
        (
            "a digest for a name",
            pack(&[("c", &source.config), ("a", &source.layers[0]), ("manifest.json", digested.as_bytes())]),
            "digest",
        ),
        (
            "a layer that is not there",
            pack(&[("c", &source.config), ("a", &source.layers[0]), ("manifest.json", both.as_bytes())]),
            "\"b\"",
        ),
        (
            "a layer too few",
            pack(&[("c", &source.config), ("a", b""), ("manifest.json", manifest(json!(["a"])).as_bytes())]),
            "layers",
        ),
        (
            "another layer",
            pack(&[
                ("c", &source.config),
                ("a", &source.layers[0]),
                ("b", &tar(&[("x", "y")])),
                ("manifest.json", both.as_bytes()),
            ]),
            "digest",
        ),
        (
            "a name that is none",
            pack(&[("c", &source.config), ("manifest.json", br#"[{"Config":"c","RepoTags":["X:"]}]"#)]),
            "name",
        ),
        (
            "a name that would be read as a digest",
            pack(&[("c", &source.config), ("manifest.json", br#"[{"Config":"c","RepoTags":["sha256:1"]}]"#)]),
            "read as a digest",
        ),
        ("a path out", pack(&[("manifest.json", br#"[{"Config":"../../etc/passwd"}]"#)]), "passwd"),
        ("a cut end", save_of_debian()[..3000].to_vec(), "image archive"),
    ];
    for (what, archive, wanted) in cases {
        let error = load(&graph, &archive).unwrap_err().to_string();
        assert!(error.contains(wanted), "{what}: {error}");
        assert!(graph.images().is_empty(), "{what}");
        assert!(graph.driver().list().unwrap().is_empty(), "{what}");
        assert_eq!(std::fs::read_dir(root.path().join("content/ingest")).unwrap().count(), 0, "{what}");
    }
}

/// Gives all that it has, and its client leaves.
struct Leaving<'a>(&'a Graph, &'a [u8]);

impl Read for Leaving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.read(buffer)?;
        if self.1.is_empty() {
            self.0.leave();
        }
        Ok(length)
    }
}

#[test]
fn who_leaves_is_not_waited_for_until_what_came_is_inflated() {
    let (root, graph) = store();
    let saved = save_of_debian();
    for compress in [gzip, bzip2] {
        let (here, packed) = (graph.leavable(), compress(&saved));
        let error = here.load(&mut Leaving(&here, &packed), None, &|_| {}).unwrap_err().to_string();
        assert!(error.contains("the client has gone away"), "{error}");
        let (here, packed) = (graph.leavable(), compress(&tar(&[("a", "b")])));
        let error = here.import(&mut Leaving(&here, &packed), Import::default()).unwrap_err().to_string();
        assert!(error.contains("the client has gone away"), "{error}");
        assert!(graph.images().is_empty() && graph.driver().list().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(root.path().join("content/ingest")).unwrap().count(), 0);
    }
}

#[test]
fn a_damaged_archive_is_its_senders_fault_whatever_it_is_compressed_by() {
    let (_root, graph) = store();
    for compress in [gzip, bzip2] {
        let mut broken = compress(&tar(&[("a", "b")]));
        let middle = broken.len() / 2;
        broken[middle] ^= 0x10;
        for error in
            [load(&graph, &broken).unwrap_err(), graph.import(&mut broken.as_slice(), Import::default()).unwrap_err()]
        {
            assert_eq!(error.kind(), gantry_api::ErrorKind::InvalidParameter, "{error}");
        }
    }
}

/// What the driver has that is no layer.
fn drafts(root: &std::path::Path, driver: &str) -> usize {
    std::fs::read_dir(root.join(driver).join("drafts")).unwrap().count()
}

#[test]
fn a_layer_that_an_image_has_twice_is_in_the_archive_once_and_in_the_image_twice() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let source = Source::new(&[&[("a", "1")], &[("a", "22")], &[("a", "1")]]);
        let manifest = json!([{"Config": "c", "RepoTags": ["twice:1"], "Layers": ["1", "2", "1"]}]).to_string();
        let archive = pack(&[
            ("1", &source.layers[0]),
            ("2", &source.layers[1]),
            ("c", &source.config),
            ("manifest.json", manifest.as_bytes()),
        ]);
        let loaded = load(&graph, &archive).unwrap();
        assert_eq!(loaded[0].image.id, digest_of(&source.config));
        let sizes: Vec<u64> = loaded[0].image.layers.iter().map(|layer| layer.size).collect();
        assert_eq!(sizes, [1, 2, 1]);
        assert_eq!(fsck(&graph, false), []);
        assert_eq!(drafts(root.path(), driver), 0);
    }
}

#[test]
fn a_layer_that_is_in_the_store_is_not_read_again_wherever_the_archive_wants_it() {
    let (root, graph) = store();
    let source = Source::new(&[&[("a", "1")], &[("b", "2")]]);
    source.pull(&graph, &["first:1"]);
    let other = Source::new(&[&[("c", "3")], &[("b", "2")]]);
    let name = |index: usize| format!("{}.tar", digest_of(&other.layers[index]).hex());
    let layers = json!([name(0), name(1)]);
    let manifest = json!([{"Config": "c", "RepoTags": ["second:1"], "Layers": layers}]).to_string();
    let archive = pack(&[
        (&name(0), &other.layers[0]),
        (&name(1), b"not even a layer"),
        ("c", &other.config),
        ("manifest.json", manifest.as_bytes()),
    ]);
    load(&graph, &archive).unwrap();
    assert_eq!(files(&save(&graph, &["second:1"]))[&format!("blobs/sha256/{}", &name(1)[..64])], other.layers[1]);
    assert_eq!((fsck(&graph, false), drafts(root.path(), "overlay")), (vec![], 0));
}

#[test]
fn what_no_image_of_an_archive_wants_may_be_broken_and_goes() {
    let (root, graph) = store();
    let source = debian();
    let manifest = json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["a", "b"]}]).to_string();
    let escape = pack(&[("ok", b"1")]);
    let files: &[(&str, &[u8])] = &[
        ("README", b"no document and no layer"),
        ("junk.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff]),
        ("cut.tar", &escape[..700]),
        ("unused.tar", &escape),
        ("a", &source.layers[0]),
        ("b", &source.blobs[1]),
        ("c", &source.config),
        ("manifest.json", manifest.as_bytes()),
    ];
    assert_eq!(load(&graph, &pack(files)).unwrap()[0].image.id, digest_of(&source.config));
    assert_eq!(graph.driver().list().unwrap().len(), 2);
    assert_eq!((fsck(&graph, false), drafts(root.path(), "overlay")), (vec![], 0));
    assert_eq!(std::fs::read_dir(root.path().join("content/ingest")).unwrap().count(), 0);
    // One that is wanted is not taken for whole.
    let broken = json!([{"Config": "c", "RepoTags": ["x:2"], "Layers": ["cut.tar", "b"]}]).to_string();
    let (_root, graph) = store();
    let files = [&files[..7], &[("manifest.json", broken.as_bytes())]].concat();
    let error = load(&graph, &pack(&files)).unwrap_err().to_string();
    assert!(error.contains("ends in the middle"), "{error}");
    assert!(graph.images().is_empty() && graph.driver().list().unwrap().is_empty());
}

fn save_of_debian() -> Vec<u8> {
    let (_root, graph) = store();
    debian().pull(&graph, &["debian:12"]);
    save(&graph, &["debian:12"])
}

#[test]
fn a_commit_is_the_image_with_one_layer_more_and_its_parent_goes_after_it() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let base = debian().pull(&graph, &["debian:12"]);
        graph.create_container_layer("web", &base, None).unwrap();
        let commit = |name: &str| Commit {
            name: Some(common::name(name)),
            config: Config { cmd: Some(vec!["true".to_owned()]), ..Config::default() },
            created: "2026-01-02T03:04:05Z".to_owned(),
            created_by: "sh -c x".to_owned(),
            author: "me".to_owned(),
            comment: "why".to_owned(),
        };
        let unchanged = graph.commit_container("web", commit("same:1")).unwrap();
        assert_eq!(unchanged.layers.len(), 2);
        assert!(unchanged.history()[0].0.empty_layer);

        let dir = root.path().join(driver).join("layers/web").join(if driver == "vfs" { "root" } else { "diff" });
        std::fs::write(dir.join("new"), "12345678").unwrap();
        let image = graph.commit_container("web", commit("mine:1")).unwrap();
        assert_eq!((image.layers.len(), image.size(), image.parent.as_ref()), (3, 21, Some(&base)));
        assert_eq!(image.config.config.as_ref().unwrap().cmd.as_deref(), Some(&["true".to_owned()][..]));
        let (step, size) = image.history().remove(0);
        assert_eq!(
            (step.created_by.as_str(), step.author.as_str(), step.comment.as_str(), size),
            ("sh -c x", "me", "why", 8)
        );
        assert_eq!(
            graph.commit_container("web", commit("mine:2")).unwrap().id,
            image.id,
            "the same files, the same image"
        );
        assert!(matches!(graph.commit_container("none", commit("x")), Err(Error::NotFound { .. })));
        let saved = files(&save(&graph, &["mine:1"]));
        assert_eq!(saved.keys().filter(|path| path.len() > 60).count(), 5, "three layers, a configuration, a manifest");

        // It is an image like any other after a restart; what it was made of stays as long as it.
        graph.remove_container_layer("web").unwrap();
        drop(graph);
        let graph = open(root.path(), driver);
        assert_eq!(graph.image("mine:1").unwrap().parent, Some(base.clone()));
        let refused = graph.remove_image(base.as_str(), true, true, &[]).unwrap_err().to_string();
        assert!(refused.contains("dependent child images"), "{refused}");
        assert_eq!(graph.remove_image("debian:12", false, true, &[]).unwrap(), [Removed::Untagged("debian:12".into())]);
        graph.remove_image("same:1", false, true, &[]).unwrap();
        graph.remove_image("mine:2", false, true, &[]).unwrap();
        let removed = graph.remove_image("mine:1", false, true, &[]).unwrap();
        assert!(removed.contains(&Removed::Deleted(base)), "{removed:?}");
        assert!(graph.images().is_empty() && graph.driver().list().unwrap().is_empty());
    }
}

#[test]
fn a_commit_of_a_container_whose_image_is_gone_has_a_step_for_every_layer() {
    let (root, graph) = store();
    let base = debian().pull(&graph, &["debian:12"]);
    graph.create_container_layer("web", &base, None).unwrap();
    graph.remove_image("debian:12", true, true, &[]).unwrap();
    std::fs::write(root.path().join("overlay/layers/web/diff/new"), "123").unwrap();
    let commit = Commit { name: Some(name("mine:1")), created_by: "sh -c x".to_owned(), ..Commit::default() };
    let image = graph.commit_container("web", commit).unwrap();
    let steps: Vec<_> = image.history().into_iter().map(|(step, size)| (step.created_by, size)).collect();
    assert_eq!(steps, [("sh -c x".to_owned(), 3), (String::new(), 5), (String::new(), 8)]);
}

#[test]
fn a_layer_whose_files_changed_on_disk_is_not_saved_as_if_it_were_whole() {
    let (root, graph) = store();
    debian().pull(&graph, &["debian:12"]);
    let image = graph.image("debian:12").unwrap();
    let file = root.path().join("overlay/layers").join(&image.layers[1].store_id).join("diff/etc/app");
    std::fs::write(file, "54321").unwrap();
    let error = graph.save(&[(image, vec![])], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

/// What `docker save` wrote before Docker 1.10: nothing in it says a digest.
#[test]
fn archives_of_old_docker_are_loaded_with_the_ids_that_docker_gives_them() {
    for driver in ["overlay", "vfs"] {
        let root = tempfile::tempdir().unwrap();
        let graph = open(root.path(), driver);
        let (below, above) = (tar(&[("one", "1")]), tar(&[("two", "2")]));
        let (first, second) = ("a".repeat(64), "b".repeat(64));
        let old = |id: &str, parent: &str, created: &str, cmd: &str| {
            format!(
                r#"{{"id":"{id}"{parent},"created":"{created}","container_config":{{"Cmd":["/bin/sh","-c","{cmd}"]}},"docker_version":"1.2.0","author":"me","config":{{"Cmd":["sh"]}},"architecture":"amd64","os":"linux","Size":1}}"#
            )
        };
        let parent = format!(r#","parent":"{first}""#);
        let (one, two) =
            (old(&first, "", "2014-01-01T00:00:00Z", "one"), old(&second, &parent, "2014-01-02T00:00:00Z", "two"));
        let repositories =
            format!(r#"{{"localhost:5000/old":{{"1.2":"{second}","latest":"{second}"}},"base":{{"1":"{first}"}}}}"#);
        let path = |id: &str, name: &str| format!("{id}/{name}");
        let archive = pack(&[
            (&path(&second, "VERSION"), b"1.0"),
            (&path(&second, "json"), two.as_bytes()),
            (&path(&second, "layer.tar"), &above),
            (&path(&first, "VERSION"), b"1.0"),
            (&path(&first, "json"), one.as_bytes()),
            (&path(&first, "layer.tar"), &below),
            ("repositories", repositories.as_bytes()),
        ]);
        let loaded = load(&graph, &archive).unwrap();
        assert_eq!(loaded.len(), 2);
        let image = graph.image("localhost:5000/old:1.2").unwrap();
        let expected = format!(
            concat!(
                r#"{{"architecture":"amd64","author":"me","config":{{"Cmd":["sh"]}},"#,
                r#""container_config":{{"Cmd":["/bin/sh","-c","two"]}},"created":"2014-01-02T00:00:00Z","docker_version":"1.2.0","#,
                r#""history":[{{"created":"2014-01-01T00:00:00Z","author":"me","created_by":"/bin/sh -c one"}},"#,
                r#"{{"created":"2014-01-02T00:00:00Z","author":"me","created_by":"/bin/sh -c two"}}],"os":"linux","#,
                r#""rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#
            ),
            digest_of(&below),
            digest_of(&above)
        );
        assert_eq!(std::str::from_utf8(&image.raw).unwrap(), expected);
        assert_eq!(graph.image("localhost:5000/old").unwrap().id, image.id);
        assert_eq!(graph.image("base:1").unwrap().layers.len(), 1);
        let steps: Vec<_> = image.history().into_iter().map(|(step, size)| (step.created_by, size)).collect();
        assert_eq!(steps, [("/bin/sh -c two".to_owned(), 1), ("/bin/sh -c one".to_owned(), 1)]);
        // Saved by id alone there are no names; half of one is none.
        let nameless = pack(&[(&path(&first, "json"), one.as_bytes()), (&path(&first, "layer.tar"), &below)]);
        assert_eq!(load(&graph, &nameless).unwrap()[0].names, []);
        let digested = format!(r#"{{"base@sha256":{{"{first}":"{first}"}}}}"#);
        for broken in [
            pack(&[
                (&path(&first, "json"), one.as_bytes()),
                (&path(&first, "layer.tar"), &below),
                ("repositories", digested.as_bytes()),
            ]),
            pack(&[(&path(&second, "json"), two.as_bytes()), (&path(&second, "layer.tar"), &above)]),
            pack(&[(&path(&first, "json"), one.as_bytes())]),
            pack(&[
                (&path(&first, "json"), old(&first, &parent, "", "").as_bytes()),
                (&path(&first, "layer.tar"), &below),
            ]),
            pack(&[("repositories", repositories.as_bytes())]),
        ] {
            assert!(matches!(load(&graph, &broken), Err(Error::Invalid { .. })));
        }
    }
}

#[test]
fn the_configurations_of_an_old_archive_are_held_within_bounds() {
    let (_root, graph) = store();
    let config = json!({"author": "x".repeat(3 << 20)}).to_string();
    let paths: Vec<_> = (0..12).map(|number| format!("{number:064x}/json")).collect();
    let files: Vec<_> = paths.iter().map(|path| (path.as_str(), config.as_bytes())).collect();
    let error = load(&graph, &pack(&files)).unwrap_err();
    assert!(error.to_string().contains("configurations of its layers are more than"), "{error}");
}
