//! A registry's directory: one server at a time.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;

use gantry_linux::lock::{FlockOperation, Lock};
use gantry_linux::{Error, ResultExt, fs};

use super::store::{Directory, Result, Storage};
use super::uploads::Uploads;

/// The directory, held until this is dropped.
pub struct Root {
    /// Documents and content.
    pub storage: Arc<dyn Storage>,
    /// What is on its way in.
    pub uploads: Uploads,
    /// The kernel lets go of it when the process ends, however it does.
    pub lock: Lock,
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

    fn with(root: &Path, lock: Lock, storage: Arc<dyn Storage>) -> Result<Self> {
        Ok(Self { storage, uploads: Uploads::open(root.join("uploads"))?, lock })
    }
}

fn lock(root: &Path) -> Result<Lock> {
    fs::create_dir_mode(root, 0o700)?;
    let lock = fs::open_with(root.join("lock"), OpenOptions::new().write(true).create(true).truncate(false))?;
    let lock = Lock::take(lock, FlockOperation::NonBlockingLockExclusive).during("lock", root.display())?;
    lock.ok_or_else(|| {
        let reason = std::io::Error::other("another registry serves this directory: stop it, or ask it");
        Error::new("lock", root.display().to_string(), reason).into()
    })
}
