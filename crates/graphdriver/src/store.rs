//! Where a driver keeps its layers: `layers/<id>` is whole, `drafts/<id>` is not yet, `trash/…` is no more. A directory
//! goes from one to the next by a rename, so a crash at any instant leaves each layer in exactly one of them.
//! `replaced/<unique>.<id>` is a damaged layer that a good one took the place of, for those who have it mounted.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_linux::lock::{FlockOperation, Lock};
use gantry_linux::{ResultExt, fs};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::archive::recipe;
use crate::left::Left;
use crate::writeback::Writeback;
use crate::{Error, Replaced, trash, tree};

/// What a rename says where the new name is another thing's.
const TAKEN: [Errno; 4] = [Errno::NOTEMPTY, Errno::EXIST, Errno::ISDIR, Errno::NOTDIR];
/// Names that are tried.
const ATTEMPTS: usize = 10_000;
/// The directory of what was replaced.
pub(crate) const REPLACED: &str = "replaced";

/// The directories of one driver.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    sweeping: Mutex<()>,
    left: Left,
    writeback: Arc<Writeback>,
    /// Locked as long as the store is open: two daemons must not share a data root.
    _lock: Lock,
}

/// Takes a driver's directory for as long as the lock lives.
pub(crate) fn lock(root: &Path) -> Result<Lock, Error> {
    // A full btrfs has no room to make even an empty file empty.
    let lock = fs::open_with(root.join("lock"), OpenOptions::new().write(true).create(true).truncate(false))?;
    let lock = Lock::take(lock, FlockOperation::NonBlockingLockExclusive).during("lock", root.display())?;
    lock.ok_or_else(|| Error::InUse(root.to_owned()))
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_mode(root, 0o700)?;
        let root = fs::canonicalize(root)?;
        let lock = lock(&root)?;
        for part in ["layers", "drafts", "trash", REPLACED] {
            fs::create_dir_mode(root.join(part), 0o700)?;
        }
        let writeback = Writeback::open(&root)?;
        let store = Self { root, sweeping: Mutex::new(()), left: Left::default(), writeback, _lock: lock };
        // One that fills the disk must not keep the daemon from starting: it is left to the first sweep.
        match store.discard_drafts()?.into_iter().find(|error| !error.is_disk_full()) {
            Some(error) => Err(error),
            None => Ok(store),
        }
    }

    /// Where what was removed waits for the sweep.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// The disk, for who writes to drafts.
    pub(crate) fn writeback(&self) -> &Arc<Writeback> {
        &self.writeback
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

    /// The same for what will be a layer, which must reach the disk.
    pub(crate) fn begin_layer(&self, id: &str) -> Result<PathBuf, Error> {
        self.writeback.collect();
        self.begin(id)
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
        self.writeback.begin(id);
        fs::set_mode(&path, 0o700)?;
        Ok(path)
    }

    /// Makes a draft a layer in one step; `durable` waits for the disk before and after.
    pub(crate) fn publish(&self, id: &str, durable: bool) -> Result<(), Error> {
        if durable {
            return self.publish_all(&[id]);
        }
        let (draft, layer) = (self.draft(id)?, self.layer_path(id));
        match renameat_with(CWD, &draft, CWD, &layer, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(Error::Exists(id.to_owned())),
            other => {
                other.during("rename", draft.display())?;
                self.writeback.forget(id);
                Ok(())
            }
        }
    }

    /// Makes drafts layers, in this order; waits for the disk once before and once after.
    pub(crate) fn publish_all(&self, ids: &[&str]) -> Result<(), Error> {
        let Some(first) = ids.first() else { return Ok(()) };
        self.writeback.settle(ids, &self.draft(first)?)?;
        ids.iter().try_for_each(|id| self.publish(id, false))?;
        Ok(fs::sync_directory(self.root.join("layers"))?)
    }

    /// Gives a draft its id, which must be free, and notes which layer it is on top of.
    pub(crate) fn place(&self, draft: &str, id: &str, parent: Option<&str>) -> Result<(), Error> {
        let path = self.draft(draft)?;
        let note = path.join("parent");
        match parent {
            Some(parent) => fs::write(note, parent)?,
            None if fs::symlink_metadata(&note).is_ok() => fs::remove_file(note)?,
            None => {}
        }
        if id == draft {
            return Ok(());
        }
        if !is_id(id) {
            return Err(Error::NotFound(format!("{id:?} (not a layer's id)")));
        }
        match renameat_with(CWD, &path, CWD, self.root.join("drafts").join(id), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(Error::Exists(id.to_owned())),
            other => {
                other.during("rename", path.display())?;
                self.writeback.rename(draft, id);
                Ok(())
            }
        }
    }

    /// Makes a draft the layer `id` in one step, durably; what was there under that id waits for [`Store::release`].
    pub(crate) fn replace(&self, draft: &str, id: &str) -> Result<(), Error> {
        if !self.exists(id) {
            let aside = self.draft(draft)?;
            // Under its own id it is published like any other.
            if draft != id {
                fs::rename(&aside, self.root.join("drafts").join(id))?;
                self.writeback.rename(draft, id);
            }
            return self.publish(id, true);
        }
        let (name, draft, layer) = (draft, self.draft(draft)?, self.layer_path(id));
        let aside = self.root.join(REPLACED).join(format!("{}.{id}", fs::unique()));
        self.writeback.settle(&[name], &draft)?;
        // First where the replaced one shall be: a crash between the two leaves a good copy for the sweep, nothing worse.
        fs::rename(&draft, &aside)?;
        self.writeback.forget(name);
        renameat_with(CWD, &aside, CWD, &layer, RenameFlags::EXCHANGE).during("put in place", layer.display())?;
        Ok(fs::sync_directory(self.root.join("layers"))?)
    }

    /// What was replaced.
    pub(crate) fn replaced(&self) -> Result<Vec<Replaced>, Error> {
        let names = fs::list(self.root.join(REPLACED))?.into_iter().filter_map(|name| name.into_string().ok());
        let replaced = |name: String| Some(Replaced { id: name.split_once('.')?.1.to_owned(), name });
        Ok(names.filter_map(replaced).collect())
    }

    /// Moves what was replaced to the trash.
    pub(crate) fn release(&self, replaced: &Replaced) -> Result<(), Error> {
        self.discard(&self.root.join(REPLACED).join(&replaced.name))
    }

    /// A quick look at a layer: its tree, below `tree`, and the notes that each layer has.
    pub(crate) fn check(&self, id: &str, tree: &str) -> Result<PathBuf, Error> {
        let layer = self.layer(id)?;
        let lacks = |what: &str| Error::Damaged { layer: layer.clone(), reason: format!("its {what} is missing") };
        let root = fs::symlink_metadata(layer.join(tree)).is_ok_and(|found| found.is_dir());
        if !root {
            return Err(lacks("tree of files"));
        }
        if fs::symlink_metadata(layer.join(recipe::FILE)).is_err() {
            return Err(lacks("recipe"));
        }
        match noted_size(&layer) {
            Ok(Some(_)) => Ok(layer),
            _ => Err(lacks("size")),
        }
    }

    /// Moves a directory of ours to the trash; one that is not there is fine. What cannot be moved is remembered.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), Error> {
        self.left.unless(path, || {
            self.move_to_trash(path)?;
            self.forget(path);
            Ok(())
        })
    }

    /// What was at the path is no draft any more.
    fn forget(&self, path: &Path) {
        if path.parent().is_some_and(|parent| parent.ends_with("drafts"))
            && let Some(draft) = path.file_name().and_then(|name| name.to_str())
        {
            self.writeback.forget(draft);
        }
    }

    fn move_to_trash(&self, path: &Path) -> Result<(), Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            return match fs::rename(path, self.trash().join(fs::unique())) {
                Err(error) if error.is_not_found() => Ok(()),
                // An earlier process with our number left that very name.
                Err(error)
                    if attempts < ATTEMPTS && TAKEN.iter().any(|taken| taken.raw_os_error() == error.errno()) =>
                {
                    continue;
                }
                // It is a part of a subvolume.
                Err(error) if error.errno() == Errno::XDEV.raw_os_error() => delete(path),
                other => Ok(other?),
            };
        }
    }

    /// Tries again what could not be moved. Nobody makes such a path anew before [`Store::discard`] of it has returned.
    pub(crate) fn discard_left(&self) -> Result<(), Error> {
        self.discard_left_or(|_| None)
    }

    /// The same, with what is to be done where a full disk has no room to move it.
    fn discard_left_or(&self, mut full: impl FnMut(&Path) -> Option<Result<(), Error>>) -> Result<(), Error> {
        self.left.each(|path| {
            match self.move_to_trash(path) {
                Err(error) if error.is_disk_full() => full(path).unwrap_or(Err(error)),
                other => other,
            }?;
            self.forget(path);
            Ok(())
        })
    }

    /// Moves the layer and the draft of that id to the trash.
    pub(crate) fn remove(&self, id: &str) -> Result<(), Error> {
        if !is_id(id) {
            return Ok(());
        }
        let removed = self.discard(&self.layer_path(id));
        self.discard(&self.root.join("drafts").join(id)).and(removed)
    }

    /// The drafts of a dead daemon. Returns the failures: what could not be moved is left to the sweep, and keeps no other.
    pub(crate) fn discard_drafts(&self) -> Result<Vec<Error>, Error> {
        let drafts = self.root.join("drafts");
        Ok(fs::list(&drafts)?.into_iter().filter_map(|draft| self.discard(&drafts.join(draft)).err()).collect())
    }

    /// Deletes what is in the trash, also what comes meanwhile. Before anything of it goes, `before` takes back what else belongs
    /// to it (by its paths): it sees everything, and its failure keeps nothing from being deleted.
    pub(crate) fn sweep(
        &self,
        drafts: bool,
        mut before: impl FnMut(&[PathBuf]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        // What fails here is tried again at once.
        let mut outcome = if drafts { self.discard_drafts().map(drop) } else { Ok(()) };
        // Nothing names it any more: it may go where it lies.
        let mut prepared = Ok(());
        outcome = outcome.and(self.discard_left_or(|path| {
            prepared = std::mem::replace(&mut prepared, Ok(())).and(before(&[path.to_path_buf()]));
            Some(delete(path))
        }));
        outcome = outcome.and(prepared);
        let trash = self.trash();
        loop {
            let names = fs::list(&trash)?;
            if names.is_empty() {
                return outcome;
            }
            let paths: Vec<PathBuf> = names.iter().map(|name| trash.join(name)).collect();
            outcome = outcome.and(before(&paths));
            if let Err(error) = trash::delete(&trash, &names) {
                return outcome.and(Err(error.into()));
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Nothing of it is busy any more.
        self.writeback.rest();
    }
}

/// Deletes a file, or a directory with everything in it.
pub(crate) fn delete(path: &Path) -> Result<(), Error> {
    let found = match fs::symlink_metadata(path) {
        // A subvolume goes at once.
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    if found.is_dir() {
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

/// Notes what a writable layer is on top of, where a power cut took the note.
pub(crate) fn complete_parent(layer: &Path, parent: Option<&str>) -> Result<(), Error> {
    match parent {
        Some(parent) if note(layer, "parent")?.as_deref() != Some(parent) => {
            Ok(fs::write(layer.join("parent"), parent)?)
        }
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_process_with_our_number_left_in_the_trash_is_in_nobodys_way() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let name = fs::unique();
        let (pid, next) = name.rsplit_once('-').map(|(pid, next)| (pid, next.parse::<u64>().unwrap())).unwrap();
        // Other tests take numbers too.
        for number in next..next + 200 {
            let path = store.trash().join(format!("{pid}-{number}"));
            match number % 3 {
                0 => fs::write(&path, "a file").unwrap(),
                1 => fs::create_dir(&path).unwrap(),
                _ => fs::create_dir_all(path.join("with something")).unwrap(),
            }
        }
        for round in 0..6 {
            let (file, directory) = (root.path().join("file"), root.path().join("directory"));
            fs::write(&file, "x").unwrap();
            fs::create_dir_all(directory.join("x")).unwrap();
            store.discard(&file).unwrap_or_else(|error| panic!("round {round}: {error}"));
            store.discard(&directory).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        store.sweep(false, |_| Ok(())).unwrap();
        assert!(fs::list(store.trash()).unwrap().is_empty());
    }

    #[test]
    fn what_could_not_be_moved_to_the_trash_is_moved_by_the_sweep() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        fs::create_dir(store.layer_path("one")).unwrap();
        store.begin("one").unwrap_err();
        for draft in ["two", "three"] {
            store.begin(draft).unwrap();
        }
        fs::remove_dir(store.trash()).unwrap();
        // Not there is no error, so there must be something else in the way.
        fs::write(store.trash(), "").unwrap();
        assert!(store.remove("one").is_err());
        assert_eq!(store.discard_drafts().unwrap().len(), 2, "one that fails keeps no other from being tried");
        assert!(store.writeback.has_drafts());
        fs::remove_file(store.trash()).unwrap();
        fs::create_dir(store.trash()).unwrap();
        let mut seen = Vec::new();
        store
            .sweep(false, |paths| {
                seen.extend(paths.iter().map(|path| fs::symlink_metadata(path).unwrap().is_dir()));
                Err(Error::NotFound("a failure that keeps nothing".to_owned()))
            })
            .unwrap_err();
        assert!(!store.exists("one") && fs::list(store.trash()).unwrap().is_empty());
        assert_eq!(seen, [true; 3], "what else belonged to it was taken back before");
        assert!(!store.writeback.has_drafts(), "what fails on the disk would count as theirs");
    }
}
