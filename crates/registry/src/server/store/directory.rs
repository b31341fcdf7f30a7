//! The directory store. `documents/` by key, `content/<algorithm>/<2 digits>/<digits>`; what is on its way lies in `staging/`,
//! gets its name by a rename after it is on disk, and is litter when its writer died before.

use std::fs::{File, FileTimes, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use gantry_linux::fs;
use gantry_linux::{Error, ResultExt};

use super::{DOCUMENT_LIMIT, Entry, Key, Piece, Result, Source, Stat, Storage, blocking, fits};
use crate::server::hooks::Future;
use crate::server::names::{Algorithm, Digest};

/// A name may have to be made again beside a cleaner that removes empty folders.
const ATTEMPTS: usize = 8;

/// A directory of this machine.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Places>);

#[derive(Debug)]
struct Places {
    documents: PathBuf,
    content: PathBuf,
    staging: PathBuf,
}

impl Directory {
    /// Opens or makes it, and removes what dead writers left.
    ///
    /// # Errors
    /// When the directories cannot be made or cleaned.
    pub fn open(root: &Path) -> Result<Self> {
        let places = Places::of(root);
        fs::create_dir_mode(root, 0o700)?;
        fs::create_dir_all(&places.staging)?;
        fs::remove_children(&places.staging)?;
        fs::create_dir_all(&places.documents)?;
        fs::create_dir_all(&places.content)?;
        fs::sync_directory(root)?;
        Ok(Self(Arc::new(places)))
    }

    /// One that is there, for reading: somebody else may have it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn look(root: &Path) -> Result<Self> {
        let places = Places::of(root);
        fs::metadata(&places.documents)?;
        Ok(Self(Arc::new(places)))
    }

    async fn at<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Places) -> gantry_linux::Result<T> + Send + 'static,
    ) -> Result<T> {
        let places = Arc::clone(&self.0);
        Ok(blocking(move || work(&places)).await?)
    }
}

impl Places {
    fn of(root: &Path) -> Self {
        let at = |name: &str| root.join(name);
        Self { documents: at("documents"), content: at("content"), staging: at("staging") }
    }

    fn document(&self, key: &Key) -> PathBuf {
        self.documents.join(key.as_str())
    }

    fn content(&self, digest: &Digest) -> PathBuf {
        self.shard(digest.algorithm(), &digest.hex()[..2]).join(digest.hex())
    }

    fn shard(&self, algorithm: Algorithm, shard: &str) -> PathBuf {
        self.content.join(algorithm.as_str()).join(shard)
    }

    fn write(&self, path: &Path, document: &[u8], top: &Path) -> gantry_linux::Result<()> {
        let staged = self.staging.join(fs::unique());
        let written = (|| {
            fs::write_new(&staged, document, 0o600)?.sync_all().during("sync", staged.display())?;
            place(&staged, path, top)
        })();
        if written.is_err() {
            // The first error is the one that matters; the staged file may not even exist.
            let _ = fs::remove_file(&staged);
        }
        written
    }

    fn adopt(&self, staged: &Path, digest: &Digest) -> gantry_linux::Result<()> {
        let file = fs::open(staged)?;
        file.sync_all().during("sync", staged.display())?;
        now(&file).during("touch", staged.display())?;
        place(staged, &self.content(digest), &self.content)
    }

    fn list(&self, folder: &Path) -> gantry_linux::Result<Vec<Entry>> {
        let names = match fs::list(folder) {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            other => other?,
        };
        let mut entries = Vec::with_capacity(names.len());
        for name in names.into_iter().filter_map(|name| name.into_string().ok()) {
            if let Some(metadata) = present(fs::symlink_metadata(folder.join(&name)))? {
                entries.push(Entry { name, folder: metadata.is_dir() });
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn contents(&self, shard: u8) -> gantry_linux::Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let names = present(fs::list(self.shard(algorithm, &format!("{shard:02x}"))))?.unwrap_or_default();
            let digest = |name: std::ffi::OsString| format!("{}:{}", algorithm.as_str(), name.to_str()?).parse().ok();
            found.extend(names.into_iter().filter_map(digest));
        }
        Ok(found)
    }
}

/// Gives a file that is on disk its name, durably; the folders on the way to it, below `top`, are made.
fn place(staged: &Path, path: &Path, top: &Path) -> gantry_linux::Result<()> {
    let folder = path.parent().unwrap_or(top);
    let mut attempts = 0;
    while let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::rename(staged, path)) {
        attempts += 1;
        if !error.is_not_found() || attempts > ATTEMPTS {
            return Err(error);
        }
    }
    // Those that were there, too: who made one may not have come to syncing it. One that is on disk already costs nothing.
    sync(folder)?;
    folder.ancestors().take_while(|folder| *folder != top).filter_map(Path::parent).try_for_each(sync)
}

/// A folder that a cleaner removed meanwhile had nothing in it that was to be synced.
fn sync(folder: &Path) -> gantry_linux::Result<()> {
    present(fs::sync_directory(folder)).map(drop)
}

/// Removes a document's folders as far as they are empty.
fn remove_folders(path: &Path, top: &Path) {
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != top) {
        // One that is not empty stays, and so do those around it.
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error.source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

pub(super) fn present<T>(result: gantry_linux::Result<T>) -> gantry_linux::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn now(file: &File) -> std::io::Result<()> {
    file.set_times(FileTimes::new().set_modified(SystemTime::now()))
}

fn touch(path: &Path) -> gantry_linux::Result<Option<Stat>> {
    let Some(file) = present(fs::open_with(path, OpenOptions::new().read(true)))? else { return Ok(None) };
    now(&file).during("touch", path.display())?;
    stat_of(&file.metadata().during("stat", path.display())?).map(Some)
}

pub(super) fn stat_of(metadata: &std::fs::Metadata) -> gantry_linux::Result<Stat> {
    Ok(Stat { size: metadata.len(), touched: metadata.modified().during("stat", "a file's time")? })
}

impl Storage for Directory {
    fn read<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<Bytes>>> {
        let key = key.clone();
        Box::pin(self.at(move |at| Ok(present(fs::read_up_to(at.document(&key), DOCUMENT_LIMIT))?.map(Bytes::from))))
    }

    fn write<'a>(&'a self, key: &'a Key, document: Bytes) -> Future<'a, Result<()>> {
        let key = key.clone();
        Box::pin(async move {
            fits(&key, &document)?;
            self.at(move |at| at.write(&at.document(&key), &document, &at.documents)).await
        })
    }

    fn remove<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>> {
        let key = key.clone();
        Box::pin(self.at(move |at| {
            let path = at.document(&key);
            let Some(()) = present(fs::remove_file(&path))? else { return Ok(false) };
            sync(path.parent().unwrap_or(&at.documents))?;
            remove_folders(&path, &at.documents);
            Ok(true)
        }))
    }

    fn touched<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<SystemTime>>> {
        let key = key.clone();
        Box::pin(self.at(move |at| {
            let metadata = present(fs::metadata(at.document(&key)))?;
            metadata.map(|metadata| Ok(stat_of(&metadata)?.touched)).transpose()
        }))
    }

    fn touch<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>> {
        let key = key.clone();
        Box::pin(self.at(move |at| Ok(touch(&at.document(&key))?.is_some())))
    }

    fn list<'a>(&'a self, folder: &'a Key) -> Future<'a, Result<Vec<Entry>>> {
        let folder = folder.clone();
        Box::pin(self.at(move |at| at.list(&at.document(&folder))))
    }

    fn stat<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        let digest = digest.clone();
        Box::pin(self.at(move |at| {
            let metadata = present(fs::metadata(at.content(&digest)))?;
            metadata.map(|metadata| stat_of(&metadata)).transpose()
        }))
    }

    fn open<'a>(&'a self, digest: &'a Digest, offset: u64, length: u64) -> Future<'a, Result<Option<Source>>> {
        let digest = digest.clone();
        Box::pin(self.at(move |at| {
            let file = present(fs::open(at.content(&digest)))?;
            Ok(file.map(|file| Source::File(Piece::new(file, offset, length))))
        }))
    }

    /// Under the lock there is nothing left to sync.
    fn bring<'a>(&'a self, staged: &'a Path, _: &'a Digest, _: u64) -> Future<'a, Result<()>> {
        let staged = staged.to_owned();
        Box::pin(self.at(move |_| fs::sync_file(staged)))
    }

    fn adopt<'a>(&'a self, staged: &'a Path, digest: &'a Digest, _: u64) -> Future<'a, Result<()>> {
        let (staged, digest) = (staged.to_owned(), digest.clone());
        Box::pin(self.at(move |at| at.adopt(&staged, &digest)))
    }

    fn put<'a>(&'a self, digest: &'a Digest, bytes: Bytes) -> Future<'a, Result<()>> {
        let digest = digest.clone();
        Box::pin(self.at(move |at| at.write(&at.content(&digest), &bytes, &at.content)))
    }

    fn refresh<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        let digest = digest.clone();
        Box::pin(self.at(move |at| touch(&at.content(&digest))))
    }

    fn discard<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<bool>> {
        let digest = digest.clone();
        Box::pin(self.at(move |at| {
            let path = at.content(&digest);
            let removed = present(fs::remove_file(&path))?.is_some();
            Ok(removed)
        }))
    }

    fn contents(&self, shard: u8) -> Future<'_, Result<Vec<Digest>>> {
        Box::pin(self.at(move |at| at.contents(shard)))
    }
}
