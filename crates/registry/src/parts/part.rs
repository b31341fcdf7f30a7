//! One part: its segments, how far they reach, and waiting for more.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use gantry_api::reference::Digest;
use gantry_linux::fs;
use gantry_linux::{Error, Result};

use super::Ledger;
use crate::Descriptor;

/// Who waits for bytes is woken when there are so many, or no more to come: not for each small piece.
const WORTH_WAKING: u64 = 128 << 10;

/// What has come of one blob.
#[derive(Debug)]
pub struct Part {
    pub digest: Digest,
    pub size: u64,
    directory: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    /// Whoever holds it fetches and writes.
    pub ledger: Arc<tokio::sync::Mutex<Ledger>>,
    spent: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// By their first bytes; they do not overlap.
    segments: BTreeMap<u64, Segment>,
    /// Bytes of all segments.
    received: u64,
    /// So many bytes from the first on are there without a gap.
    reach: u64,
    /// Some of them came before this daemon, or from another source: they may be damaged.
    is_old: bool,
    /// The digest is right.
    is_whole: bool,
    /// How often all of it was thrown away.
    round: u32,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    length: u64,
}

/// What a reader finds.
pub enum Seen {
    /// A segment, where in it to go on, and how many bytes are there.
    Bytes(Arc<File>, u64, u64),
    /// It is whole, and there is no more.
    End,
    /// Thrown away since the reader began.
    Anew,
    /// Nobody fetches it for this reader any more.
    GivenUp,
}

impl State {
    fn advance(&mut self) {
        while let Some((start, segment)) = self.segments.range(..=self.reach).next_back() {
            let end = start + segment.length;
            if end <= self.reach {
                return;
            }
            self.reach = end;
        }
    }

    fn insert(&mut self, start: u64, segment: Segment) {
        self.received += segment.length;
        self.segments.insert(start, segment);
        self.advance();
    }
}

impl Part {
    /// Opens what is there, or begins it.
    pub(super) fn open(directory: PathBuf, blob: &Descriptor) -> Result<Self> {
        fs::create_dir_mode(&directory, 0o700)?;
        let mut found = BTreeMap::new();
        for name in fs::list(&directory)? {
            let path = directory.join(&name);
            let start = name.to_str().and_then(|name| name.parse::<u64>().ok());
            let file = fs::open_with(&path, OpenOptions::new().read(true).write(true))?;
            let length = fs::metadata(&path)?.len();
            match start.filter(|start| length > 0 && start.saturating_add(length) <= blob.size) {
                Some(start) => drop(found.insert(start, Segment { file: Arc::new(file), length })),
                None => fs::remove_file(&path)?,
            }
        }
        let mut state = State::default();
        let mut end = 0;
        for (start, segment) in found {
            if start < end {
                fs::remove_file(directory.join(start.to_string()))?;
                continue;
            }
            end = start + segment.length;
            state.insert(start, segment);
        }
        state.is_old = state.received > 0;
        Ok(Self {
            digest: blob.digest.clone(),
            size: blob.size,
            directory,
            state: Mutex::new(state),
            changed: Condvar::new(),
            ledger: Arc::default(),
            spent: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are there.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// Bytes from the first on that are there without a gap.
    pub fn reach(&self) -> u64 {
        self.lock().reach
    }

    pub fn is_whole(&self) -> bool {
        self.lock().is_whole
    }

    /// Whether some of it came before, so that it may be damaged without the registry's doing.
    pub fn is_old(&self) -> bool {
        self.lock().is_old
    }

    /// What comes from now on comes from somebody else.
    pub fn now_is_old(&self) {
        let mut state = self.lock();
        state.is_old = state.received > 0;
    }

    /// How often all of it was thrown away.
    pub fn round(&self) -> u32 {
        self.lock().round
    }

    /// The image that needed it is there, or it must not take space any longer: it goes with its last lease.
    pub fn spend(&self) {
        self.spent.store(true, Ordering::Release);
    }

    pub(super) fn is_worth_keeping(&self) -> bool {
        !self.spent.load(Ordering::Acquire) && self.received() > 0
    }

    /// What is missing, in order.
    pub fn gaps(&self) -> Vec<Range<u64>> {
        let state = self.lock();
        let mut gaps = Vec::new();
        let mut at = 0;
        for (start, segment) in &state.segments {
            if at < *start {
                gaps.push(at..*start);
            }
            at = start + segment.length;
        }
        if at < self.size {
            gaps.push(at..self.size);
        }
        gaps
    }

    /// Writes bytes to where nothing is. Only who holds the ledger does.
    pub(super) fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let before = {
            let state = self.lock();
            let before = state.segments.range(..at).next_back();
            let ends_here = before.filter(|(start, segment)| **start + segment.length == at);
            ends_here.map(|(start, segment)| (*start, Arc::clone(&segment.file)))
        };
        let (start, file, is_new) = match before {
            Some((start, file)) => (start, file, false),
            None => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true);
                (at, Arc::new(fs::open_with(self.directory.join(at.to_string()), &options)?), true)
            }
        };
        if let Err(source) = file.write_all_at(bytes, at - start) {
            let path = self.directory.join(start.to_string());
            if is_new {
                // Else nothing may be appended here a second time.
                fs::remove_file(&path)?;
            }
            return Err(Error::new("write", path.display().to_string(), source));
        }
        let mut state = self.lock();
        let length = bytes.len() as u64;
        if is_new {
            state.insert(start, Segment { file, length });
        } else {
            state.received += length;
            if let Some(segment) = state.segments.get_mut(&start) {
                segment.length += length;
            }
            state.advance();
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Reads what is there at `at`.
    pub(super) fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<usize> {
        let Some((file, offset, length)) = find(&self.lock(), at) else { return Ok(0) };
        let most = buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let failed = |source| Error::new("read", self.directory.display().to_string(), source);
        file.read_at(&mut buffer[..most], offset).map_err(failed)
    }

    /// Keeps what is there without a gap, for a source that sends all from somewhere to the end.
    pub fn keep_beginning(&self) -> Result<()> {
        let mut state = self.lock();
        let reach = state.reach;
        for (start, segment) in state.segments.split_off(&reach) {
            state.received -= segment.length;
            fs::remove_file(self.directory.join(start.to_string()))?;
        }
        Ok(())
    }

    /// Throws all of it away. Who reads it begins again.
    pub(super) fn throw_away(&self) -> Result<()> {
        let mut state = self.lock();
        let segments = std::mem::take(&mut state.segments);
        *state = State { round: state.round + 1, ..State::default() };
        drop(state);
        self.changed.notify_all();
        segments.keys().try_for_each(|start| fs::remove_file(self.directory.join(start.to_string())))
    }

    /// All of it in one file, which may be moved away: a link where it is one, a copy where it came in several ranges.
    pub fn file(&self) -> Result<PathBuf> {
        let path = self.directory.join(format!("whole-{}", fs::unique()));
        let segments: Vec<_> =
            self.lock().segments.iter().map(|(start, s)| (*start, Arc::clone(&s.file), s.length)).collect();
        if let [(start, ..)] = segments[..] {
            fs::hard_link(self.directory.join(start.to_string()), &path)?;
            return Ok(path);
        }
        let whole = fs::create(&path)?;
        for (start, segment, length) in segments {
            let mut there = Section { file: &segment, at: 0, end: length };
            let copied = io::copy(&mut there, &mut &whole);
            copied.map_err(|source| {
                Error::new("copy", self.directory.join(start.to_string()).display().to_string(), source)
            })?;
        }
        Ok(path)
    }

    pub(super) fn set_whole(&self) {
        self.lock().is_whole = true;
        self.changed.notify_all();
    }

    /// Waits until there is something at `at`, `given_up` is set, or all of it was thrown away since round `round`.
    pub fn wait(&self, at: u64, round: u32, given_up: &AtomicBool) -> Seen {
        let mut state = self.lock();
        loop {
            if state.round != round {
                return Seen::Anew;
            }
            let there = state.reach.saturating_sub(at);
            if there > 0
                && (there >= WORTH_WAKING || state.reach == self.size)
                && let Some((file, offset, length)) = find(&state, at)
            {
                return Seen::Bytes(file, offset, length);
            }
            if state.is_whole && at >= self.size {
                return Seen::End;
            }
            if given_up.load(Ordering::Acquire) {
                return Seen::GivenUp;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells who waits for the bytes that they do not come.
    pub fn give_up(&self, given_up: &AtomicBool) {
        let state = self.lock();
        given_up.store(true, Ordering::Release);
        drop(state);
        self.changed.notify_all();
    }
}

/// The bytes of a segment, whoever else reads it.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl io::Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The segment at a byte, where in it that is, and how many bytes are there.
fn find(state: &State, at: u64) -> Option<(Arc<File>, u64, u64)> {
    let (start, segment) = state.segments.range(..=at).next_back()?;
    let offset = at - start;
    (offset < segment.length).then(|| (Arc::clone(&segment.file), offset, segment.length - offset))
}
