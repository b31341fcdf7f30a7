//! The bytes of a blob on their way out: where they come from, from which byte on, and a body that hands them to HTTP.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use gantry_api::reference::Digest;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::{Method, Response};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::gzip::Gzip;
use super::source::ImageSource;
use crate::http::{is_part, network};
use crate::manifest::finish;
use crate::progress::LayerReport;
use crate::session::Session;
use crate::sink::SinkError;
use crate::{Descriptor, Error, Result};

/// Pieces that wait to be sent.
const DEPTH: usize = 4;
/// The size of one that is read from a file.
const PIECE: usize = 128 << 10;
const PUSHING: &str = "Pushing";

/// Where the bytes come from. All can begin again at any byte.
#[derive(Clone)]
pub enum Data {
    /// The store has the blob.
    Kept(Arc<File>, u64),
    /// Another repository has it.
    Elsewhere(Arc<Session>, Descriptor),
    /// The archive of a layer, compressed on its way.
    Archive { source: Arc<dyn ImageSource>, index: usize, diff_id: String },
    /// The archive of a layer as it is, of a manifest that has it so.
    Plain { source: Arc<dyn ImageSource>, index: usize, blob: Descriptor },
}

/// What is known of the bytes while they go.
#[derive(Default)]
pub struct Trace {
    /// Bytes that HTTP took.
    pub sent: AtomicU64,
    /// Whether it took all of them.
    pub ended: AtomicBool,
    /// Why there are no more.
    failure: Mutex<Option<Error>>,
    /// Digest and size of a blob that was made on the way.
    made: Mutex<Option<(Digest, u64)>>,
}

impl Trace {
    /// Why the bytes ended before their end.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was made, once all of it was.
    pub fn made(&self) -> Option<(Digest, u64)> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, error: Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// A body.
pub struct Feed {
    pieces: mpsc::Receiver<Bytes>,
    /// Bytes to come, where that is known.
    left: Option<u64>,
    trace: Arc<Trace>,
}

impl Data {
    /// Its bytes, where that is known before.
    pub const fn size(&self) -> Option<u64> {
        match self {
            Self::Kept(_, size) => Some(*size),
            Self::Elsewhere(_, descriptor) | Self::Plain { blob: descriptor, .. } => Some(descriptor.size),
            Self::Archive { .. } => None,
        }
    }

    /// The bytes from `from` on.
    ///
    /// # Errors
    /// When another repository does not give them.
    pub async fn open(&self, from: u64, report: &Arc<LayerReport>) -> Result<Feed> {
        let (sender, pieces) = mpsc::channel(DEPTH);
        let trace = Arc::new(Trace::default());
        let left = self.size().map(|size| size.saturating_sub(from));
        let out = Out { pieces: sender, trace: Arc::clone(&trace), report: Arc::clone(report) };
        match self {
            Self::Kept(file, _) => {
                let file = Arc::clone(file);
                drop(tokio::task::spawn_blocking(move || read(&file, from, &out)));
            }
            Self::Elsewhere(session, descriptor) => {
                let path = format!("blobs/{}", descriptor.digest);
                let answer = session.send(Method::GET, &path, from).await?;
                let skip = if is_part(&answer, from)? { 0 } else { from };
                tokio::spawn(forward(answer, skip, from, descriptor.size, out));
            }
            Self::Archive { source, index, diff_id } => {
                let (source, index, diff_id) = (Arc::clone(source), *index, diff_id.clone());
                drop(tokio::task::spawn_blocking(move || compress(&*source, index, diff_id, from, &out)));
            }
            Self::Plain { source, index, blob } => {
                let (source, index, blob) = (Arc::clone(source), *index, blob.digest.to_string());
                drop(tokio::task::spawn_blocking(move || plain(&*source, index, blob, from, &out)));
            }
        }
        Ok(Feed { pieces, left, trace })
    }
}

/// Where the bytes go.
struct Out {
    pieces: mpsc::Sender<Bytes>,
    trace: Arc<Trace>,
    report: Arc<LayerReport>,
}

fn read(file: &File, from: u64, out: &Out) {
    let mut at = from;
    loop {
        let mut piece = vec![0; PIECE];
        match file.read_at(&mut piece, at) {
            Ok(0) => return,
            Ok(length) => {
                piece.truncate(length);
                at += length as u64;
                if out.pieces.blocking_send(piece.into()).is_err() {
                    return;
                }
                out.report.so_far(PUSHING, at);
            }
            Err(error) => return out.trace.fail(Error::Store(error.into())),
        }
    }
}

async fn forward(mut answer: Response, mut skip: u64, mut at: u64, size: u64, out: Out) {
    let url = answer.url().clone();
    loop {
        match answer.chunk().await {
            Ok(Some(mut piece)) => {
                let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                skip -= known as u64;
                drop(piece.split_to(known));
                at += piece.len() as u64;
                if at > size {
                    let reason = format!("it sent more than the {size} bytes that the manifest says");
                    return out.trace.fail(Error::invalid(url.as_str(), reason));
                }
                if !piece.is_empty() && out.pieces.send(piece).await.is_err() {
                    return;
                }
                out.report.so_far(PUSHING, at);
            }
            Ok(None) if at < size => {
                let reason = format!("unexpected EOF after {at} of {size} bytes");
                return out.trace.fail(Error::Network { method: "Get", url: crate::http::shown(&url), reason });
            }
            Ok(None) => return,
            Err(error) => return out.trace.fail(network(&Method::GET, &url, &error)),
        }
    }
}

fn compress(source: &dyn ImageSource, index: usize, layer: String, from: u64, out: &Out) {
    let made = (|| {
        let mut counted = Counted { output: Gzip::new(Hashed::new(out, from))?, written: 0, report: &out.report };
        source.archive(index, &mut counted)?;
        let mut hashed = counted.output.finish()?;
        hashed.flush()?;
        Ok((finish(hashed.hash), hashed.size))
    })();
    out.end(layer, made);
}

fn plain(source: &dyn ImageSource, index: usize, layer: String, from: u64, out: &Out) {
    let made = (|| {
        let mut counted = Counted { output: Hashed::new(out, from), written: 0, report: &out.report };
        source.archive(index, &mut counted)?;
        counted.output.flush()?;
        Ok((finish(counted.output.hash), counted.output.size))
    })();
    out.end(layer, made);
}

impl Out {
    /// Says what was made, or why it was not.
    fn end(&self, layer: String, made: std::result::Result<(Digest, u64), SinkError>) {
        match made {
            Ok(made) => *self.trace.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made),
            // Whoever took the bytes does not want them any more.
            Err(_) if self.pieces.is_closed() => {}
            Err(source) => self.trace.fail(Error::Read { layer, source }),
        }
    }
}

/// Counts what is read of an archive.
struct Counted<'a, W> {
    output: W,
    written: u64,
    report: &'a LayerReport,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.output.write(bytes)?;
        self.written += length as u64;
        self.report.so_far(PUSHING, self.written);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Hashes what is sent, and hands it over but for the beginning that is there already.
struct Hashed<'a> {
    out: &'a Out,
    hash: Sha256,
    size: u64,
    skip: u64,
    piece: Vec<u8>,
}

impl<'a> Hashed<'a> {
    fn new(out: &'a Out, from: u64) -> Self {
        Self { out, hash: Sha256::new(), size: 0, skip: from, piece: Vec::with_capacity(PIECE) }
    }
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= known as u64;
        self.piece.extend_from_slice(&bytes[known..]);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the bytes");
        self.out.pieces.blocking_send(piece.into()).map_err(gone)
    }
}

impl Feed {
    /// What is known of its bytes while they go.
    pub fn trace(&self) -> Arc<Trace> {
        Arc::clone(&self.trace)
    }
}

impl Body for Feed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = std::task::ready!(self.pieces.poll_recv(cx));
        let Some(piece) = piece else {
            let failed = self.trace.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if failed || self.left.is_some_and(|left| left > 0) {
                return Poll::Ready(Some(Err(io::Error::other("there are no more bytes to send"))));
            }
            self.trace.ended.store(true, Ordering::Release);
            return Poll::Ready(None);
        };
        self.trace.sent.fetch_add(piece.len() as u64, Ordering::AcqRel);
        let length = piece.len() as u64;
        self.left = self.left.map(|left| left.saturating_sub(length));
        if self.left == Some(0) {
            self.trace.ended.store(true, Ordering::Release);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
