//! A blob as it comes in, for who unpacks it on a thread of its own.

use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::parts::{Part, Seen};

/// A layer's blob as it comes in: `Read` blocks until there is more. End-of-file means that digest and size were right;
/// whatever is wrong is an error.
#[derive(Debug)]
pub struct BlobReader {
    part: Arc<Part>,
    round: u32,
    at: u64,
    given_up: Arc<AtomicBool>,
    consumed: Arc<AtomicU64>,
}

/// The other end: as long as it lives, somebody fetches the blob for the reader.
#[derive(Debug)]
pub struct Supply {
    part: Arc<Part>,
    given_up: Arc<AtomicBool>,
    /// How many bytes were read.
    pub consumed: Arc<AtomicU64>,
}

/// Both ends.
pub fn read(part: &Arc<Part>) -> (Supply, BlobReader) {
    let (given_up, consumed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let (part, round) = (Arc::clone(part), part.round());
    let supply = Supply { part: Arc::clone(&part), given_up: Arc::clone(&given_up), consumed: Arc::clone(&consumed) };
    (supply, BlobReader { part, round, at: 0, given_up, consumed })
}

impl Drop for Supply {
    fn drop(&mut self) {
        self.part.give_up(&self.given_up);
    }
}

impl BlobReader {
    fn wait(&self, at: u64) -> io::Result<Seen> {
        match self.part.wait(at, self.round, &self.given_up) {
            Seen::Anew => Err(io::Error::other("what an earlier pull left of it is damaged, and it is fetched anew")),
            Seen::GivenUp => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download did not complete")),
            seen => Ok(seen),
        }
    }

    /// Waits until the blob is known to be right, whatever was read of it.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.consumed.store(self.part.size, Ordering::Relaxed);
        self.wait(self.part.size).map(drop)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Seen::Bytes(file, offset, length) = self.wait(self.at)? else { return Ok(0) };
        let most = buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let read = file.read_at(&mut buffer[..most], offset)?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "what was downloaded is gone from the disk"));
        }
        self.at += read as u64;
        self.consumed.store(self.at, Ordering::Relaxed);
        Ok(read)
    }
}
