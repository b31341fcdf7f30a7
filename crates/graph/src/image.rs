//! An image: its configuration document, read once and kept byte for byte, and the layers that it stands on.

use std::sync::Arc;

use gantry_api::container::Config;
use gantry_api::json;
use gantry_api::reference::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Blob, Error, Origin, Result};

/// The largest configuration (and manifest) that is read.
pub const DOCUMENT_LIMIT: usize = 4 << 20;
/// The most layers that an image may have; Docker's own limit is 127.
pub const LAYER_LIMIT: usize = 500;

/// An image that is there, whole. Immutable and shared: names are in [`crate::Images`].
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of the configuration's bytes.
    pub id: Digest,
    /// What the configuration says.
    pub config: ImageConfig,
    /// The configuration as it came.
    pub raw: Arc<[u8]>,
    /// Lowest first.
    pub layers: Vec<Arc<Layer>>,
    /// What it was pulled or loaded as, the last one last; empty for what was made here.
    pub origins: Vec<Origin>,
    /// The image that a commit was made on top of.
    pub parent: Option<Digest>,
    /// Seconds since 1970 of the last tagging here.
    pub last_tagged: i64,
}

/// A layer that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Identity of this layer with everything below it.
    pub chain_id: Digest,
    /// Identity of its uncompressed archive.
    pub diff_id: Digest,
    /// The chain id below it.
    pub parent: Option<Digest>,
    /// The graphdriver's id of it.
    pub store_id: String,
    /// Bytes of file content in it.
    pub size: u64,
    /// Bytes of its uncompressed archive; 0 for a layer that an older version stored.
    #[serde(default)]
    pub archive_size: u64,
    /// The compressed blobs that it is known as. They change while the layer stays: [`crate::Graph::blobs`] has those of now.
    pub blobs: Vec<Blob>,
}

/// Content by digest, as manifests describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// An image's configuration document, OCI's or Docker's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the words of the OCI image specification")]
pub struct ImageConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    pub config: Option<Config>,
    pub rootfs: RootFs,
    pub history: Vec<History>,
}

/// The layers by the digests of their uncompressed archives, lowest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Lowest first.
    pub diff_ids: Vec<Digest>,
}

/// One step of how the image was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the words of the OCI image specification")]
pub struct History {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration. It is hostile input: bounded, every digest strict.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong with it.
    pub fn parse(raw: &[u8]) -> Result<Self> {
        let invalid = |reason: String| Error::invalid("image configuration", reason);
        if raw.len() > DOCUMENT_LIMIT {
            return Err(invalid(format!("{} bytes, at most {DOCUMENT_LIMIT} are read", raw.len())));
        }
        let config: Self = json::from_slice(raw).map_err(|error| invalid(error.to_string()))?;
        if config.rootfs.kind != "layers" {
            return Err(invalid(format!("rootfs type is {:?}, want \"layers\"", config.rootfs.kind)));
        }
        if config.rootfs.diff_ids.len() > LAYER_LIMIT {
            return Err(invalid(format!("{} layers, at most {LAYER_LIMIT} are mounted", config.rootfs.diff_ids.len())));
        }
        Ok(config)
    }

    /// The chain id of every layer, lowest first.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff_id in &self.rootfs.diff_ids {
            chain.push(chain_id(chain.last(), diff_id));
        }
        chain
    }
}

impl Image {
    /// Bytes of file content in all its layers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// The chain id of the uppermost layer; `None` for an image without layers.
    #[must_use]
    pub fn top(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }

    /// Its history, newest first, with the size of what each step added.
    #[must_use]
    pub fn history(&self) -> Vec<(History, u64)> {
        let mut layers = self.layers.iter();
        let mut rows: Vec<_> = self
            .config
            .history
            .iter()
            .map(|step| {
                let size = if step.empty_layer { 0 } else { layers.next().map_or(0, |layer| layer.size) };
                (step.clone(), size)
            })
            .collect();
        rows.reverse();
        rows
    }
}

/// The identity of a layer with everything below it.
#[must_use]
pub fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// The digest of bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    finish(Sha256::new_with_prefix(bytes))
}

pub(crate) fn finish(hash: Sha256) -> Digest {
    use std::fmt::Write;
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        write!(hex, "{byte:02x}").expect("a string takes everything");
    }
    Digest::from_hex(&hex).expect("64 hexadecimal digits")
}
