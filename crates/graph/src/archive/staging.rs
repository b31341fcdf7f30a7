//! What is written to the disk of an archive as it comes: files that are neither kept in memory nor unpacked, and compressed
//! blobs, whose bytes nothing gives back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use gantry_api::reference::Digest;
use gantry_linux::fs;
use sha2::{Digest as _, Sha256};

use crate::image::finish;
use crate::{Content, Result};

/// A directory for the files of one archive, made with the first. It goes when it is dropped.
pub(super) struct Staging {
    directory: PathBuf,
    files: usize,
}

impl Staging {
    pub(super) fn new(content: &Content) -> Self {
        Self { directory: content.staging(), files: 0 }
    }

    /// A path for one more file.
    pub(super) fn path(&mut self) -> Result<PathBuf> {
        if self.files == 0 {
            fs::create_dir(&self.directory)?;
        }
        self.files += 1;
        Ok(self.directory.join(self.files.to_string()))
    }

    /// Has what is read of `from` be written to a file, too; with `hashed` its digest is told.
    pub(super) fn copy<'a>(&mut self, from: &'a mut dyn Read, hashed: bool) -> Result<Copy<'a>> {
        let path = self.path()?;
        let file = fs::open_with(&path, OpenOptions::new().write(true).create_new(true))?;
        Ok(Copy { from, path, file, size: 0, hash: hashed.then(Sha256::new), failure: None })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.files > 0
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            tracing::warn!(%error, "a loaded archive's files stay until the next start");
        }
    }
}

/// Writes to a file what is read through it.
pub(super) struct Copy<'a> {
    from: &'a mut dyn Read,
    pub path: PathBuf,
    file: File,
    size: u64,
    hash: Option<Sha256>,
    /// An error of the file, which is not the archive's.
    failure: Option<io::Error>,
}

impl Copy<'_> {
    /// The file, its bytes, and its digest if that was wanted. What was not read is not in it.
    pub(super) fn finish(self) -> Result<(PathBuf, u64, Option<Digest>)> {
        match self.failure {
            Some(source) => Err(gantry_linux::Error::new("write", self.path.display().to_string(), source).into()),
            None => Ok((self.path, self.size, self.hash.map(finish))),
        }
    }
}

impl Read for Copy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        if let Err(error) = self.file.write_all(&buffer[..got]) {
            let told = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            self.failure = Some(error);
            return Err(told);
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..got]);
        }
        self.size += got as u64;
        Ok(got)
    }
}
