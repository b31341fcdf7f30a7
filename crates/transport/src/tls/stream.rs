//! An encrypted connection that can be looked into without being read, as plain ones can.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Standing;

/// How much of what comes first can be looked at.
const PEEK: usize = 4096;

/// A TLS connection. Closing the write half says so inside TLS (`close_notify`); an end without it is an error for the
/// reader, so that nobody on the way can cut a stream short unnoticed.
#[derive(Debug)]
pub struct TlsStream {
    inner: Box<tokio_rustls::TlsStream<TcpStream>>,
    peeked: BytesMut,
    standing: Option<Standing>,
}

impl TlsStream {
    pub(crate) fn new(inner: tokio_rustls::TlsStream<TcpStream>) -> Self {
        Self { inner: Box::new(inner), peeked: BytesMut::new(), standing: None }
    }

    /// A client's, whose certificate can be revoked.
    pub(crate) fn of_client(inner: tokio_rustls::TlsStream<TcpStream>, standing: Option<Standing>) -> Self {
        Self { standing, ..Self::new(inner) }
    }

    pub(crate) fn standing(&self) -> Option<Standing> {
        self.standing.clone()
    }

    /// Waits until something is there, and shows it; nothing at the end.
    pub(crate) async fn peek(&mut self) -> io::Result<&[u8]> {
        if self.peeked.is_empty() {
            self.peeked.reserve(PEEK);
            self.inner.read_buf(&mut self.peeked).await?;
        }
        Ok(&self.peeked)
    }
}

impl AsFd for TlsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().0.as_fd()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.peeked.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let length = this.peeked.len().min(buf.remaining());
        buf.put_slice(&this.peeked[..length]);
        this.peeked.advance(length);
        if this.peeked.is_empty() {
            this.peeked = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
