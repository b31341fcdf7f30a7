//! A connection that HTTP has let go of: its bytes are the container's stream from now on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::Stream;

/// The raw stream, and what HTTP had already read of it.
#[derive(Debug)]
pub struct Hijacked {
    stream: Stream,
    read_ahead: Bytes,
}

impl Hijacked {
    pub(crate) const fn new(stream: Stream, read_ahead: Bytes) -> Self {
        Self { stream, read_ahead }
    }

    /// What `hyper::upgrade::on` gave, of a connection that was served or asked as `TokioIo<Stream>`.
    ///
    /// # Errors
    /// Gives it back when it ran over another kind of connection.
    pub fn from_upgraded(upgraded: Upgraded) -> Result<Self, Upgraded> {
        let Parts { io, read_buf, .. } = upgraded.downcast::<TokioIo<Stream>>()?;
        Ok(Self::new(io.into_inner(), read_buf))
    }

    /// The raw connection, and the bytes that come before what it still has to give.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.read_ahead)
    }

    /// Two halves for two tasks. `shutdown` on the write half is the end of standard input.
    #[must_use]
    pub fn into_split(self) -> (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) {
        let (read, write) = self.stream.into_split();
        if self.read_ahead.is_empty() {
            return (read, write);
        }
        (Box::new(AsyncReadExt::chain(io::Cursor::new(self.read_ahead), read)), write)
    }
}

impl AsyncRead for Hijacked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.read_ahead.len().min(buf.remaining());
        buf.put_slice(&self.read_ahead[..length]);
        self.read_ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Hijacked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
