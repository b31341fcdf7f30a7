//! Waiting for the disk, begun in time: while much is unpacked, what is written already goes to the disk beside it, so that the one
//! wait at the end of an image is short.
//!
//! A write that fails is told to one `syncfs` of a descriptor and to no later one. All of them go through the one descriptor
//! here, one after the other, and a failure is one for every draft that was there then: nobody can tell whose the write was.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use gantry_linux::{ResultExt, fs};
use rustix::io::Errno;

use crate::Error;

/// Bytes that are written before the next wait is begun.
const PORTION: u64 = 32 << 20;
/// What a file counts beside its content: its inode and its name are to be written, too.
pub(crate) const FILE: u64 = 4096;

/// The disk below one driver's directories.
#[derive(Debug)]
pub(crate) struct Writeback {
    file: File,
    portion: u64,
    /// Bytes since the last wait was begun.
    written: AtomicU64,
    /// Whoever waits for the disk.
    waiting: Mutex<()>,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A thread waits for the disk beside those who unpack.
    is_busy: bool,
    /// How often waiting for the disk has failed.
    failures: u64,
    /// The drafts, and how often it had failed when they were begun.
    drafts: HashMap<String, u64>,
}

impl Writeback {
    pub(crate) fn open(root: &Path) -> Result<Arc<Self>, Error> {
        Self::with(root, PORTION)
    }

    fn with(root: &Path, portion: u64) -> Result<Arc<Self>, Error> {
        let file = fs::open(root)?;
        Ok(Arc::new(Self {
            file,
            portion,
            written: AtomicU64::new(0),
            waiting: Mutex::default(),
            state: Mutex::default(),
            idle: Condvar::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A draft is begun: what is written from here on must reach the disk before it is a layer.
    pub(crate) fn begin(&self, draft: &str) {
        let mut state = self.lock();
        let failures = state.failures;
        state.drafts.insert(draft.to_owned(), failures);
    }

    /// A draft has another name.
    pub(crate) fn rename(&self, draft: &str, id: &str) {
        let mut state = self.lock();
        if let Some(failures) = state.drafts.remove(draft) {
            state.drafts.insert(id.to_owned(), failures);
        }
    }

    /// It is no draft any more.
    pub(crate) fn forget(&self, draft: &str) {
        self.lock().drafts.remove(draft);
    }

    /// So much was written to drafts. When it is enough a thread has it go to the disk; whoever writes goes on.
    pub(crate) fn wrote(self: &Arc<Self>, bytes: u64) {
        if self.written.fetch_add(bytes, Ordering::Relaxed) + bytes < self.portion {
            return;
        }
        let mut state = self.lock();
        if state.is_busy {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        let own = Arc::clone(self);
        // Without a thread everything waits for the end, as if there were little.
        state.is_busy = std::thread::Builder::new().name("writeback".to_owned()).spawn(move || own.work()).is_ok();
    }

    fn work(&self) {
        loop {
            if let Err(errno) = self.wait() {
                tracing::warn!(
                    "write what is being unpacked to the disk: {errno}: what is being unpacked now is given up"
                );
            }
            let mut state = self.lock();
            if self.written.load(Ordering::Relaxed) < self.portion {
                state.is_busy = false;
                self.idle.notify_all();
                return;
            }
            self.written.store(0, Ordering::Relaxed);
        }
    }

    /// Waits until everything is on the disk that was written before.
    fn wait(&self) -> rustix::io::Result<()> {
        // A failure is counted before anybody else can be told that there is none.
        let _one = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::fs::syncfs(&self.file).inspect_err(|_| self.lock().failures += 1)
    }

    /// Waits until these drafts are on the disk, of which the first is at `shown`.
    pub(crate) fn settle(&self, drafts: &[&str], shown: &Path) -> Result<(), Error> {
        self.wait().during("sync file system of", shown.display())?;
        let state = self.lock();
        let failed = |draft: &&str| state.drafts.get(*draft).is_some_and(|before| *before != state.failures);
        if drafts.iter().any(failed) {
            let failed: rustix::io::Result<()> = Err(Errno::IO);
            failed.during("write to the disk, while it was unpacked,", shown.display())?;
        }
        Ok(())
    }

    /// Waits for the thread.
    pub(crate) fn rest(&self) {
        let mut state = self.lock();
        while state.is_busy {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_waited_for_beside_whoever_writes_and_little_is_not() {
        let root = tempfile::tempdir().unwrap();
        let writeback = Writeback::with(root.path(), 1000).unwrap();
        writeback.wrote(999);
        assert!(!writeback.lock().is_busy);
        assert_eq!(writeback.written.load(Ordering::Relaxed), 999);
        // Whoever waits holds the thread up, and the thread nobody who writes.
        let held = writeback.waiting.lock().unwrap();
        writeback.wrote(1);
        assert!(writeback.lock().is_busy);
        (0..5).for_each(|_| writeback.wrote(600));
        assert!(writeback.lock().is_busy);
        drop(held);
        writeback.rest();
        assert_eq!(writeback.written.load(Ordering::Relaxed), 0, "once more for what was written meanwhile");
    }

    #[test]
    fn a_failed_write_is_told_to_every_draft_that_was_there_and_to_no_later_one() {
        let root = tempfile::tempdir().unwrap();
        let writeback = Writeback::open(root.path()).unwrap();
        ["one", "two", "three"].iter().for_each(|draft| writeback.begin(draft));
        writeback.lock().failures += 1;
        writeback.begin("later");
        writeback.rename("two", "placed");
        writeback.forget("three");
        let settle = |drafts: &[&str]| writeback.settle(drafts, root.path());
        settle(&["later"]).unwrap();
        for drafts in [&["one"][..], &["placed"], &["later", "one"]] {
            let error = settle(drafts).unwrap_err().to_string();
            assert!(error.contains(&*root.path().to_string_lossy()), "{error}");
        }
        // What is begun anew under the name is another draft.
        writeback.begin("one");
        settle(&["one", "later", "three"]).unwrap();
    }
}
