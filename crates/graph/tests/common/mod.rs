//! Images as registries have them, and stores to put them in.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write;
use std::path::Path;

use gantry_api::reference::{Digest, Reference};
use gantry_graph::{Descriptor, Graph, Manifest, Registration, chain_id, digest_of};

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
        std::thread::scope(|scope| {
            for (index, blob) in self.blobs.iter().enumerate().rev() {
                let registration = &registration;
                scope.spawn(move || registration.unpack(index, &mut blob.as_slice()).unwrap());
            }
        });
        let names: Vec<_> = names.iter().map(|name| Reference::parse(name).unwrap()).collect();
        registration.commit(&names).unwrap().id.clone()
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
