//! Images as registries have them, and stores to put them in.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use gantry_api::reference::{Digest, Reference};
use gantry_graph::{Descriptor, Error, Finding, Graph, Loaded, Manifest, Registration, chain_id, digest_of};

pub fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1);
        builder.append_data(&mut header, name, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image as a registry has it.
pub struct Source {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub blobs: Vec<Vec<u8>>,
}

impl Source {
    pub fn new(layers: &[&[(&str, &str)]]) -> Self {
        Self::of(layers.iter().map(|files| tar(files)).collect())
    }

    pub fn of(layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer).to_string()).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["A=b"], "Cmd": "echo hi"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "one"}, {"created_by": "env", "empty_layer": true}, {"created_by": "two"}],
        });
        let blobs = layers.iter().map(|layer| gzip(layer)).collect();
        Self { config: serde_json::to_vec(&config).unwrap(), layers, blobs }
    }

    pub fn manifest(&self) -> Manifest {
        let layers = self.blobs.iter().map(|blob| Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            digest: digest_of(blob),
            size: blob.len() as u64,
        });
        Manifest { raw: b"{}".to_vec(), media_type: "manifest".to_owned(), layers: layers.collect() }
    }

    pub fn chain(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::new();
        for layer in &self.layers {
            chain.push(chain_id(chain.last(), &digest_of(layer)));
        }
        chain
    }

    pub fn begin(&self, graph: &Graph) -> Registration {
        graph.register(self.config.clone(), Some(self.manifest())).unwrap()
    }

    pub fn pull(&self, graph: &Graph, names: &[&str]) -> Digest {
        let registration = self.begin(graph);
        let unpack = |index: usize| registration.unpack(index, &mut self.blobs[index].as_slice()).unwrap();
        if graph.unpacks_in_parallel() {
            let layers = (0..self.blobs.len()).rev();
            std::thread::scope(|scope| layers.for_each(|index| drop(scope.spawn(move || unpack(index)))));
        } else {
            (0..self.blobs.len()).for_each(|index| _ = unpack(index));
        }
        let names: Vec<_> = names.iter().map(|name| Reference::parse(name).unwrap()).collect();
        registration.commit(&names).unwrap().id.clone()
    }
}

/// An OCI layout with a manifest for each image, whose layers are compressed or not; returns it with the manifests.
pub fn layout(images: &[(&str, &Source, bool)]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let describe = |kind: &str, bytes: &[u8]| {
        let kind = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": kind, "digest": digest_of(bytes), "size": bytes.len()})
    };
    let (mut files, mut entries, mut manifests) =
        (vec![("oci-layout".to_owned(), b"{}".to_vec())], Vec::new(), Vec::new());
    for (name, source, compressed) in images {
        let (layers, kind) =
            if *compressed { (&source.blobs, "layer.v1.tar+gzip") } else { (&source.layers, "layer.v1.tar") };
        let described: Vec<_> = layers.iter().map(|layer| describe(kind, layer)).collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("config.v1+json", &source.config), "layers": described});
        let manifest = serde_json::to_vec_pretty(&manifest).unwrap();
        let mut entry = describe("manifest.v1+json", &manifest);
        entry["annotations"] =
            serde_json::json!({"io.containerd.image.name": self::name(name).with_default_tag().to_string()});
        entries.push(entry);
        let blobs = layers.iter().chain([&source.config, &manifest]);
        files.extend(blobs.map(|bytes| (format!("blobs/sha256/{}", digest_of(bytes).hex()), bytes.clone())));
        manifests.push(manifest);
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    (pack(&files), manifests)
}

/// An archive of files.
pub fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn load(graph: &Graph, archive: &[u8]) -> Result<Vec<Loaded>, Error> {
    graph.load(&mut &*archive, None, &|_| {})
}

pub fn save(graph: &Graph, names: &[&str]) -> Vec<u8> {
    let images: Vec<_> = names.iter().map(|text| (graph.image(text).unwrap(), vec![name(text)])).collect();
    let mut archive = Vec::new();
    graph.save(&images, &mut archive).unwrap();
    archive
}

/// The files of an archive.
pub fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    });
    files.collect()
}

pub fn fsck(graph: &Graph, repair: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    graph.fsck(repair, &mut |finding| findings.push(finding)).unwrap();
    findings
}

/// Has the kernel refuse to open a file, which says nothing of what was in it: a socket takes its place.
pub fn refuse_reading(root: &Path, file: &Path) -> std::os::unix::net::UnixListener {
    // The path of a socket is short.
    let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    gantry_linux::fs::rename(root.join("socket"), file).unwrap();
    socket
}

pub fn lose_database(root: &Path) {
    gantry_linux::fs::remove_file(root.join("gantry.db")).unwrap();
    for part in ["-wal", "-shm"] {
        // They go with a database that was closed in order.
        let _ = gantry_linux::fs::remove_file(root.join(format!("gantry.db{part}")));
    }
}

pub fn debian() -> Source {
    Source::new(&[&[("etc/os", "debian"), ("bin/sh", "sh")], &[("etc/app", "12345")]])
}

pub fn open(root: &Path, driver: &str) -> Graph {
    let driver = gantry_graphdriver::open(root, Some(driver)).unwrap().0;
    Graph::open(root, driver).unwrap()
}

pub fn store() -> (tempfile::TempDir, Graph) {
    let root = tempfile::tempdir().unwrap();
    let graph = open(root.path(), "overlay");
    (root, graph)
}

pub fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}
