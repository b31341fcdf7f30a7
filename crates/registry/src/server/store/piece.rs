//! A part of a file on its way out: straight to the socket where that is possible, else in big reads.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use tokio::task::JoinHandle;

use crate::server::direct::{Outgoing, PIECE};

/// Bytes of one read: many pulls at once stay within the memory that was promised.
const READ: u64 = 128 << 10;

/// A part of a file.
#[derive(Debug)]
pub struct Piece {
    file: Arc<File>,
    offset: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// Where it is queued instead of being read.
    outgoing: Option<Arc<Outgoing>>,
    /// Up to here the kernel has it in memory, as far as was seen.
    warm: u64,
}

impl Piece {
    /// `length` bytes of `file` from `offset`.
    #[must_use]
    pub fn new(file: File, offset: u64, length: u64) -> Self {
        Self { file: Arc::new(file), offset, left: length, reading: None, outgoing: None, warm: offset }
    }

    /// Goes straight to a connection from here on: its bytes are not read but stand for the file's.
    pub fn send_to(&mut self, outgoing: Arc<Outgoing>) {
        self.outgoing = Some(outgoing);
    }

    /// Bytes that are still to come.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes; none after the last ones.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let next = match self.outgoing.clone() {
            Some(outgoing) => ready!(self.poll_queue(cx, &outgoing)),
            None => ready!(self.poll_read(cx)),
        };
        if let Ok(bytes) = &next {
            self.offset += bytes.len() as u64;
            self.left -= bytes.len() as u64;
        }
        Poll::Ready(Some(next))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let (offset, length) = (self.offset, self.left.min(READ));
        let reading = self.reading.get_or_insert_with(|| {
            let file = Arc::clone(&self.file);
            tokio::task::spawn_blocking(move || read(&file, offset, length))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.unwrap_or_else(|error| Err(io::Error::other(error))))
    }

    /// What the disk has to bring first is brought where it may block: the socket is served by a thread that may not.
    fn poll_queue(&mut self, cx: &mut Context<'_>, outgoing: &Outgoing) -> Poll<io::Result<Bytes>> {
        let (offset, length) = (self.offset, self.left.min(PIECE as u64));
        if self.reading.is_none() && self.warm < offset + length && !is_in_memory(&self.file, offset, length) {
            let file = Arc::clone(&self.file);
            self.reading = Some(tokio::task::spawn_blocking(move || warm(&file, offset, length)));
        }
        if let Some(reading) = &mut self.reading {
            let warmed = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            warmed.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        }
        self.warm = offset + length;
        Poll::Ready(Ok(outgoing.queue(Arc::clone(&self.file), offset, length)))
    }

    /// The next bytes; none after the last ones.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

fn read(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

/// Whether reading would not have to wait for the disk, as a look at some of it says.
fn is_in_memory(file: &File, offset: u64, length: u64) -> bool {
    let last = offset + length - 1;
    (offset..last).step_by(READ as usize).chain([last]).all(|at| {
        let mut byte = [0];
        let mut slices = [IoSliceMut::new(&mut byte)];
        matches!(rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT), Ok(1))
    })
}

/// Has the kernel read it.
fn warm(file: &File, mut offset: u64, length: u64) -> io::Result<Bytes> {
    let mut scratch = vec![0; 64 << 10];
    let end = offset + length;
    while offset < end {
        let most = scratch.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        match file.read_at(&mut scratch[..most], offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => offset += read as u64,
        }
    }
    Ok(Bytes::new())
}
