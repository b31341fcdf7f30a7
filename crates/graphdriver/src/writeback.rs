//! Waiting for the disk, begun in time: while much is unpacked, what is written already goes to the disk beside it, so that the one
//! wait at the end of an image is short.
//!
//! A write that fails is told to one `syncfs` of a descriptor and to no later one. All of them go through the one descriptor
//! here, one after the other, and a failure is one for every draft that was there then: nobody can tell whose the write was.
//! What failed while there was none, months ago perhaps, is asked for before the next one counts ([`Writeback::collect`]).

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

/// What is waited for.
trait Disk: std::fmt::Debug + Send + Sync {
    /// Waits until everything is there that was written before. An error tells of any write that failed since the last call.
    fn sync(&self) -> rustix::io::Result<()>;
}

impl Disk for File {
    fn sync(&self) -> rustix::io::Result<()> {
        rustix::fs::syncfs(self)
    }
}

/// The disk below one driver's directories.
#[derive(Debug)]
pub(crate) struct Writeback {
    disk: Box<dyn Disk>,
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
    /// Those at the end of an image, who wait for all of it.
    settling: usize,
    /// How often waiting for the disk has failed.
    failures: u64,
    /// The drafts, and how often it had failed when they were begun.
    drafts: HashMap<String, u64>,
}

impl Writeback {
    pub(crate) fn open(root: &Path) -> Result<Arc<Self>, Error> {
        Ok(Self::with(Box::new(fs::open(root)?), PORTION))
    }

    fn with(disk: Box<dyn Disk>, portion: u64) -> Arc<Self> {
        Arc::new(Self {
            disk,
            portion,
            written: AtomicU64::new(0),
            waiting: Mutex::default(),
            state: Mutex::default(),
            idle: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_drafts(&self) -> bool {
        !self.lock().drafts.is_empty()
    }

    /// Has the disk say what failed while there was no draft: it is not the fault of the one that comes now.
    pub(crate) fn collect(&self) {
        if self.has_drafts() {
            return;
        }
        if let Err(errno) = self.wait() {
            tracing::warn!("write to the disk, while nothing was unpacked: {errno}: some file on it may be damaged");
        }
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
        // Whoever settles has the disk to itself, and all of this goes there, too.
        if state.is_busy || state.settling > 0 {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        let own = Arc::clone(self);
        // Without a thread everything waits for the end, as if there were little.
        state.is_busy = std::thread::Builder::new().name("writeback".to_owned()).spawn(move || own.work()).is_ok();
    }

    fn work(&self) {
        let _busy = Busy(self);
        loop {
            if let Err(errno) = self.wait() {
                tracing::warn!(
                    "write what is being unpacked to the disk: {errno}: what is being unpacked now is given up"
                );
            }
            let mut state = self.lock();
            if state.settling > 0 || self.written.load(Ordering::Relaxed) < self.portion {
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
        self.disk.sync().inspect_err(|_| self.lock().failures += 1)
    }

    /// Waits until these drafts are on the disk, of which the first is at `shown`.
    pub(crate) fn settle(&self, drafts: &[&str], shown: &Path) -> Result<(), Error> {
        self.lock().settling += 1;
        // From here on the thread begins no other round.
        self.written.store(0, Ordering::Relaxed);
        let waited = {
            let _settling = Settling(self);
            self.wait()
        };
        waited.during("sync file system of", shown.display())?;
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

/// Who waits for the end of an image, also when that panics.
struct Settling<'a>(&'a Writeback);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.lock().settling -= 1;
    }
}

/// The thread, whose end is told also when it panics.
struct Busy<'a>(&'a Writeback);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // At its own end it has said so, and another may be there by now.
        if std::thread::panicking() {
            let mut state = self.0.lock();
            // Nobody heard what the disk said.
            state.failures += 1;
            state.is_busy = false;
            self.0.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A disk that says when it is waited for, and answers what it is told to.
    #[derive(Debug)]
    struct Scripted {
        begun: Sender<()>,
        answers: Mutex<Receiver<rustix::io::Result<()>>>,
    }

    impl Disk for Scripted {
        fn sync(&self) -> rustix::io::Result<()> {
            self.begun.send(()).unwrap();
            self.answers.lock().unwrap().recv().expect("an answer")
        }
    }

    /// With the ends at which a test hears of waits, and answers them.
    fn scripted(portion: u64) -> (Arc<Writeback>, Receiver<()>, Sender<rustix::io::Result<()>>) {
        let ((begun, begins), (answer, answers)) = (channel(), channel());
        let disk = Scripted { begun, answers: Mutex::new(answers) };
        (Writeback::with(Box::new(disk), portion), begins, answer)
    }

    /// Whether the thread ends, where it might not.
    fn comes_to_rest(writeback: &Arc<Writeback>) -> bool {
        let (own, (told, rests)) = (Arc::clone(writeback), channel());
        std::thread::spawn(move || {
            own.rest();
            told.send(()).ok();
        });
        rests.recv_timeout(std::time::Duration::from_secs(30)).is_ok()
    }

    fn settle(writeback: &Writeback, drafts: &[&str]) -> Result<(), Error> {
        writeback.settle(drafts, Path::new("/some/draft"))
    }

    #[test]
    fn much_is_waited_for_beside_whoever_writes_and_little_is_not() {
        let (writeback, begins, answer) = scripted(1000);
        writeback.wrote(999);
        assert!(!writeback.lock().is_busy);
        // The disk holds the thread up, and the thread nobody who writes.
        writeback.wrote(1);
        begins.recv().unwrap();
        (0..5).for_each(|_| writeback.wrote(600));
        assert!(writeback.lock().is_busy);
        (0..2).for_each(|_| answer.send(Ok(())).unwrap());
        writeback.rest();
        assert_eq!(begins.try_iter().count(), 1, "once more for what was written meanwhile");
        assert_eq!(writeback.written.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_write_that_fails_beside_the_unpacking_is_told_to_every_draft_that_was_there_and_to_no_later_one() {
        let (writeback, begins, answer) = scripted(1000);
        ["one", "two", "three"].iter().for_each(|draft| writeback.begin(draft));
        writeback.wrote(1000);
        begins.recv().unwrap();
        answer.send(Err(Errno::IO)).unwrap();
        writeback.rest();
        writeback.begin("later");
        writeback.rename("two", "placed");
        writeback.forget("three");
        // The disk has told it once, and tells nobody else.
        (0..5).for_each(|_| answer.send(Ok(())).unwrap());
        settle(&writeback, &["later"]).unwrap();
        for drafts in [&["one"][..], &["placed"], &["later", "one"]] {
            let error = settle(&writeback, drafts).unwrap_err().to_string();
            assert!(error.contains("/some/draft") && error.contains("Input/output error"), "{error}");
        }
        // What is begun anew under the name is another draft.
        writeback.begin("one");
        settle(&writeback, &["one", "later", "three"]).unwrap();
    }

    #[test]
    fn a_write_that_failed_before_there_was_a_draft_is_nobodys() {
        let (writeback, begins, answer) = scripted(1000);
        answer.send(Err(Errno::IO)).unwrap();
        writeback.collect();
        writeback.begin("one");
        // Beside a draft nobody could tell whose a failure is: it is left to be told to that one.
        writeback.collect();
        assert_eq!(begins.try_iter().count(), 1);
        answer.send(Ok(())).unwrap();
        settle(&writeback, &["one"]).unwrap();
        answer.send(Err(Errno::IO)).unwrap();
        settle(&writeback, &["one"]).unwrap_err();
    }

    #[test]
    fn who_settles_waits_for_one_round_of_the_thread_at_most() {
        let (writeback, begins, answer) = scripted(1000);
        writeback.begin("one");
        writeback.wrote(1000);
        begins.recv().unwrap();
        // Enough for another round.
        writeback.wrote(2000);
        std::thread::scope(|scope| {
            let settling = scope.spawn(|| settle(&writeback, &["one"]));
            while writeback.lock().settling == 0 {
                std::thread::yield_now();
            }
            writeback.wrote(2000);
            answer.send(Ok(())).unwrap();
            begins.recv().unwrap();
            let (has_rested, is_settling) = (comes_to_rest(&writeback), !settling.is_finished());
            // Whatever else waits for the disk ends, too, and the test fails.
            (0..3).for_each(|_| answer.send(Ok(())).unwrap());
            settling.join().unwrap().unwrap();
            assert!(has_rested && is_settling, "{has_rested} {is_settling}");
        });
        assert_eq!(begins.try_iter().count(), 0, "one round of the thread, and one of who settles");
        // Then it goes on.
        writeback.wrote(1000);
        begins.recv().unwrap();
        writeback.rest();
    }

    #[test]
    fn a_thread_that_panics_keeps_nobody_waiting_and_fails_what_was_there() {
        let (writeback, begins, answer) = scripted(1000);
        writeback.begin("one");
        writeback.wrote(1000);
        begins.recv().unwrap();
        // No answer is a panic.
        drop(answer);
        assert!(comes_to_rest(&writeback), "the thread is gone and counts as busy");
        let state = writeback.lock();
        assert!(!state.is_busy);
        assert!(state.drafts["one"] < state.failures, "what the disk said of it is not known");
    }
}
