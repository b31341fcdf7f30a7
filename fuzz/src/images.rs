//! Archives of images from a description: whole enough to load, wrong in places.

use std::io::Write;

use arbitrary::{Arbitrary, Result, Unstructured};
use bzip2::write::BzEncoder;
use flate2::Compression;
use flate2::write::GzEncoder;
use gantry_graph::digest_of;
use lzma_rust2::{XzOptions, XzWriter};
use serde_json::{Value, json};
use tar::EntryType;

use crate::tarball::{Tarball, name};

const NAMES: [&str; 10] = [
    "a:1",
    "a:2",
    "b",
    "docker.io/library/a:1",
    "registry.test:5000/x/y:t",
    "docker.io/localhost/x:1",
    "UPPER",
    "",
    "a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "docker.io/a.b/c:1",
];

/// What the target gets.
#[derive(Debug)]
pub struct Input {
    pub overlay: bool,
    archive: Archive,
}

#[derive(Debug)]
enum Archive {
    Described(Box<Described>),
    Hostile(Tarball, u8),
    Plain(Vec<u8>),
}

#[derive(Debug)]
struct Described {
    layers: Vec<(Tarball, u8)>,
    images: Vec<Picture>,
    docker: bool,
    layout: bool,
    nested: bool,
    compression: u8,
    changes: Vec<Change>,
}

/// An image: which layers, which names, and what is odd about it.
#[derive(Debug)]
struct Picture {
    layers: Vec<u8>,
    names: Vec<u8>,
    platform: u8,
    oddity: u8,
    /// Bytes of its documents that become others before they are hashed.
    edits: Vec<(u16, u8)>,
}

/// Something done to the list of files.
#[derive(Debug)]
enum Change {
    Remove(u8),
    Twice(u8),
    Swap(u8, u8),
    Link(u8, u8, bool),
    Elsewhere(u8, Vec<u8>),
    Byte(u8, u16, u8),
    Pipe(u8),
    Longer(u8),
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let overlay = u.arbitrary()?;
        let archive = match u.int_in_range(0..=15)? {
            0 => Archive::Plain(u.arbitrary()?),
            1 => Archive::Hostile(u.arbitrary()?, u.arbitrary()?),
            _ => Archive::Described(Box::new(described(u)?)),
        };
        Ok(Self { overlay, archive })
    }
}

fn described(u: &mut Unstructured<'_>) -> Result<Described> {
    let images = list(u, 3, |u| {
        Ok(Picture {
            layers: list(u, 4, Unstructured::arbitrary)?,
            names: list(u, 3, Unstructured::arbitrary)?,
            platform: u.arbitrary()?,
            oddity: u.arbitrary()?,
            edits: if u.ratio(1, 8)? { list(u, 3, Unstructured::arbitrary)? } else { Vec::new() },
        })
    })?;
    let (docker, layout, nested) = (u.arbitrary()?, u.arbitrary()?, u.ratio(1, 4)?);
    let compression = u.arbitrary()?;
    let changes = if u.ratio(1, 2)? { list(u, 3, change)? } else { Vec::new() };
    let layers = list(u, 3, |u| Ok((layer(u)?, u.arbitrary()?)))?;
    Ok(Described { layers, images, docker, layout, nested, compression, changes })
}

/// Mostly one that can be unpacked.
fn layer(u: &mut Unstructured<'_>) -> Result<Tarball> {
    if u.ratio(1, 3)? {
        return u.arbitrary();
    }
    let mut layer = Tarball::arbitrary(u)?;
    layer.members.truncate(4);
    for (index, member) in layer.members.iter_mut().enumerate() {
        member.name = format!("f{index}").into_bytes();
        member.kind = if member.kind == b'5' { b'5' } else { b'0' };
        member.owner = 0;
        member.unsummed = false;
        member.records.clear();
        member.edits.clear();
    }
    (layer.end, layer.cut) = (vec![0; 1024], 0);
    Ok(layer)
}

fn change(u: &mut Unstructured<'_>) -> Result<Change> {
    let which = u.arbitrary()?;
    Ok(match u.int_in_range(0..=7)? {
        0 => Change::Remove(which),
        1 => Change::Twice(which),
        2 => Change::Swap(which, u.arbitrary()?),
        3 => Change::Link(which, u.arbitrary()?, u.arbitrary()?),
        4 => Change::Elsewhere(which, name(u)?),
        5 => Change::Byte(which, u.arbitrary()?, u.arbitrary()?),
        6 => Change::Pipe(which),
        _ => Change::Longer(which),
    })
}

fn list<'a, T>(
    u: &mut Unstructured<'a>,
    most: usize,
    mut each: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=most)?).map(|_| each(u)).collect()
}

/// A file of the archive.
#[derive(Clone)]
struct Member {
    kind: EntryType,
    path: Vec<u8>,
    link: String,
    data: Vec<u8>,
}

impl Input {
    /// The archive; `outside` is a directory that is none of its business.
    pub fn bytes(&self, outside: &str) -> Vec<u8> {
        match &self.archive {
            Archive::Plain(bytes) => bytes.clone(),
            Archive::Hostile(tarball, compression) => compressed(tarball.bytes(outside), *compression),
            Archive::Described(described) => described.bytes(outside),
        }
    }
}

impl Described {
    fn bytes(&self, outside: &str) -> Vec<u8> {
        let mut members = Vec::new();
        let layers: Vec<_> = self.layers.iter().map(|(layer, _)| layer.bytes(outside)).collect();
        let blobs: Vec<_> =
            layers.iter().zip(&self.layers).map(|(layer, (_, how))| compressed(layer.clone(), *how)).collect();
        let mut put = |path: String, data: &[u8]| {
            let member = Member {
                kind: EntryType::Regular,
                path: path.clone().into_bytes(),
                link: String::new(),
                data: data.to_vec(),
            };
            if members.iter().all(|have: &Member| have.path != member.path) {
                members.push(member);
            }
            path
        };
        let mut blob = |data: &[u8]| put(format!("blobs/sha256/{}", digest_of(data).hex()), data);
        let paths: Vec<_> = blobs.iter().map(|data| blob(data)).collect();
        let (mut docker, mut entries) = (Vec::new(), Vec::new());
        for picture in &self.images {
            let chosen: Vec<usize> = picture
                .layers
                .iter()
                .filter(|_| !layers.is_empty())
                .map(|index| usize::from(*index) % layers.len())
                .collect();
            let names: Vec<&str> = picture.names.iter().map(|index| NAMES[usize::from(*index) % NAMES.len()]).collect();
            let config = picture.config(chosen.iter().map(|index| digest_of(&layers[*index]).to_string()).collect());
            let config_path = blob(&config);
            let chosen_paths: Vec<_> = chosen.iter().map(|index| &paths[*index]).collect();
            docker.push(json!({"Config": config_path, "RepoTags": names, "Layers": chosen_paths}));
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
                "layers": chosen.iter().map(|index| descriptor("application/vnd.oci.image.layer.v1.tar", &blobs[*index])).collect::<Vec<_>>(),
            });
            let manifest = picture.edited(manifest);
            blob(&manifest);
            let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
            if let Some(name) = names.first() {
                entry["annotations"] = json!({"io.containerd.image.name": name});
            }
            entry["platform"] = picture.platform();
            entries.push(entry);
        }
        let mut index = json!({"schemaVersion": 2, "manifests": entries});
        for _ in 0..if self.nested { 1 + usize::from(self.compression) % 7 } else { 0 } {
            let inner = serde_json::to_vec(&index).expect("plain data");
            blob(&inner);
            let entry = descriptor("application/vnd.oci.image.index.v1+json", &inner);
            index = json!({"schemaVersion": 2, "manifests": [entry]});
        }
        if self.docker || !self.layout {
            put("manifest.json".to_owned(), &serde_json::to_vec(&docker).expect("plain data"));
        }
        if self.layout {
            put("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#);
            put("index.json".to_owned(), &serde_json::to_vec(&index).expect("plain data"));
        }
        self.changes.iter().for_each(|change| change.apply(&mut members));
        compressed(archive(&members), self.compression)
    }
}

impl Picture {
    fn config(&self, mut diff_ids: Vec<String>) -> Vec<u8> {
        let mut kind = "layers";
        match self.oddity {
            0..10 => diff_ids.push(digest_of(b"another").to_string()),
            10..20 => drop(diff_ids.pop()),
            20..30 => diff_ids.reverse(),
            30..35 => kind = "other",
            _ => {}
        }
        let history: Vec<_> =
            diff_ids.iter().map(|_| json!({"created_by": "x", "empty_layer": self.oddity % 5 == 0})).collect();
        self.edited(json!({
            "architecture": self.platform()["architecture"], "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["A=b"], "Cmd": if self.oddity % 2 == 0 { json!("run") } else { json!(["run"]) }},
            "rootfs": {"type": kind, "diff_ids": diff_ids},
            "history": history,
        }))
    }

    fn platform(&self) -> Value {
        let architecture = match self.platform {
            0..200 => "amd64",
            200..210 => "arm64",
            _ => "",
        };
        json!({"os": if self.platform == 255 { "windows" } else { "linux" }, "architecture": architecture})
    }

    fn edited(&self, document: Value) -> Vec<u8> {
        let mut text = serde_json::to_vec(&document).expect("plain data");
        for (at, byte) in &self.edits {
            let at = usize::from(*at) % text.len();
            text[at] = *byte;
        }
        text
    }
}

impl Change {
    fn apply(&self, members: &mut Vec<Member>) {
        if members.is_empty() {
            return;
        }
        let count = members.len();
        let at = |index: u8| usize::from(index) % count;
        match self {
            Self::Remove(index) => drop(members.remove(at(*index))),
            Self::Twice(index) => members.push(members[at(*index)].clone()),
            Self::Swap(one, other) => members.swap(at(*one), at(*other)),
            Self::Link(index, target, hard) => {
                let target = String::from_utf8_lossy(&members[at(*target)].path).into_owned();
                let member = &mut members[at(*index)];
                member.link = if *hard { target } else { format!("/{target}") };
                member.kind = if *hard { EntryType::Link } else { EntryType::Symlink };
            }
            Self::Elsewhere(index, path) => members[at(*index)].path.clone_from(path),
            Self::Byte(index, byte, value) => {
                let data = &mut members[at(*index)].data;
                if let Some(place) = (!data.is_empty()).then(|| usize::from(*byte) % data.len()) {
                    data[place] = *value;
                }
            }
            Self::Pipe(index) => members[at(*index)].kind = EntryType::Fifo,
            Self::Longer(index) => members[at(*index)].data.extend_from_slice(b"\n\0\n"),
        }
    }
}

fn descriptor(kind: &str, data: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest_of(data), "size": data.len()})
}

fn archive(members: &[Member]) -> Vec<u8> {
    let mut archive = Vec::new();
    for member in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(member.kind);
        header.set_mode(0o644);
        let has_data = member.kind == EntryType::Regular;
        header.set_size(if has_data { member.data.len() as u64 } else { 0 });
        let old = header.as_old_mut();
        let (path, link) = (&member.path[..member.path.len().min(100)], member.link.as_bytes());
        old.name[..path.len()].copy_from_slice(path);
        old.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        if has_data {
            archive.extend_from_slice(&member.data);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Plain, or compressed in one of the ways that are read; some of these are cut off.
fn compressed(data: Vec<u8>, how: u8) -> Vec<u8> {
    let mut all = match how {
        0..150 => return data,
        150..190 | 246.. => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&data).expect("compress");
            encoder.finish().expect("compress")
        }
        190..220 => {
            let mut encoder = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(&data).expect("compress");
            encoder.finish().expect("compress")
        }
        220..246 => {
            let mut encoder = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).expect("compress");
            encoder.write_all(&data).expect("compress");
            encoder.finish().expect("compress")
        }
    };
    if matches!(how, 215..220 | 241..246 | 251..) {
        all.truncate(all.len() / 2);
    }
    all
}
