//! Files get their content from threads of their own, while the next ones are read. A thread makes small files as well, where
//! their names are known to be free; everything else is made in the archive's order, and filling needs the descriptor alone.

use std::any::Any;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use gantry_linux::ResultExt;
use rustix::fs::{AtFlags, Gid, Mode, StatxFlags, Uid, XattrFlags, fchmod, fchown, fsetxattr, statx};
use rustix::io::Errno;

use super::entry::{Entry, Target};
use super::extract::{create, is_wanted};
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
/// Batches of one extraction: one that is gathered, two that are written, two between.
const BATCHES: usize = 5;
/// Threads: files of one directory go to one of them, for they would wait for each other.
const THREADS: usize = 2;
/// Files that are worth it to go on with the other thread.
const WORTH_A_TURN: usize = 8;

/// Gathers content and hands it over.
pub(super) struct Filler {
    /// To each thread.
    full: Vec<SyncSender<Batch>>,
    back: Receiver<Back>,
    current: Batch,
    /// Those that came back.
    spare: Vec<Batch>,
    /// Batches that may still be made, and those that are with a thread.
    left: usize,
    out: usize,
    /// Whose turn it is.
    turn: usize,
    /// A thread has ended before its time: what is handed over stays.
    has_failed: bool,
    /// Files that are being made.
    making: HashSet<u64>,
    next: u64,
    /// The inodes of files that were made, by their tickets.
    made: Vec<(u64, u64)>,
}

/// What a thread says.
enum Back {
    Used(Batch),
    Ended(Result<Result<(), Error>, Box<dyn Any + Send>>),
}

struct Batch {
    bytes: Vec<u8>,
    used: usize,
    pieces: Vec<Piece>,
    files: usize,
    /// Bytes of names and attributes of the files that it ends.
    words: usize,
    /// The files that were made: ticket, inode, and number of the place.
    made: Vec<(u64, u64, u64)>,
}

struct Piece {
    file: Source,
    /// Where the bytes are in the batch, and where they go in the file.
    start: usize,
    length: usize,
    offset: u64,
    /// The file is whole then.
    end: Option<Box<End>>,
}

enum Source {
    Made(Arc<File>),
    New(Box<New>),
}

/// A file to be made; all of it is one piece.
struct New {
    parent: Arc<OwnedFd>,
    name: Vec<u8>,
    ticket: u64,
    place: u64,
}

/// What a file gets last: writing would take capabilities away and change the time.
struct End {
    entry: Entry,
    /// As it was when it was new, if it was not made here.
    made: Option<Fresh>,
    /// A sparse file may end with a hole.
    sparse: bool,
}

/// What a new file is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh {
    pub inode: u64,
    owner: (u32, u32),
    mode: u32,
}

impl Fresh {
    /// Its times are not asked for: once somebody has seen them each write must set others (since Linux 6.13).
    pub(super) fn of(file: &File) -> rustix::io::Result<Self> {
        let wanted = StatxFlags::INO | StatxFlags::UID | StatxFlags::GID | StatxFlags::MODE;
        let found = statx(file, c"", AtFlags::EMPTY_PATH, wanted)?;
        Ok(Self {
            inode: found.stx_ino,
            owner: (found.stx_uid, found.stx_gid),
            mode: u32::from(found.stx_mode) & 0o7777,
        })
    }
}

impl Filler {
    /// `wrote` is told what each batch was.
    pub(super) fn start<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, wrote: &'env (dyn Fn(u64) + Sync)) -> Self {
        let (used, back) = channel();
        let thread = |_| {
            let (full, batches) = sync_channel(BATCHES - 2);
            let used = used.clone();
            scope.spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| work(&batches, &used, wrote)));
                // Nobody may want to know.
                let _ = used.send(Back::Ended(outcome));
            });
            full
        };
        Self {
            full: (0..THREADS).map(thread).collect(),
            back,
            current: Batch::new(),
            spare: Vec::new(),
            left: BATCHES - 1,
            out: 0,
            turn: 0,
            has_failed: false,
            making: HashSet::new(),
            next: 0,
            made: Vec::new(),
        }
    }

    /// Takes the content of a file that was just made.
    pub(super) fn file<'a>(&'a mut self, file: &'a Arc<File>) -> Filling<'a> {
        Filling { filler: self, file }
    }

    /// Makes a file of a name that is free, and takes its content. `place` is a number for where it will be; the ticket is for
    /// [`Filler::inodes`].
    pub(super) fn make(
        &mut self,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        place: u64,
        size: u64,
    ) -> Result<(u64, Making<'_>), Error> {
        if self.current.used as u64 + size > BATCH as u64 || self.current.pieces.len() >= PIECES {
            self.hand_over()?;
        }
        let ticket = self.next;
        self.next += 1;
        self.making.insert(place);
        let new = New { parent: Arc::clone(parent), name: name.to_vec(), ticket, place };
        let start = self.current.used;
        self.current.pieces.push(Piece { file: Source::New(Box::new(new)), start, length: 0, offset: 0, end: None });
        Ok((ticket, Making(&mut self.current)))
    }

    /// The file that is to be made has all of its content.
    pub(super) fn end_made(&mut self, entry: Entry) -> Result<(), Error> {
        self.current.count(&entry);
        if let Some(last) = self.current.pieces.last_mut() {
            last.end = Some(Box::new(End { entry, made: None, sparse: false }));
        }
        self.hand_over_when_full()
    }

    /// Whether a file is being made whose place has this number.
    pub(super) fn makes(&self, place: u64) -> bool {
        self.making.contains(&place)
    }

    /// The inodes of files that were made, by their tickets; each once.
    pub(super) fn inodes(&mut self) -> impl Iterator<Item = (u64, u64)> {
        self.made.drain(..)
    }

    /// What comes next is in another directory.
    pub(super) fn turn(&mut self) -> Result<(), Error> {
        if self.current.files >= WORTH_A_TURN {
            self.hand_over()?;
            self.turn = (self.turn + 1) % THREADS;
        }
        Ok(())
    }

    /// Waits until every file is there that is to be made.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.making.is_empty() {
            return Ok(());
        }
        self.hand_over()?;
        while self.out > 0 {
            let batch = self.receive()?;
            self.spare.push(batch);
        }
        Ok(())
    }

    /// The file has all of its content; `made` is what it was when it was new.
    pub(super) fn end(&mut self, file: Arc<File>, entry: Entry, made: Fresh, sparse: bool) -> Result<(), Error> {
        self.current.count(&entry);
        let end = Some(Box::new(End { entry, made: Some(made), sparse }));
        let last = self.current.pieces.last_mut();
        match last.filter(|last| last.end.is_none() && last.is_of(&file)) {
            Some(last) => last.end = end,
            None => self.current.pieces.push(Piece { file: Source::Made(file), start: 0, length: 0, offset: 0, end }),
        }
        self.hand_over_when_full()
    }

    fn hand_over_when_full(&mut self) -> Result<(), Error> {
        if self.current.files == FILES || self.current.words >= WORDS { self.hand_over() } else { Ok(()) }
    }

    /// Waits until all is written; the inodes that were not told yet.
    pub(super) fn finish(mut self) -> Result<Vec<(u64, u64)>, Error> {
        let mut outcome = if self.has_failed { Ok(()) } else { self.hand_over() };
        let mut running = self.full.len();
        self.full.clear();
        while running > 0 {
            match self.back.recv() {
                Ok(Back::Used(mut batch)) => self.take_back(&mut batch),
                Ok(Back::Ended(ended)) => {
                    running -= 1;
                    outcome = outcome.and(ended.unwrap_or_else(|panic| resume_unwind(panic)));
                }
                Err(_) => break,
            }
        }
        outcome.map(|()| self.made)
    }

    fn hand_over(&mut self) -> Result<(), Error> {
        while let Ok(back) = self.back.try_recv() {
            let batch = self.used(back)?;
            self.spare.extend(batch);
        }
        let next = match self.spare.pop() {
            Some(spare) => spare,
            None if self.left > 0 => {
                self.left -= 1;
                Batch::new()
            }
            None => self.receive()?,
        };
        self.out += 1;
        let sent = self.full[self.turn].send(std::mem::replace(&mut self.current, next));
        // It ended before its time, and says why.
        if sent.is_err() { self.receive().map(drop) } else { Ok(()) }
    }

    /// A batch that was written.
    fn receive(&mut self) -> Result<Batch, Error> {
        loop {
            let gone = |_| gantry_linux::Error::new("unpack", "layer", Errno::PIPE);
            let back = self.back.recv().map_err(gone)?;
            if let Some(batch) = self.used(back)? {
                return Ok(batch);
            }
        }
    }

    fn used(&mut self, back: Back) -> Result<Option<Batch>, Error> {
        match back {
            Back::Used(mut batch) => {
                self.take_back(&mut batch);
                Ok(Some(batch))
            }
            Back::Ended(ended) => {
                self.has_failed = true;
                ended.unwrap_or_else(|panic| resume_unwind(panic)).map(|()| None)
            }
        }
    }

    fn take_back(&mut self, batch: &mut Batch) {
        self.out -= 1;
        for (ticket, inode, place) in batch.made.drain(..) {
            self.making.remove(&place);
            self.made.push((ticket, inode));
        }
    }
}

/// The content of one file.
pub(super) struct Filling<'a> {
    filler: &'a mut Filler,
    file: &'a Arc<File>,
}

impl Target for Filling<'_> {
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
            Some(last) if last.end.is_none() && last.is_of(self.file) && last.goes_on_at(offset) => {
                last.length += length;
            }
            _ => {
                let file = Source::Made(Arc::clone(self.file));
                batch.pieces.push(Piece { file, start, length, offset, end: None });
            }
        }
        Ok(())
    }
}

/// The content of a file that is to be made, in the room that was kept for it.
pub(super) struct Making<'a>(&'a mut Batch);

impl Target for Making<'_> {
    fn room(&mut self) -> Result<&mut [u8], Error> {
        Ok(&mut self.0.bytes[self.0.used..])
    }

    fn content(&mut self, _offset: u64, length: usize) -> Result<(), Error> {
        self.0.used += length;
        if let Some(last) = self.0.pieces.last_mut() {
            last.length += length;
        }
        Ok(())
    }
}

impl Piece {
    fn goes_on_at(&self, offset: u64) -> bool {
        self.offset + self.length as u64 == offset
    }

    fn is_of(&self, file: &Arc<File>) -> bool {
        matches!(&self.file, Source::Made(own) if Arc::ptr_eq(own, file))
    }
}

impl Batch {
    fn new() -> Self {
        let (pieces, made) = (Vec::with_capacity(FILES), Vec::with_capacity(FILES));
        Self { bytes: vec![0; BATCH], used: 0, pieces, files: 0, words: 0, made }
    }

    /// It ends this file.
    fn count(&mut self, entry: &Entry) {
        let attributes = entry.xattrs.iter().map(|(key, value)| key.len() + value.len());
        self.words += entry.path.len() + attributes.sum::<usize>();
        self.files += 1;
    }
}

fn work(batches: &Receiver<Batch>, used: &Sender<Back>, wrote: &dyn Fn(u64)) -> Result<(), Error> {
    while let Ok(mut batch) = batches.recv() {
        let Batch { bytes, pieces, made, .. } = &mut batch;
        for piece in pieces.drain(..) {
            let bytes = &bytes[piece.start..piece.start + piece.length];
            match (piece.file, piece.end) {
                (Source::Made(file), end) => {
                    write(&file, bytes, piece.offset, end.as_deref())?;
                    if let Some(End { entry, made: Some(made), sparse }) = end.as_deref() {
                        finish(&file, entry, *made, *sparse)?;
                    }
                }
                (Source::New(new), Some(end)) => {
                    let file = create(&new.parent, &new.name, end.entry.mode).during("create", show(&new.name))?;
                    let fresh = Fresh::of(&file).during("stat", show(&new.name))?;
                    write(&file, bytes, 0, Some(&end))?;
                    finish(&file, &end.entry, fresh, false)?;
                    made.push((new.ticket, fresh.inode, new.place));
                }
                // The archive broke off in it.
                (Source::New(_), None) => {}
            }
        }
        wrote(batch.used as u64 + batch.files as u64 * FILE);
        (batch.used, batch.files, batch.words) = (0, 0, 0);
        // Nobody may want another.
        let _ = used.send(Back::Used(batch));
    }
    Ok(())
}

fn write(file: &File, bytes: &[u8], offset: u64, end: Option<&End>) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    let path = |end: &End| show(&end.entry.path).to_string();
    Ok(file.write_all_at(bytes, offset).during("write", end.map_or("a file of the layer".to_owned(), path))?)
}

/// Size, owner (it clears capabilities and set-user-id), attributes, mode, and time last.
pub(super) fn finish(file: &File, entry: &Entry, made: Fresh, sparse: bool) -> Result<(), Error> {
    let shown = || show(&entry.path).to_string();
    if sparse {
        file.set_len(entry.size).during("set size", shown())?;
    }
    let moved = made.owner != (entry.uid, entry.gid);
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
    if moved || !entry.xattrs.is_empty() || made.mode != entry.mode {
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
        let made = Fresh::of(&file).unwrap();
        std::thread::scope(|scope| {
            let mut filler = Filler::start(scope, &|_| {});
            let check = |filler: &Filler| {
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
                let made = Fresh::of(&empty).unwrap();
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
