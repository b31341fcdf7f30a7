//! Parts: what has come of blobs whose image is not there yet, on disk, so that nothing of it is fetched twice.
//!
//! A part is a directory, `<parts>/<digest>.<size>/`. Each file in it is a *segment*: bytes of the blob, in order, from the byte
//! on that its name says. Bytes are appended as they come and nothing is synced: whatever ends the daemon, what a segment holds
//! was sent, and the next pull of that digest, of whatever image and from whatever registry, asks for what lies between. What a power
//! cut tore is found by the digest, which is taken of every byte again, and then all of it is fetched anew.
//!
//! Whoever needs the blob *leases* its part. One of them fetches, the one that holds the [`Ledger`]; when it fails or leaves, the
//! next one goes on. All of them unpack what is there while it comes ([`BlobReader`](crate::BlobReader)). A part is *spent* when
//! an image that needed it is there, and goes with its last lease; one that nobody leases stays for [`KEPT_FOR`], and all of those
//! together within [`KEPT_BYTES`]. Removal is a rename and then a deletion, so that no half-deleted part is taken for one.

mod ledger;
mod part;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use gantry_api::reference::Digest;
use gantry_linux::fs;

pub use ledger::{Ledger, Piece, Verdict, write};
pub use part::{Part, Seen};

use crate::{Descriptor, Error, Result};

/// How long a part stays that nobody asks for.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many bytes of them stay; the oldest go first.
pub const KEPT_BYTES: u64 = 20 << 30;
/// What the names of parts begin with that are being deleted.
const LITTER: &str = "gone-";
/// Bytes of a block as `stat` counts them.
const BLOCK: u64 = 512;

/// All parts of one data root.
#[derive(Debug)]
pub struct Parts {
    root: Option<PathBuf>,
    leased: Mutex<HashMap<String, Leased>>,
}

#[derive(Debug)]
struct Leased {
    part: Arc<Part>,
    leases: usize,
}

/// A part that stays as long as this lives.
#[derive(Debug)]
pub struct Lease {
    pub parts: Arc<Parts>,
    pub part: Arc<Part>,
    name: String,
}

/// Unfinished downloads that were deleted.
#[derive(Debug, Default)]
pub struct Cleared {
    /// Of which blobs.
    pub blobs: Vec<Digest>,
    /// What they took of the disk.
    pub bytes: u64,
}

/// A part that nobody leases.
struct Idle {
    name: String,
    age: Duration,
    bytes: u64,
}

impl Parts {
    pub fn new(root: Option<PathBuf>) -> Self {
        Self { root, leased: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Leased>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> Result<&Path> {
        let none = || Error::invalid("downloads", "no directory was named for them");
        self.root.as_deref().ok_or_else(none)
    }

    /// The part of a blob, with what an earlier pull left of it.
    pub fn lease(self: &Arc<Self>, blob: &Descriptor) -> Result<Lease> {
        let name = format!("{}.{}", blob.digest.hex(), blob.size);
        let mut leased = self.lock();
        let part = match leased.get_mut(&name) {
            Some(held) => {
                held.leases += 1;
                Arc::clone(&held.part)
            }
            None => {
                let part = Arc::new(Part::open(self.root()?.join(&name), blob).map_err(Error::part(&blob.digest))?);
                leased.insert(name.clone(), Leased { part: Arc::clone(&part), leases: 1 });
                part
            }
        };
        Ok(Lease { parts: Arc::clone(self), part, name })
    }

    /// Deletes what was kept too long, what is more than may be kept, and what an earlier deletion left.
    pub fn sweep(&self) -> Result<()> {
        let mut idle = self.idle()?;
        idle.sort_by_key(|part| part.age);
        let mut kept = 0;
        for part in idle {
            kept += part.bytes;
            if part.age > KEPT_FOR || kept > KEPT_BYTES {
                kept -= part.bytes;
                self.remove(&part.name)?;
            }
        }
        Ok(())
    }

    /// Deletes those that nobody leases and that are at least so old.
    pub fn clear(&self, age: Duration) -> Result<Cleared> {
        let mut cleared = Cleared::default();
        for part in self.idle()?.iter().filter(|part| part.age >= age) {
            if self.remove(&part.name)? {
                cleared.bytes += part.bytes;
                cleared.blobs.extend(part.name.split('.').next().and_then(|hex| Digest::from_hex(hex).ok()));
            }
        }
        Ok(cleared)
    }

    fn idle(&self) -> Result<Vec<Idle>> {
        let names = match self.root.as_deref().map(fs::list) {
            None => return Ok(Vec::new()),
            Some(Err(error)) if error.is_not_found() => return Ok(Vec::new()),
            Some(names) => names.map_err(Error::parts)?,
        };
        let mut idle = Vec::new();
        for name in names {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with(LITTER) {
                self.delete(&name)?;
            } else if !self.lock().contains_key(&name) {
                idle.extend(measure(self.root()?, name).map_err(Error::parts)?);
            }
        }
        Ok(idle)
    }

    /// False when somebody leases it by now, or it is gone.
    fn remove(&self, name: &str) -> Result<bool> {
        let leased = self.lock();
        if leased.contains_key(name) {
            return Ok(false);
        }
        let Some(litter) = self.set_aside(name)? else { return Ok(false) };
        drop(leased);
        self.delete(&litter)?;
        Ok(true)
    }

    /// From here on it is no part; `None` when it was none any more. Nobody may lease it meanwhile.
    fn set_aside(&self, name: &str) -> Result<Option<String>> {
        let litter = format!("{LITTER}{}", fs::unique());
        let root = self.root()?;
        match fs::rename(root.join(name), root.join(&litter)) {
            Err(error) if error.is_not_found() => Ok(None),
            renamed => renamed.map(|()| Some(litter)).map_err(Error::parts),
        }
    }

    fn delete(&self, litter: &str) -> Result<()> {
        fs::remove_dir_all(self.root()?.join(litter)).map_err(Error::parts)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leased = self.parts.lock();
        let Some(held) = leased.get_mut(&self.name) else { return };
        held.leases -= 1;
        if held.leases > 0 {
            return;
        }
        leased.remove(&self.name);
        if !self.part.is_worth_keeping() {
            let litter = self.parts.set_aside(&self.name);
            drop(leased);
            if let Err(error) = litter.and_then(|litter| litter.map_or(Ok(()), |litter| self.parts.delete(&litter))) {
                tracing::warn!(%error, "what was downloaded stays until the next sweep");
            }
        }
    }
}

/// What a part takes, and how long ago anything came of it. `None` when it is gone.
fn measure(root: &Path, name: String) -> gantry_linux::Result<Option<Idle>> {
    let directory = root.join(&name);
    let files = match fs::list(&directory) {
        Err(error) if error.is_not_found() => return Ok(None),
        files => files?,
    };
    let own = match fs::symlink_metadata(&directory) {
        Err(error) if error.is_not_found() => return Ok(None),
        own => own?,
    };
    let (mut bytes, mut last) = (own.blocks() * BLOCK, own.modified().ok());
    for file in files {
        let file = match fs::symlink_metadata(directory.join(file)) {
            Err(error) if error.is_not_found() => continue,
            file => file?,
        };
        bytes += file.blocks() * BLOCK;
        last = last.max(file.modified().ok());
    }
    // A clock that went back makes it young.
    let age = last.and_then(|last| SystemTime::now().duration_since(last).ok()).unwrap_or_default();
    Ok(Some(Idle { name, age, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_goes_meanwhile_is_gone_and_no_error() {
        let root = tempfile::tempdir().unwrap();
        let parts = Arc::new(Parts::new(Some(root.path().to_path_buf())));
        assert!(!parts.remove("gone").unwrap());
        assert!(measure(root.path(), "gone".to_owned()).unwrap().is_none());
        let digest = Digest::from_hex(&"a".repeat(64)).unwrap();
        let blob = Descriptor { media_type: String::new(), digest, size: 1 };
        drop(parts.lease(&blob).unwrap());
        let lease = parts.lease(&blob).unwrap();
        fs::remove_dir_all(root.path().join(&lease.name)).unwrap();
        drop(lease);
        assert!(parts.lock().is_empty());
        parts.sweep().unwrap();
        assert!(fs::list(root.path()).unwrap().is_empty());
    }
}
