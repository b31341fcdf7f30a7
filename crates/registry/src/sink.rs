//! Where a pulled image goes: what this crate needs of a store, defined here and implemented by the engine.

use std::path::Path;
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};

use crate::{BlobReader, Descriptor};

/// A store's failure, in its own words.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Takes images. All calls block; they are made from threads that may.
pub trait ImageSink: Send + Sync {
    /// Starts an image. Nothing of it is visible before [`ImageDraft::commit`]; a draft that is dropped leaves nothing.
    ///
    /// # Errors
    /// When the store refuses the configuration or cannot hold it.
    fn begin(&self, image: NewImage) -> Result<Arc<dyn ImageDraft>, SinkError>;

    /// A document that the store has, so that it need not be fetched.
    fn document(&self, digest: &Digest) -> Option<Vec<u8>>;
}

/// An image on its way in.
pub trait ImageDraft: Send + Sync {
    /// Whether the whole image is there already, so that only its name may be new.
    fn is_complete(&self) -> bool;

    /// Whether layer `index` (0 is the lowest) is there already, so that its blob need not be fetched.
    fn is_present(&self, index: usize) -> bool;

    /// Whether a layer may be unpacked before those below it. Otherwise [`ImageDraft::unpack`] is called in order.
    fn unpacks_in_parallel(&self) -> bool;

    /// Unpacks layer `index` and verifies its diff id. `blob` ends only when its digest and size were right, so the
    /// store reads it to the end before it believes the layer. Called from several threads at once.
    ///
    /// # Errors
    /// When the archive is refused, the disk is full, or `blob` failed.
    fn unpack(&self, index: usize, blob: &mut BlobReader) -> Result<Unpacked, SinkError>;

    /// Whether the compressed blobs are wanted as well.
    fn keeps_blobs(&self) -> bool {
        false
    }

    /// Takes the compressed blob of layer `index`: its digest is right. The file may be moved away.
    ///
    /// # Errors
    /// When the store cannot, or the blob, which was not unpacked ([`Unpacked::Shared`]), is not that layer.
    fn keep_blob(&self, index: usize, blob: &Path) -> Result<(), SinkError> {
        let _ = (index, blob);
        Ok(())
    }

    /// The pull has ended without the image: a call that waits for what somebody else is doing returns an error.
    fn leave(&self) {}

    /// Takes what the index says about the image: attestations, and what they name.
    fn attach(&self, documents: Vec<Document>);

    /// Makes the image visible under its name, in one step; says whether the name means something new now. It is the
    /// last reference to the draft.
    ///
    /// # Errors
    /// When the store cannot.
    fn commit(self: Arc<Self>) -> Result<bool, SinkError>;
}

/// How a layer came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpacked {
    /// From the blob, which was read to its end.
    Fresh,
    /// Somebody else brought it meanwhile; the blob was left unread.
    Shared,
}

/// Bytes as the registry sent them; they have the digest that is said.
#[derive(Debug, Clone)]
pub struct Document {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes.
    pub raw: Vec<u8>,
}

/// What is known of an image before its layers come. Digests are verified.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The name that it was asked for, with tag or digest.
    pub reference: Reference,
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// What `name@` is followed by: the digest of the index where there is one, else of the manifest.
    pub digest: Digest,
    /// The configuration.
    pub config: Vec<u8>,
    /// The manifest of this platform.
    pub manifest: Document,
    /// The index that led to it, if one did.
    pub index: Option<Document>,
    /// The compressed layers, lowest first; as many as the configuration has diff ids.
    pub layers: Vec<Descriptor>,
}
