//! Names of documents: made of parsed words only, so that none leads out of its folder.

use std::fmt;

use crate::server::names::{Digest, Name, Tag};

/// The name of a document or folder: `repositories/a/b/_tags/latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// No component of a repository's name begins with an underscore, so these cannot be meant by one.
const BLOBS: &str = "_blobs";
const MANIFESTS: &str = "_manifests";
const TAGS: &str = "_tags";
const REFERRERS: &str = "_referrers";

impl Key {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of all repositories.
    #[must_use]
    pub fn repositories() -> Self {
        Self("repositories".to_owned())
    }

    /// The folder of a repository, in which there may be others.
    #[must_use]
    pub fn repository(name: &Name) -> Self {
        Self(format!("repositories/{name}"))
    }

    /// Says that a repository has a blob.
    #[must_use]
    pub fn blob(name: &Name, digest: &Digest) -> Self {
        Self::of_digest(name, BLOBS, digest)
    }

    /// The folders, by algorithm, of a repository's blobs.
    #[must_use]
    pub fn blobs(name: &Name) -> Self {
        Self(format!("repositories/{name}/{BLOBS}"))
    }

    /// Says that a repository has a manifest, and of which type.
    #[must_use]
    pub fn manifest(name: &Name, digest: &Digest) -> Self {
        Self::of_digest(name, MANIFESTS, digest)
    }

    /// The folders, by algorithm, of a repository's manifests.
    #[must_use]
    pub fn manifests(name: &Name) -> Self {
        Self(format!("repositories/{name}/{MANIFESTS}"))
    }

    /// Where a tag leads.
    #[must_use]
    pub fn tag(name: &Name, tag: &Tag) -> Self {
        Self(format!("repositories/{name}/{TAGS}/{tag}"))
    }

    /// The folder of a repository's tags.
    #[must_use]
    pub fn tags(name: &Name) -> Self {
        Self(format!("repositories/{name}/{TAGS}"))
    }

    /// Says that a manifest has another one as its subject.
    #[must_use]
    pub fn referrer(name: &Name, subject: &Digest, manifest: &Digest) -> Self {
        let (of, hex) = (manifest.algorithm().as_str(), manifest.hex());
        Self(format!("{}/{of}-{hex}", Self::referrers(name, subject).0))
    }

    /// The folder of what has this subject.
    #[must_use]
    pub fn referrers(name: &Name, subject: &Digest) -> Self {
        Self::of_digest(name, REFERRERS, subject)
    }

    /// The manifest of an entry in [`Key::referrers`].
    #[must_use]
    pub fn referring(entry: &str) -> Option<Digest> {
        entry.replacen('-', ":", 1).parse().ok()
    }

    /// What is called so in this folder: an entry of a listing.
    #[must_use]
    pub fn child(&self, entry: &str) -> Self {
        Self(format!("{}/{entry}", self.0))
    }

    fn of_digest(name: &Name, folder: &str, digest: &Digest) -> Self {
        Self(format!("repositories/{name}/{folder}/{}/{}", digest.algorithm().as_str(), digest.hex()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
