//! Where a driver keeps its layers: `layers/<id>` is whole, `drafts/<id>` is not yet, `trash/…` is no more. A directory
//! goes from one to the next by a rename, so a crash at any instant leaves each layer in exactly one of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gantry_linux::{ResultExt, fs};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::{Error, trash, tree};

/// The directories of one driver.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    sweeping: Mutex<()>,
    /// Locked as long as the store is open: two daemons must not share a data root.
    _lock: File,
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_mode(root, 0o700)?;
        let root = fs::canonicalize(root)?;
        let lock = fs::create(root.join("lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Error::InUse(root)),
            other => other.during("lock", root.display())?,
        }
        for part in ["layers", "drafts", "trash"] {
            fs::create_dir_mode(root.join(part), 0o700)?;
        }
        let store = Self { root, sweeping: Mutex::new(()), _lock: lock };
        store.discard_drafts()?;
        Ok(store)
    }

    /// Where what was removed waits for the sweep.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a layer is or would be.
    pub(crate) fn layer_path(&self, id: &str) -> PathBuf {
        self.root.join("layers").join(id)
    }

    /// The directory of a layer that is there.
    pub(crate) fn layer(&self, id: &str) -> Result<PathBuf, Error> {
        self.exists(id).then(|| self.layer_path(id)).ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    /// The directory of a draft that is there.
    pub(crate) fn draft(&self, id: &str) -> Result<PathBuf, Error> {
        let path = self.root.join("drafts").join(id);
        if is_id(id) && fs::symlink_metadata(&path).is_ok() { Ok(path) } else { Err(Error::NotFound(id.to_owned())) }
    }

    pub(crate) fn exists(&self, id: &str) -> bool {
        is_id(id) && fs::symlink_metadata(self.layer_path(id)).is_ok()
    }

    pub(crate) fn list(&self) -> Result<Vec<String>, Error> {
        let names = fs::list(self.root.join("layers"))?;
        let mut names: Vec<_> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Makes the directory of a draft.
    pub(crate) fn begin(&self, id: &str) -> Result<PathBuf, Error> {
        self.begin_with(id, |path| fs::create_dir(path))
    }

    /// The same by another call than `mkdir`.
    pub(crate) fn begin_with(
        &self,
        id: &str,
        make: impl FnOnce(&Path) -> gantry_linux::Result<()>,
    ) -> Result<PathBuf, Error> {
        if !is_id(id) {
            return Err(Error::NotFound(format!("{id:?} (not a layer's id)")));
        }
        let path = self.root.join("drafts").join(id);
        if self.exists(id) {
            return Err(Error::Exists(id.to_owned()));
        }
        match make(&path) {
            Err(error) if error.errno() == Errno::EXIST.raw_os_error() => return Err(Error::Exists(id.to_owned())),
            other => other?,
        }
        fs::set_mode(&path, 0o700)?;
        Ok(path)
    }

    /// Makes a draft a layer in one step; `durable` waits for the disk before and after.
    pub(crate) fn publish(&self, id: &str, durable: bool) -> Result<(), Error> {
        let (draft, layer) = (self.draft(id)?, self.layer_path(id));
        if durable {
            let dir = tree::open_root(&draft)?;
            rustix::fs::syncfs(&dir).during("sync file system of", draft.display())?;
        }
        match renameat_with(CWD, &draft, CWD, &layer, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(Error::Exists(id.to_owned())),
            other => other.during("rename", draft.display())?,
        }
        if durable {
            fs::sync_directory(self.root.join("layers"))?;
        }
        Ok(())
    }

    /// Moves a directory of ours to the trash; one that is not there is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), Error> {
        match fs::rename(path, self.root.join("trash").join(fs::unique())) {
            Err(error) if error.is_not_found() => Ok(()),
            // An earlier process with our number left that very name.
            Err(error) if error.errno() == Errno::NOTEMPTY.raw_os_error() => self.discard(path),
            // It is a part of a subvolume.
            Err(error) if error.errno() == Errno::XDEV.raw_os_error() => delete(path),
            other => Ok(other?),
        }
    }

    /// Moves the layer and the draft of that id to the trash.
    pub(crate) fn remove(&self, id: &str) -> Result<(), Error> {
        if !is_id(id) {
            return Ok(());
        }
        self.discard(&self.layer_path(id))?;
        self.discard(&self.root.join("drafts").join(id))
    }

    /// The drafts of a dead daemon.
    pub(crate) fn discard_drafts(&self) -> Result<(), Error> {
        for draft in fs::list(self.root.join("drafts"))? {
            self.discard(&self.root.join("drafts").join(draft))?;
        }
        Ok(())
    }

    pub(crate) fn sweep(&self, drafts: bool) -> Result<(), Error> {
        let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        if drafts {
            self.discard_drafts()?;
        }
        Ok(trash::empty(&self.root.join("trash"))?)
    }
}

fn delete(path: &Path) -> Result<(), Error> {
    if fs::symlink_metadata(path)?.is_dir() {
        trash::empty(path)?;
        return Ok(fs::remove_dir(path)?);
    }
    Ok(fs::remove_file(path)?)
}

/// Ids become names of directories.
fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && !id.starts_with('.')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Reads a small text file of a layer; `None` when it is not there.
pub(crate) fn note(dir: &Path, name: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(dir.join(name)) {
        Err(error) if error.is_not_found() => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// The size that was noted when the layer was applied; `None` for a writable layer.
pub(crate) fn noted_size(dir: &Path) -> Result<Option<u64>, Error> {
    Ok(note(dir, "size")?.and_then(|text| text.trim().parse().ok()))
}

/// The bytes of all regular files in a tree, each file once.
///
/// # Errors
/// When a part of it cannot be read, or goes meanwhile.
pub fn measure(root: &Path) -> Result<u64, Error> {
    let mut seen = std::collections::HashSet::new();
    let mut walk = tree::Walk::new(tree::open_root(root)?)?;
    let mut bytes = 0;
    while let Some(step) = walk.next()? {
        if let tree::Step::Entry { stat, .. } = step
            && tree::file_type(&stat) == rustix::fs::FileType::RegularFile
            && (stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino)))
        {
            bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }
    Ok(bytes)
}
