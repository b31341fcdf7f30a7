//! The standard streams of jobs: bytes to the caller, bytes from the caller, and the caller's whole connection.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// What a job says before its first byte; the caller turns it into a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opening {
    /// The stream is a terminal's: raw, without frames.
    pub terminal: bool,
}

/// A job's standard output.
pub struct Outlet {
    opened: Option<oneshot::Sender<Opening>>,
    bytes: mpsc::Sender<Bytes>,
}

/// The caller's end of an [`Outlet`].
pub struct OutletReader {
    /// Resolves when the job accepts to stream; fails when it ends before.
    pub opened: oneshot::Receiver<Opening>,
    /// The bytes.
    pub bytes: mpsc::Receiver<Bytes>,
}

/// A caller that neither sends nor takes a byte for so long is given up: a job may hold a container's lock meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pieces that may wait for a slow caller.
const DEPTH: usize = 8;
/// Bytes of one piece of what a thread writes.
const PIECE: usize = 128 << 10;

impl Outlet {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, OutletReader) {
        let (opened, opening) = oneshot::channel();
        let (sender, bytes) = mpsc::channel(DEPTH);
        (Self { opened: Some(opened), bytes: sender }, OutletReader { opened: opening, bytes })
    }

    /// Accepts: everything that could be refused was checked.
    pub fn open(&mut self, opening: Opening) {
        if let Some(opened) = self.opened.take() {
            // A caller that is gone is noticed at the first byte.
            let _ = opened.send(opening);
        }
    }

    /// Sends bytes; false when the caller is gone.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) -> bool {
        self.open(Opening::default());
        self.bytes.send(bytes.into()).await.is_ok()
    }

    /// Sends one JSON document and a newline; false when the caller is gone.
    pub async fn send_json(&mut self, value: &impl serde::Serialize) -> bool {
        self.send(json_line(value)).await
    }

    /// Resolves when the caller is gone.
    pub async fn closed(&self) {
        self.bytes.closed().await;
    }

    /// A writer for threads that may block.
    #[must_use]
    pub fn into_writer(mut self) -> OutletWriter {
        self.open(Opening::default());
        OutletWriter { bytes: self.bytes }
    }

    /// A sender for several threads.
    #[must_use]
    pub fn sender(&self) -> mpsc::Sender<Bytes> {
        self.bytes.clone()
    }
}

/// One JSON document and a newline.
///
/// # Panics
/// Never: plain data serialises.
#[must_use]
pub fn json_line(value: &impl serde::Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("plain data serialises");
    line.extend_from_slice(b"\r\n");
    line.into()
}

/// Writes to an [`Outlet`] from a thread of the runtime that may block.
pub struct OutletWriter {
    bytes: mpsc::Sender<Bytes>,
}

impl Write for OutletWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let buffer = &buffer[..buffer.len().min(PIECE)];
        let piece = match self.bytes.try_send(Bytes::copy_from_slice(buffer)) {
            Ok(()) => return Ok(buffer.len()),
            Err(mpsc::error::TrySendError::Full(piece) | mpsc::error::TrySendError::Closed(piece)) => piece,
        };
        let send = self.bytes.send(piece);
        match Handle::current().block_on(tokio::time::timeout(PATIENCE, send)) {
            Ok(Ok(())) => Ok(buffer.len()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone away")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client has taken nothing for a minute")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer or reader that fails when its job is cancelled, so that the thread that has it ends.
pub(crate) struct Cancellable<S> {
    pub stream: S,
    pub cancelled: CancellationToken,
}

impl<W: Write> Write for Cancellable<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.cancelled.is_cancelled() {
            return Err(io::Error::other("the job was cancelled"));
        }
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<R: Read> Read for Cancellable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.is_cancelled() {
            return Err(io::Error::other("the job was cancelled"));
        }
        self.stream.read(buffer)
    }
}

/// A job's standard input: a request's body, read by a thread of the runtime that may block.
pub struct Inlet {
    bytes: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
    cancelled: CancellationToken,
}

impl Inlet {
    /// Both ends; an error that is sent is what the reader gets.
    #[must_use]
    pub fn new() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, bytes) = mpsc::channel(DEPTH);
        (sender, Self { bytes, rest: Bytes::new(), cancelled: CancellationToken::new() })
    }

    /// Ends with an error when `cancelled`.
    pub fn cancel_with(&mut self, cancelled: CancellationToken) {
        self.cancelled = cancelled;
    }

    /// What it ends with. What is made of it by more than a little, as an inflated archive is, should end with it too.
    #[must_use]
    pub fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }
}

impl Read for Inlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            // Mostly something is there, and no clock need be set.
            if !self.cancelled.is_cancelled()
                && let Ok(piece) = self.bytes.try_recv()
            {
                self.rest = piece?;
                continue;
            }
            let next = async {
                tokio::select! {
                    piece = self.bytes.recv() => Ok(piece),
                    () = tokio::time::sleep(PATIENCE) => {
                        Err(io::Error::new(io::ErrorKind::TimedOut, "the client has sent nothing for a minute"))
                    }
                    () = self.cancelled.cancelled() => Err(io::Error::other("the job was cancelled")),
                }
            };
            match Handle::current().block_on(next)? {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// The caller's whole connection.
pub struct Connection {
    /// A stream socket, non-blocking.
    pub stream: OwnedFd,
    /// What was read from it already.
    pub early: Vec<u8>,
}

/// How long a client may take to read the head of an answer before the stream begins all the same.
const HEAD: Duration = Duration::from_secs(1);

/// How often it is looked at besides: the last byte that is read tells nobody where it is counted as taken a moment later.
const LOOK: Duration = Duration::from_millis(5);

impl Connection {
    /// Returns when the client has read what was sent so far, the answer's head, if the connection is a Unix socket.
    /// Python's clients read the head through a buffer and the stream past it: what came with the head would be lost to
    /// them. Of other connections nobody can tell.
    pub async fn head_taken(&self) {
        let taken = async {
            if is_taken(&self.stream)? {
                return Ok(());
            }
            let watched = writable(self.stream.as_fd())?;
            // Each time that the client reads there is room for more.
            while !is_taken(&self.stream)? {
                tokio::select! {
                    ready = watched.writable() => ready?.clear_ready(),
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            io::Result::Ok(())
        };
        // It is a courtesy: the stream begins in any case.
        match tokio::time::timeout(HEAD, taken).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("wait for a client to read the head of its answer: {error}"),
            Err(_) => tracing::debug!("a client has not read the head of its answer for a second"),
        }
    }
}

fn is_taken(stream: &OwnedFd) -> io::Result<bool> {
    gantry_linux::taken::is_taken(stream).map_err(|error| error.source)
}

/// Watches a socket for room, and for its end.
pub(crate) fn writable<T: AsRawFd>(socket: T) -> io::Result<AsyncFd<T>> {
    #[allow(
        deprecated,
        reason = "the newer constructor is unsafe for types whose descriptor may change; a socket's cannot"
    )]
    AsyncFd::with_interest(socket, Interest::WRITABLE)
}

/// Resolves to the caller's connection once the answer's head was sent.
pub type Upgrade = Pin<Box<dyn Future<Output = Result<Connection>> + Send>>;

/// A connection that a job can take over.
pub struct Hijack {
    opened: oneshot::Sender<Opening>,
    upgrade: Upgrade,
    input: bool,
}

impl Hijack {
    /// With the receiver of the job's consent.
    #[must_use]
    pub fn new(upgrade: Upgrade) -> (Self, oneshot::Receiver<Opening>) {
        let (opened, opening) = oneshot::channel();
        (Self { opened, upgrade, input: true }, opening)
    }

    /// The same where the caller cannot send anything more.
    #[must_use]
    pub fn without_input(upgrade: Upgrade) -> (Self, oneshot::Receiver<Opening>) {
        let (hijack, opening) = Self::new(upgrade);
        (Self { input: false, ..hijack }, opening)
    }

    /// Whether the caller can send what the job wants of it.
    ///
    /// # Errors
    /// When input is wanted that cannot come.
    pub fn check_input(&self, wanted: bool) -> Result<()> {
        if wanted && !self.input {
            return Err(Error::invalid("standard input needs a connection of its own: ask for an upgrade"));
        }
        Ok(())
    }

    /// Accepts, and takes the connection over.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn take(self, opening: Opening) -> Result<Connection> {
        self.opened.send(opening).map_err(|_| Error::system("take over the connection: the client has gone away"))?;
        self.upgrade.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn whatever_is_written_at_once_waits_for_the_caller_in_pieces_that_are_bounded() {
        let (outlet, mut caller) = Outlet::new();
        let whole: Vec<u8> = (0..3 * PIECE + 5).map(|index| index as u8).collect();
        let (mut writer, written) = (outlet.into_writer(), whole.clone());
        let writing = tokio::task::spawn_blocking(move || writer.write_all(&written));
        let mut pieces = Vec::new();
        while let Some(piece) = caller.bytes.recv().await {
            pieces.push(piece);
        }
        writing.await.unwrap().unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE, PIECE, PIECE, 5]);
        assert_eq!(pieces.concat(), whole);
    }
}
