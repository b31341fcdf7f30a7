//! A registry's directory: one server at a time.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use gantry_linux::{Error, ResultExt, fs};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::store::{Directory, Result, Storage};
use super::uploads::Uploads;

/// The directory, held until this is dropped.
pub struct Root {
    /// Documents and content.
    pub storage: Arc<dyn Storage>,
    /// What is on its way in.
    pub uploads: Uploads,
    /// The kernel lets go of it when the process ends, however it does.
    pub lock: File,
}

impl Root {
    /// Opens or makes it.
    ///
    /// # Errors
    /// When another process has it, or the kernel refuses.
    pub fn open(root: &Path) -> Result<Self> {
        let lock = lock(root)?;
        Self::with(root, lock, Arc::new(Directory::open(root)?))
    }

    /// For a registry that keeps everything elsewhere: what is on its way in lies here.
    ///
    /// # Errors
    /// When another process has it, or the kernel refuses.
    pub fn beside(root: &Path, storage: Arc<dyn Storage>) -> Result<Self> {
        Self::with(root, lock(root)?, storage)
    }

    fn with(root: &Path, lock: File, storage: Arc<dyn Storage>) -> Result<Self> {
        Ok(Self { storage, uploads: Uploads::open(root.join("uploads"))?, lock })
    }
}

fn lock(root: &Path) -> Result<File> {
    fs::create_dir_mode(root, 0o700)?;
    let lock = fs::open_with(root.join("lock"), OpenOptions::new().write(true).create(true).truncate(false))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let reason = std::io::Error::other("another registry serves this directory: stop it, or ask it");
            return Err(Error::new("lock", root.display().to_string(), reason).into());
        }
        other => other.during("lock", root.display())?,
    }
    Ok(lock)
}
