//! Reads the entries of a tar stream, in constant memory: names, extended headers and sparse maps are bounded.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use gantry_linux::ResultExt;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::name::refuse;
use super::pax::Overrides;
use super::recipe::{Recorder, Which};
use crate::Error;

const BLOCK: u64 = 512;
/// Bytes of one extended header: a few extended attributes of 64 KiB, and names.
const EXTENDED_LIMIT: u64 = 1 << 20;
/// Bytes of one GNU long name.
const LONG_NAME_LIMIT: u64 = 8 << 10;
/// Pieces of one sparse file.
const SPARSE_PIECES: usize = 64 << 10;
/// Bytes that all holes of one archive may claim.
const HOLE_LIMIT: u64 = 64 << 30;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link(Vec<u8>),
    Symlink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// One entry, its names as they came.
#[derive(Debug)]
pub(crate) struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The file's size, holes included.
    pub size: u64,
}

/// Where the content of a file goes.
pub(crate) trait Target {
    /// Room for content, as much as there is, at least a byte.
    fn room(&mut self) -> Result<&mut [u8], Error>;
    /// So many bytes of the room were filled: they go to this place of the file.
    fn content(&mut self, offset: u64, length: usize) -> Result<(), Error>;
}

/// Bytes of a file that are written at once.
pub(crate) const BUFFER: usize = 128 << 10;

/// A file that is written at once.
pub(crate) struct Direct<'a> {
    file: &'a File,
    buffer: &'a mut [u8],
    wrote: &'a dyn Fn(u64),
}

impl<'a> Direct<'a> {
    /// By way of a buffer; `wrote` is told how much was written.
    pub(crate) fn new(file: &'a File, buffer: &'a mut [u8], wrote: &'a dyn Fn(u64)) -> Self {
        Self { file, buffer, wrote }
    }
}

impl Target for Direct<'_> {
    fn room(&mut self) -> Result<&mut [u8], Error> {
        Ok(self.buffer)
    }

    fn content(&mut self, offset: u64, length: usize) -> Result<(), Error> {
        self.file.write_all_at(&self.buffer[..length], offset).during("write", "file")?;
        (self.wrote)(length as u64);
        Ok(())
    }
}

/// The entries of a stream.
pub(crate) struct Entries<'a> {
    input: Tape<'a>,
    /// Bytes of the current entry's data that are still in the stream, and of its padding.
    data: u64,
    padding: u64,
    /// Where the data goes, for a sparse file.
    pieces: Option<Vec<(u64, u64)>>,
    holes: u64,
    buffer: Vec<u8>,
}

impl<'a> Entries<'a> {
    /// With `recorder`, everything that is read is written down.
    pub(crate) fn new(input: &'a mut dyn Read, recorder: Option<Recorder>) -> Self {
        let input = Tape { input, recorder };
        Self { input, data: 0, padding: 0, pieces: None, holes: 0, buffer: vec![0; BUFFER] }
    }

    /// The next entry; what was not read of the one before is skipped. At the end the stream is read to its end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let (mut long_name, mut long_link, mut overrides) = (None, None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if long_name.is_some() || long_link.is_some() || overrides.is_some() {
                    return Err(Error::Archive("it ends after an extended header".to_owned()));
                }
                self.drain()?;
                return Ok(None);
            };
            let size = number(&header.as_old().size, || header.entry_size())
                .ok_or_else(|| Error::Archive("a header's size cannot be read".to_owned()))?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.long_name(size)?),
                EntryType::GNULongLink => long_link = Some(self.long_name(size)?),
                EntryType::XHeader => {
                    if overrides.is_some() {
                        return Err(Error::Archive("two extended headers for one entry".to_owned()));
                    }
                    let body = self.body(size, EXTENDED_LIMIT, "an extended header")?;
                    overrides = Some(Overrides::parse(&body)?);
                }
                // Comments of git and the like: nothing of a layer may be said for all entries.
                EntryType::XGlobalHeader => self.expect_data(size)?,
                _ => {
                    let mut overrides = overrides.unwrap_or_default();
                    overrides.path = overrides.path.or(long_name);
                    overrides.link = overrides.link.or(long_link);
                    return self.entry(&header, overrides, size).map(Some);
                }
            }
        }
    }

    /// Who writes down what was read.
    pub(crate) const fn recorder(&mut self) -> Option<&mut Recorder> {
        self.input.recorder.as_mut()
    }

    /// Everything was read, and every file is made.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.input.recorder.map_or(Ok(()), Recorder::finish)
    }

    fn entry(&mut self, header: &Header, overrides: Overrides, size: u64) -> Result<Entry, Error> {
        let path = overrides.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let fail = |why: &str| refuse(&path, why);
        let link = || overrides.link.clone().or_else(|| header.link_name_bytes().map(Vec::from)).unwrap_or_default();
        let device = || match (header.device_major(), header.device_minor()) {
            (Ok(Some(major)), Ok(Some(minor))) => Ok((major, minor)),
            // Blank, or a format without them.
            _ if header.as_ustar().is_none_or(|h| is_blank(&h.dev_major) && is_blank(&h.dev_minor))
                && header.as_gnu().is_none_or(|h| is_blank(&h.dev_major) && is_blank(&h.dev_minor)) =>
            {
                Ok((0, 0))
            }
            _ => Err(fail("its device numbers cannot be read")),
        };
        let mut size = overrides.size.unwrap_or(size);
        let kind = match header.entry_type() {
            // In the oldest archives a directory is a file whose name ends with a slash.
            EntryType::Regular if path.ends_with(b"/") && header.as_ustar().is_none() => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Link => Kind::Link(link()),
            EntryType::Symlink => Kind::Symlink(link()),
            EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
            EntryType::Fifo => Kind::Fifo,
            other => return Err(fail(&format!("its type {:?} is unknown", other.as_byte() as char))),
        };
        if kind == Kind::File {
            self.expect_data(size)?;
        } else {
            // Whatever the header says, these have no data (Go reads it so).
            size = 0;
        }
        if header.entry_type() == EntryType::GNUSparse {
            size = self.sparse(header, size, &path)?;
        }
        let id = |over: Option<u64>, own: Option<u64>, what: &str| {
            let id = over.or(own).ok_or_else(|| fail(&format!("its {what} cannot be read")))?;
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| fail(&format!("its {what} is {id}")))
        };
        let old = header.as_old();
        let mode = number(&old.mode, || header.mode().map(u64::from)).ok_or_else(|| fail("its mode cannot be read"))?;
        let seconds = || number(&old.mtime, || header.mtime()).and_then(|seconds| i64::try_from(seconds).ok());
        Ok(Entry {
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: id(overrides.uid, number(&old.uid, || header.uid()), "owner")?,
            gid: id(overrides.gid, number(&old.gid, || header.gid()), "group")?,
            mtime: overrides.mtime.unwrap_or_else(|| (seconds().unwrap_or(0), 0)),
            xattrs: overrides.xattrs,
            kind,
            size,
            path,
        })
    }

    /// Reads the map of a GNU sparse file; returns the size that the file shall have.
    fn sparse(&mut self, header: &Header, stored: u64, path: &[u8]) -> Result<u64, Error> {
        let fail = |why: &str| refuse(path, &format!("sparse file: {why}"));
        let gnu = header.as_gnu().ok_or_else(|| fail("it has no GNU header"))?;
        let size = gnu.real_size().map_err(|_| fail("its size cannot be read"))?;
        let mut pieces = Vec::new();
        let mut add = |list: &[GnuSparseHeader]| {
            for piece in list.iter().filter(|piece| !piece.is_empty()) {
                match (piece.offset(), piece.length()) {
                    (Ok(offset), Ok(length)) => pieces.push((offset, length)),
                    _ => return Err(fail("its map cannot be read")),
                }
            }
            if pieces.len() > SPARSE_PIECES { Err(fail("its map is too long")) } else { Ok(()) }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.input.read_exact(block.as_mut_bytes())?;
            add(block.sparse())?;
            more = block.is_extended();
        }
        let (mut end, mut sum) = (0, 0_u64);
        for (offset, length) in &pieces {
            if *offset < end {
                return Err(fail("the pieces of its map overlap"));
            }
            end =
                offset.checked_add(*length).filter(|end| *end <= size).ok_or_else(|| fail("its map ends beyond it"))?;
            sum += length;
        }
        if sum != stored {
            return Err(fail("its map does not fit its data"));
        }
        self.holes = self.holes.saturating_add(size - sum);
        if self.holes > HOLE_LIMIT {
            return Err(fail(&format!("holes of more than {HOLE_LIMIT} bytes in one archive")));
        }
        self.pieces = Some(pieces);
        Ok(size)
    }

    /// Whether the current entry's data has holes.
    pub(crate) const fn is_sparse(&self) -> bool {
        self.pieces.is_some()
    }

    /// Hands the current entry's data to `target`, for the recipe under `path` and as of this file. True for a sparse file: its
    /// size must be set.
    pub(crate) fn copy_data(&mut self, target: &mut dyn Target, which: Which, path: &[u8]) -> Result<bool, Error> {
        let pieces = self.pieces.take();
        for piece in pieces.as_deref().unwrap_or(&[(0, self.data)]) {
            self.copy_piece(target, *piece, path)?;
            self.input.was_content(path, which, *piece)?;
        }
        Ok(pieces.is_some())
    }

    fn copy_piece(
        &mut self,
        target: &mut dyn Target,
        (mut offset, mut left): (u64, u64),
        path: &[u8],
    ) -> Result<(), Error> {
        while left > 0 {
            let room = target.room()?;
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            let got = self.input.read_content(&mut room[..want])?;
            if got == 0 {
                return Err(refuse(path, "the archive ends in the middle of it"));
            }
            target.content(offset, got)?;
            offset += got as u64;
            left -= got as u64;
            self.data -= got as u64;
        }
        Ok(())
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut name = self.body(size, LONG_NAME_LIMIT, "a name")?;
        if let Some(zero) = name.iter().position(|byte| *byte == 0) {
            name.truncate(zero);
        }
        Ok(name)
    }

    fn body(&mut self, size: u64, limit: u64, what: &str) -> Result<Vec<u8>, Error> {
        if size > limit {
            return Err(Error::Archive(format!("{what} of {size} bytes, at most {limit}")));
        }
        self.expect_data(size)?;
        let mut body = vec![0; usize::try_from(size).unwrap_or_default()];
        self.input.read_exact(&mut body)?;
        self.data = 0;
        Ok(body)
    }

    fn expect_data(&mut self, size: u64) -> Result<(), Error> {
        if size > u64::MAX / 2 {
            return Err(Error::Archive(format!("an entry of {size} bytes")));
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    fn skip(&mut self) -> Result<(), Error> {
        self.pieces = None;
        let mut left = std::mem::take(&mut self.data) + std::mem::take(&mut self.padding);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let got = self.input.read(&mut self.buffer[..want])?;
            if got == 0 {
                return Err(Error::Archive("it ends in the middle of an entry".to_owned()));
            }
            left -= got as u64;
        }
        Ok(())
    }

    /// The next header; `None` at the end, be it marked or not.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(Error::Archive("it ends in the middle of a header".to_owned())),
                got => filled += got,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let sum = sum(&block[..148]) + sum(&block[156..]) + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(Error::Archive(
                "a header's checksum is wrong: this is no tar archive, or a damaged one".to_owned(),
            ));
        }
        Ok(Some(header))
    }

    fn drain(&mut self) -> Result<(), Error> {
        while self.input.read(&mut self.buffer)? > 0 {}
        Ok(())
    }
}

/// The stream, and who writes down what was read of it.
struct Tape<'a> {
    input: &'a mut dyn Read,
    recorder: Option<Recorder>,
}

impl Tape<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let got = self.input.read(buffer).during("read", "layer archive")?;
        self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.raw(&buffer[..got]))?;
        Ok(got)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.input.read_exact(buffer).during("read", "layer archive")?;
        self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.raw(buffer))
    }

    /// Bytes that go to a file; [`Tape::was_content`] says to which.
    fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        Ok(self.input.read(buffer).during("read", "layer archive")?)
    }

    fn was_content(&mut self, path: &[u8], which: Which, (offset, length): (u64, u64)) -> Result<(), Error> {
        self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.content(path, which, offset, length))
    }
}

/// A number of a header; one that was left blank is zero, as everybody reads it.
fn number(field: &[u8], parse: impl FnOnce() -> std::io::Result<u64>) -> Option<u64> {
    if is_blank(field) { Some(0) } else { parse().ok() }
}

fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, 0 | b' '))
}
