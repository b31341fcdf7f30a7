//! What an extraction must do later, kept in a file of the draft: memory stays constant, and it survives until commit.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use gantry_linux::{ResultExt, fs};

use crate::Error;

/// One thing to do later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Later {
    /// Set a directory's time, which what is made inside it changes.
    Time { path: Vec<u8>, mtime: (i64, u32) },
    /// Give a directory the metadata that it has in the layers below.
    Implied { path: Vec<u8> },
    /// Make a hard link to a file of the layers below.
    Link { path: Vec<u8>, target: Vec<u8> },
}

/// The file, being written.
pub(super) struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Spool {
    pub(super) fn append(path: &Path) -> Result<Self, Error> {
        let file = fs::open_with(path, OpenOptions::new().append(true).create(true))?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::new(file) })
    }

    pub(super) fn push(&mut self, later: &Later) -> Result<(), Error> {
        let record = match later {
            Later::Time { path, mtime } => {
                let mut record = vec![b'T'];
                record.extend_from_slice(&mtime.0.to_le_bytes());
                record.extend_from_slice(&mtime.1.to_le_bytes());
                text(&mut record, path);
                record
            }
            Later::Implied { path } => {
                let mut record = vec![b'I'];
                text(&mut record, path);
                record
            }
            Later::Link { path, target } => {
                let mut record = vec![b'L'];
                text(&mut record, path);
                text(&mut record, target);
                record
            }
        };
        Ok(self.file.write_all(&record).during("write", self.path.display())?)
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        Ok(self.file.flush().during("write", self.path.display())?)
    }
}

/// Paths are at most 4,096 bytes long.
fn text(record: &mut Vec<u8>, path: &[u8]) {
    record.extend_from_slice(&u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    record.extend_from_slice(path);
}

/// Calls `each` for everything in the file, in order; a file that is not there is empty.
pub(super) fn replay(path: &Path, mut each: impl FnMut(Later) -> Result<(), Error>) -> Result<(), Error> {
    let file = match fs::open(path) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    let mut input = BufReader::new(file);
    let mut kind = [0_u8];
    while input.read(&mut kind).during("read", path.display())? == 1 {
        let later = match kind[0] {
            b'T' => {
                let seconds = i64::from_le_bytes(bytes(&mut input, path)?);
                let nanoseconds = u32::from_le_bytes(bytes(&mut input, path)?);
                Later::Time { mtime: (seconds, nanoseconds), path: name(&mut input, path)? }
            }
            b'I' => Later::Implied { path: name(&mut input, path)? },
            b'L' => Later::Link { path: name(&mut input, path)?, target: name(&mut input, path)? },
            other => return Err(Error::Archive(format!("{}: unknown record {other}", path.display()))),
        };
        each(later)?;
    }
    Ok(())
}

fn bytes<const N: usize>(input: &mut impl Read, path: &Path) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).during("read", path.display())?;
    Ok(bytes)
}

fn name(input: &mut impl Read, path: &Path) -> Result<Vec<u8>, Error> {
    let mut name = vec![0; usize::from(u16::from_le_bytes(bytes(input, path)?))];
    input.read_exact(&mut name).during("read", path.display())?;
    Ok(name)
}
