//! What repositories have: blobs, manifests, tags, referrers. The one place that knows how they are kept.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::failure::{Code, Failure, Result};
use super::locks::Locks;
use super::names::{Digest, Name};
use super::store::{Key, Stat, Storage};

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

/// What says that a repository has a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct BlobLink {
    size: u64,
}

/// Every repository of a registry.
pub struct Repositories {
    storage: Arc<dyn Storage>,
    locks: Locks,
}

impl Repositories {
    /// Of this storage.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, locks: Locks::default() }
    }

    /// What they are kept in.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// A blob that the repository has.
    ///
    /// # Errors
    /// `BLOB_UNKNOWN`, or the storage's.
    pub async fn blob(&self, name: &Name, digest: &Digest) -> Result<Stat> {
        self.find_blob(name, digest).await?.ok_or_else(|| blob_unknown(name, digest))
    }

    /// A blob, if the repository has it.
    ///
    /// # Errors
    /// The storage's.
    pub async fn find_blob(&self, name: &Name, digest: &Digest) -> Result<Option<Stat>> {
        if self.storage.touched(&Key::blob(name, digest)).await?.is_none() {
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
        // Young again before it is linked: a collector that looks now leaves it.
        let Some(stat) = self.storage.refresh(digest).await? else { return Ok(None) };
        let link = serde_json::to_vec(&BlobLink { size: stat.size }).expect("a number is JSON");
        self.storage.write(&Key::blob(name, digest), link.into()).await?;
        Ok(Some(stat))
    }
}

/// The answer for a blob that is not there.
pub fn blob_unknown(name: &Name, digest: &Digest) -> Failure {
    Failure::new(Code::BlobUnknown, format!("repository {name} has no blob {digest}"))
        .detail(serde_json::json!({ "name": name.as_str(), "digest": digest.as_str() }))
}
