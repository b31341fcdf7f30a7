//! Files that were made get their content from a thread of its own, while the next ones are made. Making happens in the
//! archive's order; filling needs no name any more, only the descriptor.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use gantry_linux::ResultExt;
use rustix::fs::{Gid, Mode, Stat, Uid, XattrFlags, fchmod, fchown, fsetxattr};
use rustix::io::Errno;

use super::entry::{Entry, Target};
use super::extract::is_wanted;
use crate::Error;
use crate::tree::{self, show};
use crate::writeback::FILE;

/// Bytes of content that one batch holds.
const BATCH: usize = 256 << 10;
/// Files that one batch ends, at most: each is an open descriptor.
const FILES: usize = 32;
/// Bytes of the names and extended attributes that come with them: a single file may bring a mebibyte.
const WORDS: usize = 256 << 10;
/// Pieces of one batch: those of a sparse file may be tiny.
const PIECES: usize = 1024;
/// Batches of one extraction: one that is gathered, one that is written, two between.
const BATCHES: usize = 4;

/// Gathers content and hands it over.
pub(super) struct Filler<'scope> {
    full: SyncSender<Batch>,
    empty: Receiver<Batch>,
    current: Batch,
    /// Batches that may still be made.
    left: usize,
    thread: Option<ScopedJoinHandle<'scope, Result<(), Error>>>,
}

struct Batch {
    bytes: Vec<u8>,
    used: usize,
    pieces: Vec<Piece>,
    files: usize,
    /// Bytes of names and attributes of the files that it ends.
    words: usize,
}

struct Piece {
    file: Arc<File>,
    /// Where the bytes are in the batch, and where they go in the file.
    start: usize,
    length: usize,
    offset: u64,
    /// The file is whole then.
    end: Option<Box<End>>,
}

/// What a file gets last: writing would take capabilities away and change the time.
struct End {
    entry: Entry,
    made: Stat,
    /// A sparse file may end with a hole.
    sparse: bool,
}

impl<'scope> Filler<'scope> {
    /// `wrote` is told what each batch was.
    pub(super) fn start<'env>(scope: &'scope Scope<'scope, 'env>, wrote: &'env (dyn Fn(u64) + Sync)) -> Self {
        let (full, batches) = sync_channel(BATCHES - 2);
        let (used, empty) = channel();
        let thread = scope.spawn(move || work(&batches, &used, wrote));
        Self { full, empty, current: Batch::new(), left: BATCHES - 1, thread: Some(thread) }
    }

    /// Takes the content of a file that was just made.
    pub(super) fn file<'a>(&'a mut self, file: &'a Arc<File>) -> Filling<'a, 'scope> {
        Filling { filler: self, file }
    }

    /// The file has all of its content; `made` is what it was when it was new.
    pub(super) fn end(&mut self, file: Arc<File>, entry: Entry, made: Stat, sparse: bool) -> Result<(), Error> {
        let attributes = entry.xattrs.iter().map(|(key, value)| key.len() + value.len());
        self.current.words += entry.path.len() + attributes.sum::<usize>();
        let end = Some(Box::new(End { entry, made, sparse }));
        let last = self.current.pieces.last_mut();
        match last.filter(|last| last.end.is_none() && Arc::ptr_eq(&last.file, &file)) {
            Some(last) => last.end = end,
            None => self.current.pieces.push(Piece { file, start: 0, length: 0, offset: 0, end }),
        }
        self.current.files += 1;
        if self.current.files == FILES || self.current.words >= WORDS { self.hand_over() } else { Ok(()) }
    }

    /// Waits until all is written.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.hand_over()?;
        let Self { full, thread, .. } = self;
        drop(full);
        thread.map_or(Ok(()), join)
    }

    fn hand_over(&mut self) -> Result<(), Error> {
        let next = match self.empty.try_recv() {
            Ok(empty) => Some(empty),
            Err(_) if self.left > 0 => {
                self.left -= 1;
                Some(Batch::new())
            }
            Err(_) => self.empty.recv().ok(),
        };
        let sent = next.is_some_and(|next| self.full.send(std::mem::replace(&mut self.current, next)).is_ok());
        if sent {
            return Ok(());
        }
        // It ended before its time: it says why.
        self.thread.take().map_or(Ok(()), join)
    }
}

/// The content of one file.
pub(super) struct Filling<'a, 'scope> {
    filler: &'a mut Filler<'scope>,
    file: &'a Arc<File>,
}

impl Target for Filling<'_, '_> {
    fn room(&mut self) -> Result<&mut [u8], Error> {
        if self.filler.current.used == BATCH || self.filler.current.pieces.len() >= PIECES {
            self.filler.hand_over()?;
        }
        let batch = &mut self.filler.current;
        Ok(&mut batch.bytes[batch.used..])
    }

    fn content(&mut self, offset: u64, length: usize) -> Result<(), Error> {
        let batch = &mut self.filler.current;
        let start = batch.used;
        batch.used += length;
        match batch.pieces.last_mut() {
            Some(last) if last.end.is_none() && Arc::ptr_eq(&last.file, self.file) && last.goes_on_at(offset) => {
                last.length += length;
            }
            _ => batch.pieces.push(Piece { file: Arc::clone(self.file), start, length, offset, end: None }),
        }
        Ok(())
    }
}

impl Piece {
    fn goes_on_at(&self, offset: u64) -> bool {
        self.offset + self.length as u64 == offset
    }
}

impl Batch {
    fn new() -> Self {
        Self { bytes: vec![0; BATCH], used: 0, pieces: Vec::with_capacity(FILES), files: 0, words: 0 }
    }
}

fn join(thread: ScopedJoinHandle<'_, Result<(), Error>>) -> Result<(), Error> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn work(batches: &Receiver<Batch>, used: &Sender<Batch>, wrote: &dyn Fn(u64)) -> Result<(), Error> {
    while let Ok(mut batch) = batches.recv() {
        for piece in batch.pieces.drain(..) {
            let bytes = &batch.bytes[piece.start..piece.start + piece.length];
            if !bytes.is_empty() {
                let path = |end: &End| show(&end.entry.path).to_string();
                let written = piece.file.write_all_at(bytes, piece.offset);
                written.during("write", piece.end.as_deref().map_or("a file of the layer".to_owned(), path))?;
            }
            if let Some(end) = piece.end {
                finish(&piece.file, &end)?;
            }
        }
        wrote(batch.used as u64 + batch.files as u64 * FILE);
        (batch.used, batch.files, batch.words) = (0, 0, 0);
        // Nobody may want another.
        let _ = used.send(batch);
    }
    Ok(())
}

/// Size, owner (it clears capabilities and set-user-id), attributes, mode, and time last.
fn finish(file: &File, end: &End) -> Result<(), Error> {
    let End { entry, made, sparse } = end;
    let shown = || show(&entry.path).to_string();
    if *sparse {
        file.set_len(entry.size).during("set size", shown())?;
    }
    let moved = (made.st_uid, made.st_gid) != (entry.uid, entry.gid);
    if moved {
        fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).during("chown", shown())?;
    }
    for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_wanted(key)) {
        match fsetxattr(file, key.as_slice(), value, XattrFlags::empty()) {
            // Attributes of users are a nicety that not every file system takes.
            Err(Errno::OPNOTSUPP | Errno::PERM) if key.starts_with(b"user.") => {}
            other => other.during("set extended attribute of", shown())?,
        }
    }
    // An access control list may change the mode as well.
    if moved || !entry.xattrs.is_empty() || made.st_mode & 0o7777 != entry.mode {
        fchmod(file, Mode::from_raw_mode(entry.mode)).during("chmod", shown())?;
    }
    let times = tree::times(entry.mtime.0, i64::from(entry.mtime.1));
    Ok(rustix::fs::futimens(file, &times).during("set times of", shown())?)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make files plainly")]
mod tests {
    use super::*;
    use crate::archive::entry::Kind;

    fn entry(words: usize) -> Entry {
        let xattrs = vec![(b"trusted.none".to_vec(), vec![0; words])];
        Entry { path: b"a".to_vec(), kind: Kind::File, mode: 0o644, uid: 0, gid: 0, mtime: (1, 0), xattrs, size: 0 }
    }

    /// Whatever the archive is made of: pieces of a byte, files of nothing, names and attributes of a mebibyte.
    #[test]
    fn what_waits_to_be_written_is_bounded() {
        let (file, place) = (Arc::new(tempfile::tempfile().unwrap()), tempfile::tempdir().unwrap());
        let made = rustix::fs::fstat(&*file).unwrap();
        std::thread::scope(|scope| {
            let mut filler = Filler::start(scope, &|_| {});
            let check = |filler: &Filler<'_>| {
                let batch = &filler.current;
                assert!(batch.bytes.len() == BATCH && batch.used <= BATCH && batch.pieces.len() <= PIECES + FILES);
                assert!(batch.files < FILES && batch.words < WORDS, "{} files, {} bytes", batch.files, batch.words);
                assert!(filler.left < BATCHES);
            };
            for piece in 0..5 * PIECES as u64 {
                let mut target = filler.file(&file);
                target.room().unwrap()[0] = 1;
                target.content(2 * piece, 1).unwrap();
                check(&filler);
            }
            for number in 0..10 * FILES {
                let empty = Arc::new(File::create(place.path().join(number.to_string())).unwrap());
                let made = rustix::fs::fstat(&*empty).unwrap();
                filler.end(empty, entry(0), made, false).unwrap();
                check(&filler);
            }
            filler.end(Arc::clone(&file), entry(WORDS), made, false).unwrap();
            check(&filler);
            assert_eq!(filler.current.files, 0, "it was handed over");
            // An attribute of that size is refused by every file system.
            assert!(filler.finish().is_err());
        });
    }
}
