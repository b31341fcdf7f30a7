//! An archive of images as it comes in, each byte read once. Documents are kept; what looks like a layer is unpacked at once,
//! into a draft whose place nobody knows yet, because documents may come last. Hostile input: bounded, and no name of it
//! becomes a name on disk.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use gantry_api::reference::Digest;
use gantry_linux::{ResultExt, fs};
use tar::EntryType;

use super::crew::{Crew, Loose, State};
use super::staging::Staging;
use crate::decompress::{Leavable, compression, decompress, inflated_digest};
use crate::registration::{Pins, Registration};
use crate::{DOCUMENT_LIMIT, Error, Graph, Layer, Result};

/// Files of one archive: images of a few hundred layers, some thousand times over.
const FILE_LIMIT: usize = 100_000;
/// Bytes of a path (`PATH_MAX`).
const PATH_LIMIT: usize = 4096;
/// Links that lead to links.
const LINK_LIMIT: usize = 16;
/// Bytes of documents that are kept in memory; further ones are written to the disk.
const KEPT: u64 = 8 << 20;
/// Bytes that tell what a file is: a header of tar.
const HEAD: u64 = 512;
/// Bytes of headers before one file: its names and extended headers, which the reader of tar holds in memory.
const HEADER_LIMIT: u64 = 1 << 20;

/// The files of an archive. What no image took goes when it is dropped.
pub(super) struct Intake<'a> {
    graph: &'a Graph,
    staging: Staging,
    /// Also those that others of the same name replaced.
    entries: usize,
    kept: u64,
    members: HashMap<String, Member>,
    loose: Vec<Loose>,
    /// The compressed files that have the digest which their names say, as they came.
    blobs: HashMap<Digest, Blob>,
}

/// A compressed file as it came.
struct Blob {
    /// Its path in the archive.
    name: String,
    file: PathBuf,
    size: u64,
    /// An image keeps it.
    kept: bool,
}

enum Member {
    Document(Arc<[u8]>),
    File(PathBuf),
    /// The layer with this number.
    Loose(usize),
    /// A layer that is in the store, wherever the archive wants to have it.
    Known(Arc<Layer>, #[allow(dead_code, reason = "the layer stays as long as it lives")] Pins),
    /// To another path of the archive.
    Link(String),
}

impl<'a> Intake<'a> {
    /// Reads the whole archive, compressed or not.
    pub(super) fn read(graph: &'a Graph, input: &mut dyn Read) -> Result<Self> {
        let mut intake = Self {
            graph,
            staging: Staging::new(&graph.inner.content),
            entries: 0,
            kept: 0,
            members: HashMap::new(),
            loose: Vec::new(),
            blobs: HashMap::new(),
        };
        let mut magic = Vec::new();
        (&mut *input).take(4).read_to_end(&mut magic).map_err(failed)?;
        let mut input = BufReader::with_capacity(128 << 10, io::Cursor::new(magic.clone()).chain(input));
        let allowed = Cell::new(0);
        let inflated = Leavable { inner: decompress(&magic, &mut input)?, left: &graph.left };
        let metered = Metered { inner: inflated, allowed: &allowed };
        let mut archive = tar::Archive::new(metered);
        std::thread::scope(|scope| {
            let mut crew = Crew::new(graph, scope);
            let read = intake.entries(&mut archive, &allowed, &mut crew);
            // Also after a failure: what is unpacked by then is to go with the rest.
            let finished = crew.finish();
            intake.loose.append(&mut crew.done);
            read.and(finished)
        })?;
        allowed.set(u64::MAX);
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(failed)?;
        Ok(intake)
    }

    fn entries(
        &mut self,
        archive: &mut tar::Archive<impl Read>,
        allowed: &Cell<u64>,
        crew: &mut Crew<'_, '_>,
    ) -> Result<()> {
        let mut entries = archive.entries().map_err(failed)?;
        loop {
            allowed.set(HEADER_LIMIT);
            let Some(entry) = entries.next() else { return Ok(()) };
            let mut entry = entry.map_err(failed)?;
            allowed.set(u64::MAX);
            self.entry(&mut entry, crew)?;
            // What is left of it is none of the next one's headers.
            io::copy(&mut entry, &mut io::sink()).map_err(failed)?;
        }
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, crew: &mut Crew<'_, '_>) -> Result<()> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |why: &str| Error::invalid("image archive", format!("entry {path:?}: {why}"));
        let name = normal(&path, "").ok_or_else(|| refuse("its path leads out of the archive"))?;
        let target = entry.link_name_bytes();
        if name.len().max(target.as_ref().map_or(0, |target| target.len())) > PATH_LIMIT {
            return Err(Error::invalid("image archive", format!("a path of more than {PATH_LIMIT} bytes")));
        }
        self.entries += 1;
        if self.entries > FILE_LIMIT {
            return Err(refuse(&format!("more than {FILE_LIMIT} files")));
        }
        let member = match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => return Ok(()),
            EntryType::Regular | EntryType::Continuous => self.file(&name, entry, crew)?,
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = target.ok_or_else(|| refuse("a link to nothing"))?;
                // A symbolic link starts where it lies, a hard link at the root.
                let base =
                    if kind == EntryType::Symlink { name.rsplit_once('/').map_or("", |(base, _)| base) } else { "" };
                let target = normal(&String::from_utf8_lossy(&target), base);
                Member::Link(target.ok_or_else(|| refuse("a link out of the archive"))?)
            }
            _ => return Err(refuse("neither a file nor a directory nor a link")),
        };
        if let Some(Member::File(replaced)) = self.members.insert(name, member) {
            self.blobs.retain(|_, blob| blob.file != replaced);
            fs::remove_file(replaced)?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str, entry: &mut tar::Entry<'_, impl Read>, crew: &mut Crew<'_, '_>) -> Result<Member> {
        if let Some(layer) = self.known(name) {
            let pins = Pins::new(self.graph, vec![layer.chain_id.clone()]);
            self.graph.look_at(&layer.chain_id);
            // It may have gone before it was pinned; a damaged one is brought anew.
            if self.graph.inner.layers.sound(&layer.chain_id).is_some() {
                return Ok(Member::Known(layer, pins));
            }
        }
        let size = entry.size();
        let mut head = Vec::new();
        entry.take(HEAD).read_to_end(&mut head).map_err(failed)?;
        let is_layer = looks_like_layer(&head);
        let is_document = !is_layer && matches!(head.trim_ascii_start().first(), Some(b'{' | b'['));
        let named = digest_in(name).filter(|digest| compression(&head).is_some() && self.graph.is_ours_alone(digest));
        let mut whole = io::Cursor::new(head).chain(entry);
        if is_document && size <= DOCUMENT_LIMIT as u64 && self.kept + size <= KEPT {
            let mut bytes = Vec::new();
            whole.read_to_end(&mut bytes).map_err(failed)?;
            self.kept += size;
            return Ok(Member::Document(bytes.into()));
        }
        let unpacks = is_layer && self.graph.unpacks_in_parallel();
        if unpacks && named.is_none() {
            return crew.unpack(&mut whole).map(Member::Loose);
        }
        let mut copy = self.staging.copy(&mut whole, named.is_some())?;
        let read = if unpacks {
            crew.unpack(&mut copy).map(Member::Loose)
        } else {
            io::copy(&mut copy, &mut io::sink()).map_err(failed).map(|_| Member::File(copy.path.clone()))
        };
        let (file, size, digest) = copy.finish()?;
        let member = read?;
        if let Some(digest) = digest.filter(|digest| named.as_ref() == Some(digest)) {
            self.blobs.insert(digest, Blob { name: name.to_owned(), file, size, kept: false });
        }
        Ok(member)
    }

    /// The layer that is there for a file whose name says its digest.
    fn known(&self, name: &str) -> Option<Arc<Layer>> {
        let digest = digest_in(name)?;
        let is_it = |blob: &crate::Blob| {
            blob.descriptor.digest == digest && blob.verified && (blob.kept || !blob.seen.is_empty())
        };
        let mut layers = self.graph.inner.layers.all().into_iter();
        layers.find(|layer| layer.diff_id == digest || layer.blobs.iter().any(is_it))
    }

    /// Every path in it.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// The digest of the uncompressed archive that the file at a path is.
    pub(super) fn diff_id(&self, path: &str) -> Result<Digest> {
        let no_layer = |why: &str| Error::invalid(format!("{path} of the image archive"), why);
        let mut file: Box<dyn Read> = match self.find(path)? {
            Member::Known(layer, _) => return Ok(layer.diff_id.clone()),
            Member::Loose(number) => {
                return match self.loose.get(*number).map(|loose| &loose.state) {
                    Some(State::Unpacked(_, diff_id)) => Ok(diff_id.clone()),
                    Some(State::Taken(chain, _)) => {
                        let layer = self.graph.inner.layers.get(chain);
                        layer.map(|layer| layer.diff_id.clone()).ok_or_else(|| no_layer("it is gone"))
                    }
                    Some(State::Broken(error)) => Err(no_layer(&error.to_string())),
                    Some(State::Gone) | None => Err(no_layer("it cannot be unpacked")),
                };
            }
            Member::Document(bytes) => Box::new(io::Cursor::new(Arc::clone(bytes))),
            Member::File(staged) => Box::new(fs::open(staged)?),
            Member::Link(_) => unreachable!("links were followed"),
        };
        inflated_digest(&mut file, &self.graph.left)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.members.contains_key(path)
    }

    /// A file of the archive, by the path that its documents give: the name that the links at it lead to.
    fn find(&self, path: &str) -> Result<&Member> {
        let missing = || Error::invalid("image archive", format!("it names {path:?}, which is not in it"));
        let mut name = normal(path, "").ok_or_else(missing)?;
        for _ in 0..LINK_LIMIT {
            match self.members.get(&name) {
                Some(Member::Link(target)) => name.clone_from(target),
                Some(member) => return Ok(member),
                None => return Err(missing()),
            }
        }
        Err(Error::invalid("image archive", format!("{path:?} is a link to a link to a link")))
    }

    /// A JSON document of the archive.
    pub(super) fn document(&self, path: &str) -> Result<Vec<u8>> {
        let staged = match self.find(path)? {
            Member::Document(bytes) => return Ok(bytes.to_vec()),
            Member::File(staged) => staged,
            _ => return Err(Error::invalid(format!("{path} of the image archive"), "it is a layer, not a document")),
        };
        let mut bytes = Vec::new();
        let limit = DOCUMENT_LIMIT as u64;
        fs::open(staged)?.take(limit + 1).read_to_end(&mut bytes).during("read", path)?;
        if bytes.len() as u64 > limit {
            return Err(Error::invalid(format!("{path} of the image archive"), format!("more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Makes layer `index` of an image the file at `path`, unless it is there; those below it must be. Returns the bytes of
    /// its archive where it is new.
    pub(super) fn supply(&mut self, registration: &Registration, index: usize, path: &str) -> Result<Option<u64>> {
        if registration.is_present(index) {
            return Ok(None);
        }
        let number = match self.find(path)? {
            Member::Loose(number) => *number,
            Member::File(staged) => return unpack(registration, index, &mut fs::open(staged)?),
            Member::Document(bytes) => return unpack(registration, index, &mut &**bytes),
            Member::Known(layer, _) => return self.copy(registration, index, &layer.chain_id),
            Member::Link(_) => unreachable!("links were followed"),
        };
        let Some(loose) = self.loose.get_mut(number) else {
            return Err(Error::invalid("image archive", format!("{path:?} was not unpacked")));
        };
        match std::mem::replace(&mut loose.state, State::Gone) {
            State::Unpacked(extent, diff_id) => {
                let settled = registration.settle(index, &loose.id, extent, &diff_id);
                let chain = registration.chain(index).clone();
                loose.state = match settled {
                    Ok(true) => State::Taken(chain.clone(), Pins::new(self.graph, vec![chain])),
                    _ => State::Unpacked(extent, diff_id),
                };
                settled.map(|fresh| fresh.then_some(extent.archive))
            }
            State::Taken(chain, pins) => {
                loose.state = State::Taken(chain.clone(), pins);
                self.copy(registration, index, &chain)
            }
            State::Broken(error) => Err(error),
            State::Gone => Err(Error::invalid("image archive", format!("{path:?} cannot be unpacked"))),
        }
    }

    /// Keeps the compressed blobs that the manifests of an image have for layer `index`, which was supplied from `path`: those that
    /// are this layer and came with the archive. (What a registry has was not taken from it.)
    pub(super) fn keep(&mut self, registration: &Registration, index: usize, path: &str, is_fresh: bool) -> Result<()> {
        let diff_id = &registration.config().rootfs.diff_ids[index];
        for descriptor in registration.blobs_of(index) {
            let Some(blob) = self.blobs.get(&descriptor.digest).filter(|blob| blob.size == descriptor.size) else {
                continue;
            };
            let was_supplied = is_fresh && normal(path, "").as_ref() == Some(&blob.name);
            if !was_supplied && !self.diff_id(&blob.name).is_ok_and(|found| found == *diff_id) {
                continue;
            }
            if blob.kept {
                registration.take_blob(index, &descriptor.digest);
                continue;
            }
            // The file itself may be unpacked again.
            let link = self.staging.path()?;
            fs::hard_link(&blob.file, &link)?;
            registration.keep_blob(index, &descriptor.digest, &link)?;
            if let Some(blob) = self.blobs.get_mut(&descriptor.digest) {
                blob.kept = true;
            }
        }
        Ok(())
    }

    /// Unpacks once more what another layer was made of.
    fn copy(&self, registration: &Registration, index: usize, chain: &Digest) -> Result<Option<u64>> {
        registration.commit_below(index)?;
        let missing = || Error::NotFound { kind: "layer", name: chain.to_string() };
        let layer = self.graph.inner.layers.get(chain).ok_or_else(missing)?;
        self.graph.with_archive(&layer.store_id, |archive| unpack(registration, index, archive))
    }
}

/// Lets through what is allowed, and no more.
struct Metered<'a, R> {
    inner: R,
    allowed: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed.get();
        if allowed == 0 {
            let why = format!("more than {HEADER_LIMIT} bytes of headers before one file");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.inner.read(&mut buffer[..most])?;
        self.allowed.set(allowed - got as u64);
        Ok(got)
    }
}

fn unpack(registration: &Registration, index: usize, blob: &mut dyn Read) -> Result<Option<u64>> {
    match registration.unpack(index, blob)? {
        crate::Unpacked::Fresh(bytes) => Ok(Some(bytes)),
        crate::Unpacked::Shared => Ok(None),
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        for loose in &self.loose {
            if let State::Unpacked(..) = loose.state {
                self.graph.inner.layers.discard(&loose.id);
            }
        }
    }
}

/// The digest that a file's name says.
fn digest_in(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    Digest::from_hex(last.strip_suffix(".tar").unwrap_or(last)).ok()
}

/// Whether it begins as a tar archive does, or as a compressed file.
fn looks_like_layer(head: &[u8]) -> bool {
    match head {
        head if compression(head).is_some() => true,
        head if head.len() < HEAD as usize => false,
        head => {
            let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            let own = std::str::from_utf8(&head[148..156]).unwrap_or_default();
            let own = u32::from_str_radix(own.trim_matches(['\0', ' ']), 8);
            head.iter().all(|byte| *byte == 0) || own == Ok(sum(&head[..148]) + sum(&head[156..]) + 8 * 32)
        }
    }
}

/// A path without `.`, `..` and needless slashes, from the archive's root; `None` when it leads out.
fn normal(path: &str, base: &str) -> Option<String> {
    let base = if path.starts_with('/') { "" } else { base };
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

pub(super) fn failed(source: io::Error) -> Error {
    // The reader repeats what it could not read: nothing for a person's terminal.
    if source.to_string().contains(|character: char| character.is_control() || character == char::REPLACEMENT_CHARACTER)
    {
        return Error::invalid("image archive", "this is no tar archive, or a damaged one");
    }
    match source.kind() {
        // The reader of tar says so what it cannot understand.
        io::ErrorKind::Other if source.raw_os_error().is_none() => Error::invalid("image archive", source),
        _ => Error::stream("image archive", source),
    }
}

#[cfg(test)]
mod tests {
    use super::{looks_like_layer, normal};

    #[test]
    fn paths_of_an_archive_stay_in_it() {
        for (path, base, wanted) in [
            ("./a//b", "", Some("a/b")),
            ("../x/layer.tar", "y", Some("x/layer.tar")),
            ("/a", "b", Some("a")),
            ("../../x", "y", None),
            ("..", "", None),
        ] {
            assert_eq!(normal(path, base).as_deref(), wanted, "{path} from {base}");
        }
    }

    #[test]
    fn layers_are_told_from_documents_by_their_first_bytes() {
        let mut header = tar::Header::new_gnu();
        header.set_cksum();
        assert!(looks_like_layer(header.as_bytes()) && looks_like_layer(&[0; 512]) && looks_like_layer(&[0x1f, 0x8b]));
        assert!(
            looks_like_layer(b"BZh91AY&SY") && looks_like_layer(b"\xfd7zXZ\0") && looks_like_layer(b"\x28\xb5\x2f\xfd")
        );
        assert!(!looks_like_layer(b"1.0") && !looks_like_layer(&[b'{'; 512]) && !looks_like_layer(b""));
    }
}
