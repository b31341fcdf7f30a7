//! Files straight to the socket: `sendfile` under hyper, which knows nothing of it.
//!
//! hyper gets bytes that stand for a file's, as many of them, all from one place in memory. What it writes of that place is sent from
//! the file whose turn it is; everything else is written as it is. So no byte of a blob is copied into this program, and a thousand
//! pulls need no more memory than one. Under TLS, where every byte has to be encrypted here, nothing of this is used.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gantry_transport::Stream;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// The most that one piece stands for.
pub const PIECE: usize = 1 << 20;

/// Never written to, so it occupies no memory.
static PLACE: LazyLock<Box<[u8]>> = LazyLock::new(|| vec![0; PIECE].into_boxed_slice());

/// What is on its way through a connection, in order.
#[derive(Debug, Default)]
pub struct Outgoing(Mutex<VecDeque<Part>>);

#[derive(Debug)]
struct Part {
    file: Arc<File>,
    offset: u64,
    left: usize,
}

impl Outgoing {
    fn parts(&self) -> MutexGuard<'_, VecDeque<Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a part of a file; the bytes stand for it.
    pub fn queue(&self, file: Arc<File>, offset: u64, length: u64) -> Bytes {
        let left = usize::try_from(length).unwrap_or(PIECE).min(PIECE);
        self.parts().push_back(Part { file, offset, left });
        Bytes::from_static(&PLACE[..left])
    }
}

fn stands_for_a_file(bytes: &[u8]) -> bool {
    PLACE.as_ptr_range().contains(&bytes.as_ptr()) && !bytes.is_empty()
}

/// A connection that sends what was queued.
#[derive(Debug)]
pub struct Direct {
    stream: Stream,
    outgoing: Arc<Outgoing>,
}

impl Direct {
    /// Over this stream.
    pub const fn new(stream: Stream, outgoing: Arc<Outgoing>) -> Self {
        Self { stream, outgoing }
    }

    /// Whether files can go straight through it.
    pub const fn is_possible(stream: &Stream) -> bool {
        matches!(stream, Stream::Tcp(_))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let Stream::Tcp(stream) = &self.stream else {
            return Poll::Ready(Err(io::Error::other("only TCP sends files")));
        };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let mut parts = self.outgoing.parts();
            let Some(part) = parts.front_mut() else {
                return Poll::Ready(Err(io::Error::other("no file is queued for these bytes")));
            };
            let length = part.left.min(most);
            let send = || Ok(rustix::fs::sendfile(stream, &part.file, Some(&mut part.offset), length)?);
            match stream.try_io(Interest::WRITABLE, send) {
                Ok(0) => return Poll::Ready(Err(io::Error::other("a blob on disk has become shorter"))),
                Ok(sent) => {
                    part.left -= sent;
                    if part.left == 0 {
                        parts.pop_front();
                    }
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Direct {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Direct {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if stands_for_a_file(bytes) {
            return this.poll_send(cx, bytes.len());
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let own = slices.iter().position(|slice| stands_for_a_file(slice)).unwrap_or(slices.len());
        match slices[..own].iter().any(|slice| !slice.is_empty()) {
            false if own < slices.len() => this.poll_send(cx, slices[own].len()),
            _ => Pin::new(&mut this.stream).poll_write_vectored(cx, &slices[..own]),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
