//! The content store: documents, and blobs of layers that are kept, by digest, in `content/sha256/<hex>`; each is there whole and verified, or not there.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_api::reference::Digest;
use gantry_linux::ResultExt;
use gantry_linux::fs;
use sha2::{Digest as _, Sha256};

use crate::image::finish;
use crate::{Error, Result};

/// Bytes that are copied at a time.
const BUFFER: usize = 128 << 10;

/// A directory of content by digest.
#[derive(Debug)]
pub struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
    /// What somebody else needs: neither listed nor deleted.
    elsewhere: Mutex<HashSet<Digest>>,
    /// What images on their way in will name, and how many of them: it is no litter although none names it yet.
    awaited: Mutex<HashMap<Digest, usize>>,
}

impl Content {
    /// Where everything of it is.
    pub(crate) fn root(&self) -> &Path {
        self.blobs.parent().unwrap_or(&self.blobs)
    }

    /// Opens or makes the store, and removes what a dead writer left.
    ///
    /// # Errors
    /// When the directories cannot be made or cleaned.
    pub fn open(root: &Path) -> Result<Self> {
        let (blobs, ingest) = (root.join("sha256"), root.join("ingest"));
        fs::create_dir_mode(root, 0o700)?;
        fs::create_dir_mode(&blobs, 0o700)?;
        fs::create_dir_mode(&ingest, 0o700)?;
        // The directory itself stays: a full disk may have no room for another one.
        for left in fs::list(&ingest)?.into_iter().map(|name| ingest.join(name)) {
            let is_dir = fs::symlink_metadata(&left)?.is_dir();
            if is_dir { fs::remove_dir_all(&left)? } else { fs::remove_file(&left)? }
        }
        Ok(Self { blobs, ingest, elsewhere: Mutex::default(), awaited: Mutex::default() })
    }

    /// From here on these documents, which are needed elsewhere, are neither listed nor deleted.
    pub(crate) fn sparing(self, elsewhere: HashSet<Digest>) -> Self {
        self.elsewhere().extend(elsewhere);
        self
    }

    /// The opposite of [`Content::sparing`].
    pub(crate) fn spare_no_more(&self, digest: &Digest) {
        self.elsewhere().remove(digest);
    }

    fn elsewhere(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// Whether the content is there.
    #[must_use]
    pub fn exists(&self, digest: &Digest) -> bool {
        fs::metadata(self.path(digest)).is_ok()
    }

    /// Bytes of the content; `None` where it is not there.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|found| found.len())
    }

    /// Opens content for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        fs::open(self.path(digest)).map_err(|error| missing(error, digest))
    }

    /// Writes content of whatever length and verifies its digest on the way; returns its bytes.
    ///
    /// # Errors
    /// As [`Content::read`]; the writer's.
    pub(crate) fn copy(&self, digest: &Digest, output: &mut dyn Write) -> Result<u64> {
        let mut file = self.open_blob(digest)?;
        let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
        loop {
            let got = file.read(&mut buffer).during("read", self.path(digest).display())?;
            if got == 0 {
                break;
            }
            hash.update(&buffer[..got]);
            output.write_all(&buffer[..got]).during("write", format_args!("content {digest}"))?;
            length += got as u64;
        }
        right("stored content", digest, finish(hash))?;
        Ok(length)
    }

    /// Reads a document of at most [`crate::DOCUMENT_LIMIT`] bytes and verifies its digest.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not there, [`Error::Digest`] when the disk no longer holds what was written.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(crate::DOCUMENT_LIMIT as u64)
            .read_to_end(&mut bytes)
            .during("read", self.path(digest).display())?;
        right("stored content", digest, crate::digest_of(&bytes))?;
        Ok(bytes)
    }

    /// Starts writing content beside the store; [`Ingest::commit`] makes it visible, dropping it removes it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn ingest(&self) -> Result<Ingest<'_>> {
        let staged = self.ingest.join(fs::unique());
        let file = fs::open_with(&staged, OpenOptions::new().write(true).create_new(true))?;
        Ok(Ingest { store: self, staged, file, hash: Sha256::new(), size: 0 })
    }

    /// A path beside the store for a directory that is not there yet; what lies there goes with the next start.
    pub(crate) fn staging(&self) -> PathBuf {
        self.ingest.join(fs::unique())
    }

    /// Stores a whole document, durably, and returns its digest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).during("write", ingest.staged.display())?;
        ingest.commit(None, None)
    }

    /// Stores whole documents, as far as they are not there, durably: the disk is waited for once before they get their names and
    /// once after, however many there are.
    ///
    /// # Errors
    /// When they cannot be written; some may be there then.
    pub(crate) fn put_all<'a>(&self, documents: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<()> {
        let mut staged = Vec::new();
        for document in documents {
            if self.read(&crate::digest_of(document)).is_err() {
                let mut ingest = self.ingest()?;
                ingest.write_all(document).during("write", ingest.staged.display())?;
                staged.push(ingest);
            }
        }
        let files: Vec<_> = staged.iter().map(|ingest| (ingest.staged.clone(), finish(ingest.hash.clone()))).collect();
        self.adopt(&files)
    }

    /// Moves files of this file system, which have these digests, into the store, durably: the disk is waited for once before they
    /// get their names and once after. What was there is replaced.
    ///
    /// # Errors
    /// When they cannot be moved; some may be there then.
    pub(crate) fn adopt(&self, files: &[(PathBuf, Digest)]) -> Result<()> {
        match files {
            [] => return Ok(()),
            [(one, _)] => fs::sync_file(one)?,
            [(first, _), ..] => rustix::fs::syncfs(fs::open(first)?).during("sync file system of", first.display())?,
        }
        for (file, digest) in files {
            fs::rename(file, self.path(digest))?;
        }
        Ok(fs::sync_directory(&self.blobs)?)
    }

    /// Removes content; content that is not there, or needed elsewhere, is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&self, digest: &Digest) -> Result<()> {
        if self.elsewhere().contains(digest) {
            return Ok(());
        }
        match fs::remove_file(self.path(digest)) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn awaited(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_awaited(&self, digest: &Digest) -> bool {
        self.awaited().contains_key(digest)
    }

    pub(crate) fn wait_for(&self, digest: Digest) {
        *self.awaited().entry(digest).or_default() += 1;
    }

    /// The opposite of [`Content::wait_for`].
    pub(crate) fn wait_no_more(&self, digest: &Digest) {
        let mut awaited = self.awaited();
        if let Some(count) = awaited.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                awaited.remove(digest);
            }
        }
    }

    /// The digests of everything in the store that is not needed elsewhere, unsorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Digest>> {
        let names = fs::list(&self.blobs)?;
        let digests = names.iter().filter_map(|name| Digest::from_hex(name.to_str()?).ok());
        let elsewhere = self.elsewhere();
        Ok(digests.filter(|digest| !elsewhere.contains(digest)).collect())
    }
}

fn right(what: &'static str, wanted: &Digest, found: Digest) -> Result<()> {
    if found == *wanted { Ok(()) } else { Err(Error::Digest { what, wanted: wanted.clone(), found }) }
}

fn missing(error: gantry_linux::Error, digest: &Digest) -> Error {
    if error.is_not_found() { Error::NotFound { kind: "content", name: digest.to_string() } } else { error.into() }
}

/// Content that is being written.
#[derive(Debug)]
pub struct Ingest<'a> {
    store: &'a Content,
    staged: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
}

impl Ingest<'_> {
    /// Verifies what was written against what was promised, syncs it and makes it visible in one step.
    ///
    /// # Errors
    /// [`Error::Digest`] or [`Error::Invalid`] when it is something else; then nothing is left.
    pub fn commit(self, wanted: Option<&Digest>, size: Option<u64>) -> Result<Digest> {
        let found = finish(self.hash.clone());
        right("content", wanted.unwrap_or(&found), found.clone())?;
        if let Some(size) = size.filter(|size| *size != self.size) {
            return Err(Error::invalid(format!("content {found}"), format!("{} bytes, want {size}", self.size)));
        }
        self.file.sync_all().during("sync", self.staged.display())?;
        fs::rename(&self.staged, self.store.path(&found))?;
        fs::sync_directory(&self.store.blobs)?;
        Ok(found)
    }
}

impl Write for Ingest<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.staged)
            && !error.is_not_found()
        {
            tracing::warn!(%error, "a half-written content file stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Content) {
        let dir = tempfile::tempdir().unwrap();
        let store = Content::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn what_is_put_is_read_back_and_deleted() {
        let (_dir, store) = store();
        let digest = store.put(b"hello").unwrap();
        assert_eq!(store.read(&digest).unwrap(), b"hello");
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&digest));
        store.delete(&digest).unwrap();
        store.delete(&digest).unwrap();
        assert!(matches!(store.read(&digest), Err(Error::NotFound { .. })));
    }

    #[test]
    fn what_is_put_together_is_there_and_damage_is_written_over() {
        let (dir, store) = store();
        let documents = ["a", "b", "a", "c"].map(|text| text.as_bytes().to_vec());
        let damaged = store.put(b"c").unwrap();
        fs::write(dir.path().join("sha256").join(damaged.hex()), b"d").unwrap();
        store.put_all(&documents).unwrap();
        for document in &documents {
            assert_eq!(&store.read(&crate::digest_of(document)).unwrap(), document);
        }
        assert_eq!(store.list().unwrap().len(), 3);
        assert!(fs::list(dir.path().join("ingest")).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_digest_or_size_leaves_nothing() {
        let (dir, store) = store();
        let other = crate::digest_of(b"other");
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(b"hello").unwrap();
        assert!(matches!(ingest.commit(Some(&other), None), Err(Error::Digest { .. })));
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(b"hello").unwrap();
        assert!(matches!(ingest.commit(None, Some(4)), Err(Error::Invalid { .. })));
        assert!(store.list().unwrap().is_empty());
        assert!(fs::list(dir.path().join("ingest")).unwrap().is_empty());
    }

    #[test]
    fn litter_of_a_dead_writer_is_removed_and_damage_is_seen() {
        let (dir, store) = store();
        std::mem::forget(store.ingest().unwrap());
        let digest = store.put(b"hello").unwrap();
        fs::write(dir.path().join("sha256").join(digest.hex()), b"hellO").unwrap();
        let store = Content::open(dir.path()).unwrap();
        assert!(fs::list(dir.path().join("ingest")).unwrap().is_empty());
        assert!(matches!(store.read(&digest), Err(Error::Digest { .. })));
    }
}
