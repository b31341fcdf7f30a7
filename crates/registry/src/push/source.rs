//! Where a pushed image comes from: what this crate needs of a store, defined here and implemented by the engine.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use gantry_api::reference::{Digest, Reference};

use crate::sink::SinkError;
use crate::{Descriptor, Document};

/// Gives the bytes of images. All calls block; they are made from threads that may.
pub trait ImageSource: Send + Sync {
    /// A blob that the store keeps as it is.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn blob(&self, digest: &Digest) -> Result<Option<File>, SinkError>;

    /// Writes the uncompressed archive of layer `index` (0 is the lowest), verified on the way.
    ///
    /// # Errors
    /// When the layer is not what it should be, or `output` fails.
    fn archive(&self, index: usize, output: &mut dyn Write) -> Result<(), SinkError>;

    /// Takes note of what is at the registry now, so that it is found there the next time.
    ///
    /// # Errors
    /// When the store cannot.
    fn pushed(&self, pushed: &Pushed) -> Result<(), SinkError>;
}

/// An image that is to be pushed.
#[derive(Debug, Clone)]
pub struct Pushable {
    /// Its configuration, byte for byte.
    pub config: Bytes,
    /// Lowest first.
    pub layers: Vec<PushLayer>,
    /// What it came as; none for what was made here.
    pub origin: Option<PushOrigin>,
}

/// What an image came as: it goes as the same.
#[derive(Debug, Clone)]
pub struct PushOrigin {
    /// The index that its manifest was chosen from; none where only the manifest is to be pushed.
    pub index: Option<Document>,
    /// Its manifest.
    pub manifest: Document,
    /// Attestations: manifests and blobs.
    pub attached: Vec<Document>,
    /// Repositories that it is known to be at.
    pub repositories: Vec<Reference>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct PushLayer {
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of that archive, as far as is known.
    pub size: u64,
    /// What it is known as in registries.
    pub blobs: Vec<KnownBlob>,
}

/// A blob that holds a layer.
#[derive(Debug, Clone)]
pub struct KnownBlob {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// It is the layer: somebody inflated it. Of others only a manifest says so, which is enough to send that manifest again.
    pub verified: bool,
    /// Repositories that have it, as far as is known.
    pub seen: Vec<Reference>,
}

/// What was pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The name that it was pushed as.
    pub reference: Reference,
    /// What the name means at the registry now.
    pub root: Descriptor,
    /// The manifest of the image.
    pub manifest: Document,
    /// It was made for the push: its layers are the image's beyond doubt.
    pub made: bool,
    /// Its layers as the manifest has them, lowest first.
    pub layers: Vec<Descriptor>,
}
