//! Where a registry keeps things: documents by key, content by digest.

mod directory;
mod error;
mod key;
mod layout;
#[cfg(feature = "s3")]
mod objects;
mod piece;

use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::mpsc;

pub use directory::Directory;
pub(crate) use error::blocking;
pub use error::{Result, StoreError};
pub use key::Key;
pub use layout::Layout;
#[cfg(feature = "s3")]
pub use objects::{Keys, Objects, S3Settings};
pub use piece::Piece;

use super::hooks::Future;
use super::names::Digest;

/// The largest document: as large as the lists of other registries that are kept.
pub const DOCUMENT_LIMIT: usize = 4 << 20;

/// Content that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its bytes.
    pub size: u64,
    /// When it was last written or needed.
    pub touched: SystemTime,
}

/// A document or folder in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the folder.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
}

/// Bytes on their way out.
pub enum Source {
    /// Of a file.
    File(Piece),
    /// Of somewhere else.
    Stream(mpsc::Receiver<std::io::Result<Bytes>>),
}

/// A place for documents and content. Documents are small, replaced as a whole and durable when the call returns; content is
/// named by its digest, whole and verified before it has its name.
pub trait Storage: Send + Sync {
    /// A document; none when it is not there.
    fn read<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<Bytes>>>;

    /// Writes or replaces a document, in one step. One of more than [`DOCUMENT_LIMIT`] bytes is refused.
    fn write<'a>(&'a self, key: &'a Key, document: Bytes) -> Future<'a, Result<()>>;

    /// Removes a document; false when it was not there.
    fn remove<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>>;

    /// When a document was last written or touched.
    fn touched<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<SystemTime>>>;

    /// Makes a document young again; false when it is not there.
    fn touch<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>>;

    /// What is directly in a folder, by name; nothing where there is no such folder.
    fn list<'a>(&'a self, folder: &'a Key) -> Future<'a, Result<Vec<Entry>>>;

    /// Whether content is there.
    fn stat<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>>;

    /// `length` bytes of content from `offset`; none when it is not there.
    fn open<'a>(&'a self, digest: &'a Digest, offset: u64, length: u64) -> Future<'a, Result<Option<Source>>>;

    /// Does of [`Storage::adopt`] what takes long: while it does, nobody waits for the lock of the digest.
    fn bring<'a>(&'a self, _staged: &'a Path, _digest: &'a Digest, _size: u64) -> Future<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Takes over a verified file of the staging directory as content. Content that is there already is replaced by it.
    fn adopt<'a>(&'a self, staged: &'a Path, digest: &'a Digest, size: u64) -> Future<'a, Result<()>>;

    /// Writes small content, as [`Storage::adopt`] does. The caller made the digest of these bytes.
    fn put<'a>(&'a self, digest: &'a Digest, bytes: Bytes) -> Future<'a, Result<()>>;

    /// Makes content young again; none when it is not there.
    fn refresh<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>>;

    /// Removes content; false when it was not there.
    fn discard<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<bool>>;

    /// Content in one of the [`SHARDS`] parts that all of it is in.
    fn contents(&self, shard: u8) -> Future<'_, Result<Vec<Digest>>>;
}

/// Into how many parts content is divided by its first byte.
pub const SHARDS: u16 = 256;

/// Refuses a document that could not be read back.
fn fits(key: &Key, document: &Bytes) -> Result<()> {
    let length = document.len();
    if length <= DOCUMENT_LIMIT {
        return Ok(());
    }
    Err(StoreError::Failed { what: format!("write {key}: a document may have {DOCUMENT_LIMIT} bytes, not {length}") })
}
