//! What an image came as: the documents of its registry, or of the archive that it was loaded from, kept byte for byte, so that
//! the digest that was pulled is the digest that is pushed.

use std::collections::{BTreeMap, HashMap, HashSet};

use gantry_api::json;
use gantry_api::platform::Platform;
use gantry_api::reference::{Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::{DOCUMENT_LIMIT, Descriptor, Image, digest_of};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Ways in which one image came that are told at a time.
pub(crate) const AT_ONCE: usize = 8;
/// Attestations of one image.
const ATTESTATIONS: usize = 8;
/// Bytes of all of them.
const ATTESTED: usize = 16 << 20;

/// A document by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub media_type: String,
    /// Its bytes.
    pub raw: Vec<u8>,
}

impl Document {
    pub(crate) fn descriptor(&self) -> Descriptor {
        let size = self.raw.len() as u64;
        Descriptor { media_type: self.media_type.clone(), digest: digest_of(&self.raw), size }
    }
}

/// One way in which an image came. The bytes of all of it are in the content store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The index that its manifest was chosen from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Descriptor>,
    /// Its manifest.
    pub manifest: Descriptor,
    /// What the index says about it: manifests of attestations, and what those name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<Descriptor>,
}

impl Origin {
    /// What it is pulled and pushed by.
    #[must_use]
    pub fn root(&self) -> &Descriptor {
        self.index.as_ref().unwrap_or(&self.manifest)
    }

    /// How an archive names it: its index, if there is one, and its manifest.
    pub(crate) fn told(&self) -> String {
        let manifest = &self.manifest.digest;
        self.index.as_ref().map_or_else(|| manifest.to_string(), |index| format!("{}/{manifest}", index.digest))
    }

    /// Everything that belongs to it.
    pub fn documents(&self) -> impl Iterator<Item = &Descriptor> {
        self.index.iter().chain([&self.manifest]).chain(&self.attached)
    }
}

/// The digests of everything that belongs to these.
pub(crate) fn documents(origins: &[Origin]) -> impl Iterator<Item = &Digest> {
    origins.iter().flat_map(Origin::documents).map(|document| &document.digest)
}

/// The origins of an image that came once more: those that it has a name by, and what it came as now, which is the last.
pub(crate) fn merged(known: &[Origin], came: &[Origin], names: &[&Reference]) -> Vec<Origin> {
    let same = |one: &Origin, other: &Origin| (one.root(), &one.manifest) == (other.root(), &other.manifest);
    let is_new = |origin: &&Origin| !came.iter().any(|new| same(new, origin));
    let mut origins: Vec<Origin> = if came.is_empty() {
        known.to_vec()
    } else {
        let named = |origin: &&Origin| names.iter().any(|name| name.digest() == Some(&origin.root().digest));
        known.iter().filter(named).filter(is_new).cloned().collect()
    };
    for new in came {
        let mut origin = new.clone();
        // What this registry or archive does not have was kept when another had it.
        let before = known.iter().filter(|known| same(known, new)).flat_map(|known| &known.attached);
        for attached in before {
            if !origin.attached.contains(attached) {
                origin.attached.push(attached.clone());
            }
        }
        origins.push(origin);
    }
    origins
}

/// The words of an index or of a manifest: which one it is, they tell.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Words {
    pub media_type: String,
    pub manifests: Vec<Entry>,
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
}

/// An entry of an index: a descriptor with more words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub descriptor: Descriptor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Entry {
    /// Whether it says something about this manifest.
    fn attests(&self, manifest: &Digest) -> bool {
        self.annotations.as_ref().is_some_and(|annotations| gantry_api::image::attests(annotations, manifest))
    }
}

/// Where documents are found by their digests, which are right.
pub(crate) type Find<'a> = &'a dyn Fn(&Digest) -> Option<Vec<u8>>;

/// Which documents lead to which images: pairs of an index, if there is one, and a manifest.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    of: HashMap<Digest, Vec<(Option<Digest>, Digest)>>,
    /// Documents that may still be looked at.
    left: usize,
}

impl Ways {
    /// What these indexes and manifests lead to; at most `limit` entries of indexes are looked at, here and later.
    pub(crate) fn from<'a>(roots: impl IntoIterator<Item = &'a Digest>, limit: usize, find: Find<'_>) -> Self {
        let mut ways = Self { left: limit, ..Self::default() };
        ways.follow(roots, find);
        // A manifest that an index has came by it.
        for ways in ways.of.values_mut() {
            let indexed = ways.iter().filter(|(index, _)| index.is_some());
            let indexed: HashSet<Digest> = indexed.map(|(_, manifest)| manifest.clone()).collect();
            ways.retain(|(index, manifest)| index.is_some() || !indexed.contains(manifest));
        }
        ways
    }

    fn follow<'a>(&mut self, roots: impl IntoIterator<Item = &'a Digest>, find: Find<'_>) {
        let mut seen = HashSet::new();
        for root in roots.into_iter().filter(|root| seen.insert(*root)) {
            let Some(words) = words(root, find) else { continue };
            self.add(&words, None, root);
            for entry in &words.manifests {
                if self.left == 0 {
                    return;
                }
                let digest = &entry.descriptor.digest;
                if let Some(words) = self.look(digest, find) {
                    self.add(&words, Some(root), digest);
                }
            }
        }
    }

    /// Reads a document, as long as more may be looked at.
    fn look(&mut self, digest: &Digest, find: Find<'_>) -> Option<Words> {
        self.left = self.left.checked_sub(1)?;
        words(digest, find)
    }

    fn add(&mut self, words: &Words, index: Option<&Digest>, manifest: &Digest) {
        if let Some(config) = words.config.as_ref().filter(|_| words.manifests.is_empty()) {
            self.push(&config.digest, (index.cloned(), manifest.clone()));
        }
    }

    /// What an archive says of an image, as [`Origin::told`] with spaces between; one of before that named an index alone. Documents
    /// that lead to the image are none of its ways by that: another index may have them.
    pub(crate) fn said(&mut self, image: &Digest, origins: &str, find: Find<'_>) {
        for told in origins.split(' ').take(AT_ONCE) {
            let (index, manifest) = told.split_once('/').map_or((None, told), |(index, rest)| (Some(index), rest));
            let (Ok(index), Ok(manifest)) = (index.map(str::parse).transpose(), manifest.parse()) else { continue };
            let alone = if index.is_none() { self.look(&manifest, find) } else { None };
            match alone.filter(|words| !words.manifests.is_empty()) {
                Some(words) => self.said_by_index(image, &manifest, &words, find),
                None => self.push(image, (index, manifest)),
            }
        }
    }

    /// The index leads to other images as well, which say so themselves.
    fn said_by_index(&mut self, image: &Digest, index: &Digest, words: &Words, find: Find<'_>) {
        for entry in &words.manifests {
            let manifest = &entry.descriptor.digest;
            let Some(words) = self.look(manifest, find) else { continue };
            if words.config.is_some_and(|config| config.digest == *image) {
                self.push(image, (Some(index.clone()), manifest.clone()));
            }
        }
    }

    /// More than are told at a time are not kept, of those with an index and of those without: an archive may have thousands.
    fn push(&mut self, image: &Digest, way: (Option<Digest>, Digest)) {
        let ways = self.of.entry(image.clone()).or_default();
        let alike = ways.iter().filter(|known| known.0.is_some() == way.0.is_some()).count();
        if alike < AT_ONCE && !ways.contains(&way) {
            ways.push(way);
        }
    }

    /// The origins of an image with so many layers, and all their documents.
    pub(crate) fn to(&self, image: &Digest, layers: usize, find: Find<'_>) -> Vec<Found> {
        let ways = self.of.get(image).into_iter().flatten().take(AT_ONCE);
        ways.filter_map(|(index, manifest)| Found::read(index.as_ref(), manifest, image, layers, find)).collect()
    }
}

fn words(digest: &Digest, find: Find<'_>) -> Option<Words> {
    json::from_slice(&find(digest)?).ok()
}

/// An origin with its documents.
pub(crate) struct Found {
    pub origin: Origin,
    pub documents: Vec<Vec<u8>>,
    /// The layers as the manifest has them, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Found {
    /// Reads what an index and a manifest say; none where that is not of this image.
    pub(crate) fn read(
        index: Option<&Digest>,
        manifest: &Digest,
        image: &Digest,
        layers: usize,
        find: Find<'_>,
    ) -> Option<Self> {
        let raw = find(manifest)?;
        let words: Words = json::from_slice(&raw).ok()?;
        let is_it = words.config.as_ref().is_some_and(|config| config.digest == *image) && words.layers.len() == layers;
        if !is_it || raw.len() > DOCUMENT_LIMIT {
            return None;
        }
        let kind = if words.media_type.is_empty() { OCI_MANIFEST.to_owned() } else { words.media_type };
        let described = Document { media_type: kind, raw: raw.clone() }.descriptor();
        let origin = Origin { index: None, manifest: described, attached: Vec::new() };
        let mut found = Self { origin, documents: vec![raw], layers: words.layers };
        if let Some(index) = index {
            found.add_index(find(index)?, find)?;
        }
        Some(found)
    }

    fn add_index(&mut self, raw: Vec<u8>, find: Find<'_>) -> Option<()> {
        let words: Words = json::from_slice(&raw).ok()?;
        let manifest = self.origin.manifest.digest.clone();
        let entry = words.manifests.iter().find(|entry| entry.descriptor.digest == manifest)?;
        if !entry.descriptor.media_type.is_empty() {
            self.origin.manifest.media_type.clone_from(&entry.descriptor.media_type);
        }
        for entry in words.manifests.iter().filter(|entry| entry.attests(&manifest)).take(ATTESTATIONS) {
            self.attach(&entry.descriptor, find);
        }
        let kind = if words.media_type.is_empty() { OCI_INDEX.to_owned() } else { words.media_type };
        self.origin.index = Some(Document { media_type: kind, raw: raw.clone() }.descriptor());
        self.documents.push(raw);
        Some(())
    }

    /// Takes an attestation, as far as it is there.
    fn attach(&mut self, manifest: &Descriptor, find: Find<'_>) {
        let Some(raw) = self.attach_one(manifest, find) else { return };
        let Ok(words) = json::from_slice::<Words>(&raw) else { return };
        for descriptor in words.config.iter().chain(&words.layers) {
            self.attach_one(descriptor, find);
        }
    }

    fn attach_one(&mut self, descriptor: &Descriptor, find: Find<'_>) -> Option<Vec<u8>> {
        let attached = &self.origin.attached;
        let sum: u64 = attached.iter().map(|attached| attached.size).sum();
        if attached.iter().any(|attached| attached.digest == descriptor.digest)
            || descriptor.size > ATTESTED as u64 - sum
        {
            return None;
        }
        let raw = find(&descriptor.digest)?;
        if raw.len() as u64 != descriptor.size || raw.len() > DOCUMENT_LIMIT {
            return None;
        }
        self.origin.attached.push(descriptor.clone());
        self.documents.push(raw.clone());
        Some(raw)
    }
}

impl Image {
    /// The manifest that it came by last, if it came by one.
    #[must_use]
    pub fn manifest(&self) -> Option<&Descriptor> {
        self.origins.last().map(|origin| &origin.manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_thousands_of_ways_to_one_image_as_many_are_kept_as_are_told() {
        let config = Document { media_type: "config".to_owned(), raw: b"{}".to_vec() }.descriptor();
        let described = |number: usize| {
            let raw = serde_json::json!({"config": config, "number": number}).to_string().into_bytes();
            Document { media_type: OCI_MANIFEST.to_owned(), raw }
        };
        let manifests: Vec<Document> = (0..100).map(described).collect();
        let entries: Vec<_> = manifests.iter().map(Document::descriptor).collect();
        let raw = serde_json::json!({"manifests": entries}).to_string().into_bytes();
        let index = Document { media_type: OCI_INDEX.to_owned(), raw };
        let documents: HashMap<Digest, &[u8]> = manifests
            .iter()
            .chain([&index])
            .map(|document| (document.descriptor().digest, document.raw.as_slice()))
            .collect();
        let find = |digest: &Digest| documents.get(digest).map(|raw| raw.to_vec());
        let (image, root) = (&config.digest, index.descriptor().digest);
        let roots: Vec<Digest> = entries.iter().map(|entry| entry.digest.clone()).collect();
        let mut ways = Ways::from(roots.iter().chain([&root]), usize::MAX, &find);
        roots.iter().for_each(|manifest| ways.said(image, manifest.as_str(), &find));
        ways.said(image, root.as_str(), &find);
        assert_eq!(ways.of[image].len(), 2 * AT_ONCE);
        // What may be looked at is shared by all that is said.
        let mut ways = Ways::from([], 50, &find);
        (0..100).for_each(|_| ways.said(image, root.as_str(), &find));
        assert_eq!(ways.left, 0);
    }

    fn origin(root: &str, attached: &[&str]) -> Origin {
        let descriptor =
            |word: &str| Document { media_type: "x".to_owned(), raw: word.as_bytes().to_vec() }.descriptor();
        Origin {
            index: Some(descriptor(root)),
            manifest: descriptor("manifest"),
            attached: attached.iter().map(|word| descriptor(word)).collect(),
        }
    }

    #[test]
    fn origins_stay_while_a_name_says_them_and_lose_no_attestation() {
        let (old, named) = (origin("old", &[]), origin("named", &["attestation"]));
        let name = Reference::parse("x").unwrap().with_digest(named.root().digest.clone());
        let known = [old, named.clone()];
        assert_eq!(merged(&known, &[], &[]), known);
        let new = origin("new", &[]);
        assert_eq!(merged(&known, std::slice::from_ref(&new), &[&name]), [named.clone(), new]);
        assert_eq!(merged(&known, &[origin("named", &[])], &[]), [named]);
    }
}
