//! How a layer's archive was put together: every byte of it that is no file's content, and where the content lies. With
//! the layer's files it gives the archive again, byte for byte, and so the digest that the layer is known by.
//!
//! The file `recipe` of a layer is a zstd stream of records, numbers in little-endian:
//!
//! | record | what follows | what it gives |
//! |---|---|---|
//! | `R` | length (4), bytes | the bytes |
//! | `F` | inode (8), offset (8), length (8), length of the path (2), path | that piece of the file |
//!
//! A file that the same archive replaced later lies in `displaced/`, named by the inode that it had. The inode tells which
//! file was meant when a path has come to mean another one.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gantry_linux::{ResultExt, fs};
use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::name::split;
use crate::Error;
use crate::tree::{self, open_inside, show};

/// The file of a layer.
pub(crate) const FILE: &str = "recipe";
/// The directory of what the archive itself replaced.
pub(crate) const DISPLACED: &str = "displaced";
/// Bytes of records that are gathered: the compressor is called for many at once.
const GATHERED: usize = 64 << 10;
/// Bytes of them that are held while inodes are not known.
const HELD: usize = 1 << 20;
/// Headers compress to a twentieth at any level.
const LEVEL: i32 = 1;

/// Writes down an archive that is being unpacked.
pub(crate) struct Recorder {
    path: PathBuf,
    output: zstd::Encoder<'static, BufWriter<File>>,
    /// Records that are not written yet.
    records: Vec<u8>,
    /// Where in them the length of the last one stands, while it is one of bytes, and grows.
    open: Option<usize>,
    /// Files that are being made, and where in the records their inodes are to stand; in order.
    unknown: VecDeque<(u64, usize)>,
}

/// Which file a piece is of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    Inode(u64),
    /// It is being made: [`Recorder::know`] will say its inode by this number.
    Ticket(u64),
}

impl Recorder {
    /// For a draft. A draft that gets a second archive is no archive's work any more: there is none for it.
    pub(crate) fn begin(draft: &Path) -> Result<Option<Self>, Error> {
        let path = draft.join(FILE);
        let file = match fs::open_with(&path, OpenOptions::new().write(true).create_new(true)) {
            Err(error) if error.errno() == Errno::EXIST.raw_os_error() => {
                // Left empty, so that a third archive finds it too.
                fs::write(&path, "")?;
                return Ok(None);
            }
            other => other?,
        };
        let output = zstd::Encoder::new(BufWriter::new(file), LEVEL).during("write", path.display())?;
        Ok(Some(Self { path, output, records: Vec::with_capacity(2 * GATHERED), open: None, unknown: VecDeque::new() }))
    }

    /// Bytes that are no file's content.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.open.is_none() {
            self.records.push(b'R');
            self.open = Some(self.records.len());
            self.records.extend_from_slice(&[0; 4]);
        }
        self.records.extend_from_slice(bytes);
        self.write_when_full()
    }

    /// A piece of a file that was just written.
    pub(super) fn content(&mut self, path: &[u8], which: Which, offset: u64, length: u64) -> Result<(), Error> {
        if length == 0 {
            return Ok(());
        }
        self.close();
        self.records.push(b'F');
        let inode = match which {
            Which::Inode(inode) => inode,
            Which::Ticket(ticket) => {
                self.unknown.push_back((ticket, self.records.len()));
                0
            }
        };
        for number in [inode, offset, length] {
            self.records.extend_from_slice(&number.to_le_bytes());
        }
        // Paths are at most 4,096 bytes long.
        self.records.extend_from_slice(&u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.records.extend_from_slice(path);
        self.write_when_full()
    }

    /// Which inode a file has that was made.
    pub(crate) fn know(&mut self, ticket: u64, inode: u64) {
        if let Ok(index) = self.unknown.binary_search_by_key(&ticket, |(ticket, _)| *ticket)
            && let Some((_, at)) = self.unknown.remove(index)
        {
            self.records[at..at + 8].copy_from_slice(&inode.to_le_bytes());
        }
    }

    /// So much is held that those who make files must say their inodes before more comes.
    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= HELD
    }

    /// What comes next is another record.
    fn close(&mut self) {
        if let Some(at) = self.open.take() {
            let length = u32::try_from(self.records.len() - at - 4).unwrap_or(u32::MAX);
            self.records[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }

    fn write_when_full(&mut self) -> Result<(), Error> {
        if self.records.len() >= GATHERED { self.write() } else { Ok(()) }
    }

    /// Writes the records up to the first that is not complete, when they are worth it.
    fn write(&mut self) -> Result<(), Error> {
        self.close();
        // An `F` comes before the inode.
        let ready = self.unknown.front().map_or(self.records.len(), |(_, at)| at - 1);
        if ready < GATHERED && !self.unknown.is_empty() {
            return Ok(());
        }
        self.output.write_all(&self.records[..ready]).during("write", self.path.display())?;
        self.records.drain(..ready);
        self.unknown.iter_mut().for_each(|(_, at)| *at -= ready);
        Ok(())
    }

    /// The archive is over.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.write()?;
        let finished = self.output.finish().and_then(|mut file| file.flush());
        Ok(finished.during("write", self.path.display())?)
    }
}

/// Writes the archive that `layer` was unpacked from; its files are below `root`. False, and nothing is written, where
/// the layer has no recipe. That the archive is the right one is for the caller's digest to say.
pub(crate) fn replay(layer: &Path, root: &Path, output: &mut dyn Write) -> Result<bool, Error> {
    let path = layer.join(FILE);
    let file = match fs::open(&path) {
        Err(error) if error.is_not_found() => return Ok(false),
        other => other?,
    };
    if file.metadata().during("stat", path.display())?.len() == 0 {
        return Ok(false);
    }
    let input = zstd::Decoder::new(file).during("read", path.display())?;
    let mut reading = Reading {
        input: BufReader::new(input),
        recipe: &path,
        files: Files { root: tree::open_root(root)?, layer, parent: None },
        buffer: vec![0; 128 << 10],
    };
    while reading.record(output)? {}
    output.flush().during("write", "layer archive")?;
    Ok(true)
}

struct Reading<'a> {
    input: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    recipe: &'a Path,
    files: Files<'a>,
    buffer: Vec<u8>,
}

impl Reading<'_> {
    /// The next record; false at the end.
    fn record(&mut self, output: &mut dyn Write) -> Result<bool, Error> {
        let mut kind = [0];
        if self.input.read(&mut kind).during("read", self.recipe.display())? == 0 {
            return Ok(false);
        }
        match kind[0] {
            b'R' => {
                let length = u64::from(u32::from_le_bytes(self.bytes()?));
                let copied = std::io::copy(&mut (&mut self.input).take(length), output);
                if copied.during("write", "layer archive")? < length {
                    return Err(self.damaged("it ends in the middle of a record"));
                }
            }
            b'F' => {
                let [inode, offset, length] = [self.bytes()?, self.bytes()?, self.bytes()?].map(u64::from_le_bytes);
                let mut path = vec![0; usize::from(u16::from_le_bytes(self.bytes()?))];
                self.input.read_exact(&mut path).during("read", self.recipe.display())?;
                self.file(&path, inode, offset, length, output)?;
            }
            other => return Err(self.damaged(&format!("a record of kind {other}"))),
        }
        Ok(true)
    }

    fn file(
        &mut self,
        path: &[u8],
        inode: u64,
        mut offset: u64,
        mut length: u64,
        output: &mut dyn Write,
    ) -> Result<(), Error> {
        let file = self.files.open(path, inode)?;
        while length > 0 {
            let want = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
            let got = file.read_at(&mut self.buffer[..want], offset).during("read", show(path))?;
            if got == 0 {
                return Err(self.damaged(&format!("{} is shorter than it was", show(path))));
            }
            output.write_all(&self.buffer[..got]).during("write", "layer archive")?;
            offset += got as u64;
            length -= got as u64;
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).during("read", self.recipe.display())?;
        Ok(bytes)
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Damaged { layer: self.files.layer.to_path_buf(), reason: why.to_owned() }
    }
}

/// The files of a layer, by what the recipe says of them.
struct Files<'a> {
    root: OwnedFd,
    layer: &'a Path,
    /// The directory of the last file: most have the one before's.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

impl Files<'_> {
    fn open(&mut self, path: &[u8], inode: u64) -> Result<File, Error> {
        let there = match self.by_path(path)? {
            Some((file, number)) if number == inode => return Ok(file),
            there => there,
        };
        match fs::open(self.layer.join(DISPLACED).join(inode.to_string())) {
            Err(error) if error.is_not_found() => {}
            other => return Ok(other?),
        }
        // A store that was copied has other inodes.
        there.map(|(file, _)| file).ok_or_else(|| Error::Damaged {
            layer: self.layer.to_path_buf(),
            reason: format!("{} is not there any more", show(path)),
        })
    }

    /// The regular file at a path, and its inode.
    fn by_path(&mut self, path: &[u8]) -> Result<Option<(File, u64)>, Error> {
        let (directory, name) = split(path);
        let gone = |error| matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO);
        if self.parent.as_ref().is_none_or(|(have, _)| have != directory) {
            match open_inside(&self.root, directory, OFlags::PATH | OFlags::DIRECTORY) {
                Err(error) if gone(error) => return Ok(None),
                other => self.parent = Some((directory.to_vec(), other.during("open", show(directory))?)),
            }
        }
        let Some((_, parent)) = &self.parent else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(parent, name, flags, Mode::empty()) {
            Err(error) if gone(error) => return Ok(None),
            other => other.during("open", show(path))?,
        };
        let stat = rustix::fs::fstat(&file).during("stat", show(path))?;
        Ok((tree::file_type(&stat) == FileType::RegularFile).then(|| (File::from(file), stat.st_ino)))
    }
}
