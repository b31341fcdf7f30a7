//! All images and names at one moment. The store swaps one snapshot for the next; readers keep theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};

use crate::{Error, Image, Origin, Result};

/// An image that the database names and whose configuration cannot be read. It is kept: a pull or load heals it, and it
/// can be removed.
#[derive(Debug, Clone)]
pub struct DamagedImage {
    /// The digest that its configuration should have.
    pub id: Digest,
    /// What is wrong.
    pub reason: String,
    /// What it was pulled or loaded as.
    pub origins: Vec<Origin>,
    /// Chain id of its uppermost layer, where that is known.
    pub top: Option<Digest>,
}

/// All images and names at one moment; immutable.
#[derive(Debug, Clone, Default)]
pub struct Images {
    by_id: BTreeMap<Digest, Arc<Image>>,
    /// Of the damaged ones too.
    names: BTreeMap<Reference, Digest>,
    damaged: BTreeMap<Digest, Arc<DamagedImage>>,
}

impl Images {
    /// Every image, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.by_id.values()
    }

    /// How many images there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// An image by its id.
    #[must_use]
    pub fn get(&self, id: &Digest) -> Option<&Arc<Image>> {
        self.by_id.get(id)
    }

    /// Every name with the id of its image, sorted: tags (`docker.io/library/debian:12`) and repo digests (`…@sha256:…`).
    pub fn all_names(&self) -> impl Iterator<Item = (&Reference, &Digest)> {
        self.names.iter()
    }

    /// The names of an image, sorted; none is a dangling image.
    #[must_use]
    pub fn names(&self, id: &Digest) -> Vec<Reference> {
        self.names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
    }

    /// Whether another image was made on top of this one.
    #[must_use]
    pub fn has_children(&self, id: &Digest) -> bool {
        self.by_id.values().any(|image| image.parent.as_ref() == Some(id))
    }

    /// The images that cannot be read.
    pub fn damaged(&self) -> impl Iterator<Item = &Arc<DamagedImage>> {
        self.damaged.values()
    }

    /// The damaged image that has this name, id or beginning of an id.
    #[must_use]
    pub fn resolve_damaged(&self, text: &str) -> Option<&Arc<DamagedImage>> {
        let name = Reference::parse(text).ok();
        if let Some(id) = name.and_then(|name| self.names.get(&canonical(&name))) {
            return self.damaged.get(id);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let mut found = self.damaged.values().filter(|image| !digits.is_empty() && image.id.hex().starts_with(digits));
        found.next().filter(|_| found.next().is_none())
    }

    /// The image that has exactly this name.
    #[must_use]
    pub fn by_name(&self, name: &Reference) -> Option<&Arc<Image>> {
        self.by_id.get(self.names.get(&canonical(name))?)
    }

    /// An image by what a person says: a name, `name@digest`, an id or the beginning of one.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::DamagedImage`], or [`Error::Ambiguous`] for a beginning of several ids.
    pub fn resolve(&self, text: &str) -> Result<&Arc<Image>> {
        let name = Reference::parse(text).ok();
        if let Some(image) = name.as_ref().and_then(|name| self.by_name(name)) {
            return Ok(image);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(image) = self.by_prefix(digits, text)? {
            return Ok(image);
        }
        if let Some(image) = self.resolve_damaged(text) {
            return Err(Error::DamagedImage { name: text.to_owned(), reason: image.reason.clone() });
        }
        let shown = name.map_or_else(|| text.to_owned(), |name| name.with_default_tag().familiar());
        Err(Error::NoSuchImage(shown))
    }

    fn by_prefix(&self, digits: &str, text: &str) -> Result<Option<&Arc<Image>>> {
        if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut found = self.by_id.values().filter(|image| image.id.hex().starts_with(digits));
        let first = found.next();
        if found.next().is_some() {
            return Err(Error::Ambiguous(text.to_owned()));
        }
        Ok(first)
    }

    /// Every document that belongs to an image: configurations, what they came as, and the manifest lists that names say.
    pub(crate) fn documents(&self) -> BTreeSet<&Digest> {
        let origins = self.by_id.values().flat_map(|image| &image.origins);
        let origins = origins.chain(self.damaged.values().flat_map(|image| &image.origins));
        let configurations = self.by_id.keys().chain(self.damaged.keys());
        let named = self.names.keys().filter_map(Reference::digest);
        configurations
            .chain(origins.flat_map(Origin::documents).map(|document| &document.digest))
            .chain(named)
            .collect()
    }

    /// What an image, also a damaged one, came as.
    pub(crate) fn origins(&self, id: &Digest) -> &[Origin] {
        let whole = self.by_id.get(id).map(|image| &image.origins);
        whole.or_else(|| self.damaged.get(id).map(|image| &image.origins)).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn insert_damaged(&mut self, image: DamagedImage) {
        self.damaged.insert(image.id.clone(), Arc::new(image));
    }

    pub(crate) fn is_known(&self, id: &Digest) -> bool {
        self.by_id.contains_key(id) || self.damaged.contains_key(id)
    }

    /// Adds an image; a damaged one of that id is healed, and has its names still.
    pub(crate) fn insert(&mut self, image: Arc<Image>) {
        self.damaged.remove(&image.id);
        self.by_id.insert(image.id.clone(), image);
    }

    pub(crate) fn remove(&mut self, id: &Digest) {
        self.by_id.remove(id);
        self.damaged.remove(id);
        self.names.retain(|_, named| named != id);
    }

    pub(crate) fn name(&mut self, name: Reference, id: Digest) -> Option<Digest> {
        self.names.insert(name, id)
    }

    pub(crate) fn unname(&mut self, name: &Reference) {
        self.names.remove(name);
    }
}

/// The form in which names are kept: by digest where there is one, else by tag.
pub(crate) fn canonical(name: &Reference) -> Reference {
    match name.digest() {
        Some(digest) => name.with_digest(digest.clone()),
        None => name.clone().with_default_tag(),
    }
}
