//! The state directory of one container: made, found, locked.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_linux::lock::{FlockOperation, Lock};
use gantry_linux::{Error as SystemError, ResultExt, fs};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::record::{CONFIG, FILE, SOCKET};
use crate::error::{Error, Result};
use crate::protection::intact;

/// The longest name of a container: a file name.
const LONGEST_ID: usize = 255;

/// Refuses names that are no plain file name of letters, digits and `+-._`.
pub fn check_id(id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
    if id.is_empty() {
        return Err(Error::Invalid("container id cannot be empty".into()));
    }
    if matches!(id, "." | "..") || id.len() > LONGEST_ID || !id.chars().all(good) {
        let why = "it is letters, digits and any of + - . _, at most 255, and not . or ..";
        return Err(Error::Invalid(format!("invalid container ID format: {id:?}: {why}")));
    }
    Ok(())
}

/// The directory of a container that is there.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Of the container `id`, whether it is there or not.
    pub fn of(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        Ok(Self { path: root.join(id) })
    }

    /// Makes it, closed to others, and locks it. `root` is made too.
    pub fn make(root: &Path, id: &str) -> Result<(Self, Lock)> {
        let directory = Self::of(root, id)?;
        let mode = if intact("state-closed") { 0o700 } else { 0o755 };
        if !root.is_dir() {
            fs::create_dir_mode(root, mode)?;
        }
        match rustix::fs::mkdir(&directory.path, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(Error::Conflict("container with given ID already exists".into()));
            }
            Err(error) => {
                return Err(SystemError::new("make directory", directory.path.display().to_string(), error).into());
            }
        }
        match directory.lock() {
            Ok(lock) => Ok((directory, lock)),
            Err(error) => {
                // The first error is the one that matters.
                let _ = fs::remove_dir(&directory.path);
                Err(error)
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the lock. One that is removed meanwhile is a container that does not exist.
    pub fn lock(&self) -> Result<Lock> {
        self.lock_with(FlockOperation::LockExclusive)?.ok_or_else(no_such_container)
    }

    /// Whether somebody holds the lock: makes it, starts it, removes it.
    pub fn is_locked(&self) -> Result<bool> {
        Ok(self.lock_with(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    fn lock_with(&self, operation: FlockOperation) -> Result<Option<Lock>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(no_such_container()),
            Err(error) => return Err(SystemError::new("open", self.path.display().to_string(), error).into()),
        };
        let Some(lock) = Lock::take(fd, operation).during("lock", self.path.display())? else { return Ok(None) };
        let ours = rustix::fs::fstat(&lock).during("stat", self.path.display())?;
        match fs::metadata(&self.path) {
            Ok(now) if now.ino() == ours.st_ino => Ok(Some(lock)),
            _ => Err(no_such_container()),
        }
    }

    /// Removes it with everything in it.
    pub fn remove(&self) -> Result<()> {
        // The record is the last one: without it nobody would know what there was.
        for name in [SOCKET, CONFIG, FILE] {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        match fs::remove_dir(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            // What a killed invocation has left.
            Err(_) => Ok(fs::remove_dir_all(&self.path)?),
        }
    }
}

/// In runc's words, which engines look for.
pub fn no_such_container() -> Error {
    Error::NoSuchContainer("container does not exist".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_names() {
        for good in ["a", "0c3f", "web-1.2_3+4", "..a", &"x".repeat(255)] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "é", "a\0", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_given_once_and_the_lock_tells_who_is_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let (made, lock) = Directory::make(dir.path(), "c").unwrap();
        assert!(matches!(Directory::make(dir.path(), "c"), Err(Error::Conflict(_))));
        assert!(made.is_locked().unwrap());
        drop(lock);
        assert!(!made.is_locked().unwrap());
        made.remove().unwrap();
        assert!(matches!(made.lock(), Err(Error::NoSuchContainer(_))));
    }
}
