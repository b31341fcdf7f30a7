//! What repositories have: blobs, manifests, tags, referrers. The one place that knows how they are kept.
//!
//! Whatever is about to be needed is made young first: the collector leaves what is younger than its grace period, and looks again
//! under the same lock before it removes anything.

mod index;
mod listing;
mod usage;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::document::{Descriptor, Document, is_manifest};
use super::failure::{Code, Failure, Result};
use super::locks::Locks;
use super::names::{Digest, Name, Tag, Target};
use super::store::{Key, Source, Stat, Storage, StoreError};
use index::Index;
use usage::Usage;

/// A manifest as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// What it said that it is.
    pub media_type: String,
    /// Byte for byte.
    pub bytes: Bytes,
}

/// What may be missing of a manifest that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sparse {
    /// Nothing: all that it names must be here.
    Nothing,
    /// Manifests that an index lists: one platform of many can be kept under the index's own digest.
    #[default]
    Indexes,
    /// Layers, too.
    Anything,
}

/// What says that a repository has a blob.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct BlobLink {
    pub size: u64,
}

/// What says that a repository has a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestLink {
    pub media_type: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
}

/// Where a tag leads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TagLink {
    pub digest: Digest,
}

/// The largest description of a manifest that has a subject: a page of referrers holds several.
const REFERRER_LIMIT: usize = 1 << 20;

/// Every repository of a registry.
pub struct Repositories {
    storage: Arc<dyn Storage>,
    usage: Usage,
    index: Index,
    /// By name of the repository: for who reads and changes its tags. Taken before one of [`Repositories::locks`].
    pub(super) tagging: Locks,
    /// By digest.
    pub(super) locks: Locks,
}

impl Repositories {
    /// Of this storage.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            usage: Usage::default(),
            index: Index::default(),
            tagging: Locks::default(),
            locks: Locks::default(),
        }
    }

    /// What they are kept in.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// A blob, if the repository has it.
    ///
    /// # Errors
    /// The storage's.
    pub async fn blob(&self, name: &Name, digest: &Digest) -> Result<Option<Stat>> {
        if self.storage.touched(&Key::blob(name, digest)).await?.is_none() {
            return Ok(None);
        }
        Ok(self.storage.stat(digest).await?)
    }

    /// As [`Repositories::blob`], for somebody who is about to need it: it is young again.
    ///
    /// # Errors
    /// The storage's.
    pub async fn need_blob(&self, name: &Name, digest: &Digest) -> Result<Option<Stat>> {
        let _lock = self.locks.hold(digest).await;
        if !self.storage.touch(&Key::blob(name, digest)).await? {
            return Ok(None);
        }
        Ok(self.storage.stat(digest).await?)
    }

    /// Gives a repository a blob that is in the storage, and says how large it is; none when it is not there.
    ///
    /// # Errors
    /// The storage's.
    pub async fn link_blob(&self, name: &Name, digest: &Digest) -> Result<Option<Stat>> {
        let _lock = self.locks.hold(digest).await;
        let Some(stat) = self.storage.refresh(digest).await? else { return Ok(None) };
        self.within_quota(name, &Key::blob(name, digest), stat.size).await?;
        self.write(&Key::blob(name, digest), &BlobLink { size: stat.size }).await?;
        self.index.has(name);
        Ok(Some(stat))
    }

    /// Takes over a verified file as content, for a repository.
    ///
    /// # Errors
    /// The storage's.
    pub async fn adopt_blob(&self, name: &Name, digest: &Digest, staged: &Path, size: u64) -> Result<()> {
        let key = Key::blob(name, digest);
        self.has_room(name, &key, size).await?;
        // Much may have to be written, and the lock is not only this digest's.
        self.storage.bring(staged, digest, size).await?;
        let _lock = self.locks.hold(digest).await;
        self.within_quota(name, &key, size).await?;
        self.storage.adopt(staged, digest, size).await?;
        self.write(&key, &BlobLink { size }).await?;
        self.index.has(name);
        Ok(())
    }

    /// Takes a blob from a repository; false when it had none. The content goes when nobody has it any more.
    ///
    /// # Errors
    /// The storage's.
    pub async fn delete_blob(&self, name: &Name, digest: &Digest) -> Result<bool> {
        let _lock = self.locks.hold(digest).await;
        self.unlink_blob(name, digest).await
    }

    /// As [`Repositories::delete_blob`], for who holds the lock of the digest.
    pub(super) async fn unlink_blob(&self, name: &Name, digest: &Digest) -> Result<bool> {
        let removed = self.storage.remove(&Key::blob(name, digest)).await?;
        self.usage.forget(name);
        self.index.doubt(name);
        Ok(removed)
    }

    /// What a tag leads to.
    ///
    /// # Errors
    /// The storage's.
    pub async fn resolve(&self, name: &Name, target: &Target) -> Result<Option<Digest>> {
        match target {
            Target::Digest(digest) => Ok(Some(digest.clone())),
            Target::Tag(tag) => {
                let link = self.read::<TagLink>(&Key::tag(name, tag)).await?;
                Ok(link.map(|link| link.digest))
            }
        }
    }

    /// A manifest, if the repository has it.
    ///
    /// # Errors
    /// The storage's; when the storage no longer holds what was pushed.
    pub async fn manifest(&self, name: &Name, target: &Target) -> Result<Option<Manifest>> {
        let Some(digest) = self.resolve(name, target).await? else { return Ok(None) };
        let Some(link) = self.read::<ManifestLink>(&Key::manifest(name, &digest)).await? else { return Ok(None) };
        let Some(bytes) = self.content(&digest, link.size).await? else { return Ok(None) };
        Ok(Some(Manifest { digest, media_type: link.media_type, bytes }))
    }

    /// A document's bytes, verified.
    pub(super) async fn content(&self, digest: &Digest, size: u64) -> Result<Option<Bytes>> {
        let damaged = |reason: String| StoreError::Damaged { what: digest.to_string(), reason };
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        match self.storage.open(digest, 0, size).await? {
            None => return Ok(None),
            Some(Source::File(mut piece)) => {
                while let Some(part) = piece.next().await {
                    bytes.extend_from_slice(&part.map_err(|error| damaged(error.to_string()))?);
                }
            }
            Some(Source::Stream(mut parts)) => {
                while let Some(part) = parts.recv().await {
                    bytes.extend_from_slice(&part.map_err(|error| damaged(error.to_string()))?);
                }
            }
        }
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(damaged(format!("it is {found}")).into());
        }
        Ok(Some(bytes.into()))
    }

    /// What a manifest names and the repository has not. All that it has is young again.
    ///
    /// # Errors
    /// The storage's.
    pub async fn missing<'a>(&self, name: &Name, document: &'a Document) -> Result<Vec<&'a Descriptor>> {
        let mut missing = Vec::new();
        let blobs = document.blobs.iter().map(|blob| (blob, false));
        let listed = document.manifests.iter().map(|listed| (listed, is_manifest(&listed.media_type)));
        for (part, as_manifest) in blobs.chain(listed) {
            let there = if as_manifest {
                self.need_manifest(name, &part.digest).await?
            } else {
                self.need_blob(name, &part.digest).await?.is_some()
            };
            if !there {
                missing.push(part);
            }
        }
        Ok(missing)
    }

    async fn need_manifest(&self, name: &Name, digest: &Digest) -> Result<bool> {
        let _lock = self.locks.hold(digest).await;
        Ok(self.storage.touch(&Key::manifest(name, digest)).await?)
    }

    /// Keeps a manifest whose parts were looked for, then lets its tags lead to it.
    ///
    /// # Errors
    /// The storage's; `MANIFEST_INVALID` when more is said of a referrer than can be listed.
    pub async fn put_manifest(
        &self,
        name: &Name,
        manifest: &Manifest,
        document: &Document,
        tags: &[Tag],
    ) -> Result<()> {
        let (digest, size) = (&manifest.digest, manifest.bytes.len() as u64);
        let referrer = referrer(manifest, document)?;
        let _tags = if tags.is_empty() { None } else { Some(self.tagging.hold(name).await) };
        let _lock = self.locks.hold(digest).await;
        self.within_quota(name, &Key::manifest(name, digest), size).await?;
        self.storage.put(digest, manifest.bytes.clone()).await?;
        let subject = referrer.as_ref().map(|(subject, _)| subject.clone());
        let link = ManifestLink { media_type: manifest.media_type.clone(), size, subject };
        self.write(&Key::manifest(name, digest), &link).await?;
        self.index.has(name);
        if let Some((subject, referrer)) = referrer {
            self.storage.write(&Key::referrer(name, &subject, digest), referrer).await?;
        }
        for tag in tags {
            self.write(&Key::tag(name, tag), &TagLink { digest: digest.clone() }).await?;
        }
        Ok(())
    }

    /// Removes a tag; false when it was not there.
    ///
    /// # Errors
    /// The storage's.
    pub async fn delete_tag(&self, name: &Name, tag: &Tag) -> Result<bool> {
        let _tags = self.tagging.hold(name).await;
        let removed = self.storage.remove(&Key::tag(name, tag)).await?;
        self.index.doubt(name);
        Ok(removed)
    }

    /// Removes a manifest and the tags that lead to it; false when it was not there.
    ///
    /// # Errors
    /// The storage's.
    pub async fn delete_manifest(&self, name: &Name, digest: &Digest) -> Result<bool> {
        let _tags = self.tagging.hold(name).await;
        for tag in self.tags(name).await? {
            if self.resolve(name, &Target::Tag(tag.clone())).await?.as_ref() == Some(digest) {
                self.storage.remove(&Key::tag(name, &tag)).await?;
            }
        }
        self.index.doubt(name);
        let _lock = self.locks.hold(digest).await;
        self.remove_manifest(name, digest).await
    }

    /// Removes a manifest that no tag leads to. The caller holds the lock of its digest.
    pub(super) async fn remove_manifest(&self, name: &Name, digest: &Digest) -> Result<bool> {
        let key = Key::manifest(name, digest);
        let Some(link) = self.read::<ManifestLink>(&key).await? else { return Ok(false) };
        if let Some(subject) = &link.subject {
            self.storage.remove(&Key::referrer(name, subject, digest)).await?;
        }
        let removed = self.storage.remove(&key).await?;
        self.usage.forget(name);
        self.index.doubt(name);
        Ok(removed)
    }

    pub(super) async fn read<T: serde::de::DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        let Some(bytes) = self.storage.read(key).await? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes);
        let damaged =
            |error: serde_json::Error| StoreError::Damaged { what: key.to_string(), reason: error.to_string() };
        Ok(Some(read.map_err(damaged)?))
    }

    async fn write(&self, key: &Key, document: &impl Serialize) -> Result<()> {
        Ok(self.storage.write(key, text(document)).await?)
    }
}

fn text(document: &impl Serialize) -> Bytes {
    serde_json::to_vec(document).expect("words and numbers are JSON").into()
}

/// What a manifest is about, and the document that tells its subject's referrers of it.
fn referrer(manifest: &Manifest, document: &Document) -> Result<Option<(Digest, Bytes)>> {
    let Some(subject) = &document.subject else { return Ok(None) };
    let text = text(&Descriptor {
        media_type: manifest.media_type.clone(),
        digest: manifest.digest.clone(),
        size: manifest.bytes.len() as u64,
        urls: Vec::new(),
        artifact_type: document.artifact_type.clone(),
        annotations: document.annotations.clone(),
    });
    if text.len() > REFERRER_LIMIT {
        let message = format!(
            "the manifest is refused: it has a subject, whose referrers are listed with their annotations: these may have \
             {REFERRER_LIMIT} bytes in all, not {}; put what is long into a blob",
            text.len()
        );
        return Err(Failure::new(Code::ManifestInvalid, message));
    }
    Ok(Some((subject.digest.clone(), text)))
}

/// The answer for a blob that is not there.
pub fn blob_unknown(name: &Name, digest: &Digest) -> Failure {
    Failure::new(Code::BlobUnknown, format!("repository {name} has no blob {digest}"))
        .detail(json!({ "name": name.as_str(), "digest": digest.as_str() }))
}

/// The answer for a manifest that is not there.
pub fn manifest_unknown(name: &Name, target: &Target) -> Failure {
    let kind = if matches!(target, Target::Tag(_)) { "tag" } else { "manifest" };
    Failure::new(Code::ManifestUnknown, format!("repository {name} has no {kind} {target}"))
        .detail(json!({ "name": name.as_str(), "reference": target.to_string() }))
}
