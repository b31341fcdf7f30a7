//! The pid file: one daemon per exec root, also when both start at once.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gantry_linux::fs;
use gantry_linux::lock::{FlockOperation, Lock};

/// A held pid file; it is removed when the daemon ends in order.
pub struct PidFile {
    path: PathBuf,
    _lock: Lock,
}

impl PidFile {
    /// Takes it.
    ///
    /// # Errors
    /// When another daemon holds it: its pid.
    pub fn claim(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let options = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = fs::open_with(path, &options)?;
        let lock = file.try_clone().and_then(|file| Ok(Lock::take(file, FlockOperation::NonBlockingLockExclusive)?));
        let Some(lock) = lock.with_context(|| format!("lock {}", path.display()))? else {
            let mut pid = String::new();
            file.read_to_string(&mut pid).with_context(|| format!("read {}", path.display()))?;
            bail!(
                "another daemon (pid {}) holds {}: stop it, or choose another --pidfile and --exec-root",
                pid.trim(),
                path.display()
            );
        };
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A file that stays is taken over by the next daemon.
        let _ = fs::remove_file(&self.path);
    }
}
