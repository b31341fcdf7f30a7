//! Bodies of requests: a few bytes, or a stream that a thread produces.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;

const CHUNK: usize = 128 * 1024;

/// A request's body.
pub enum Body {
    /// Nothing, or a document.
    Whole(Option<Bytes>),
    /// As it comes.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body {
    /// Nothing.
    pub const fn empty() -> Self {
        Self::Whole(None)
    }

    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// What a function writes, in a thread of its own.
    pub fn written(write: impl FnOnce(&mut BodyWriter) -> io::Result<()> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(4);
        std::thread::spawn(move || {
            let mut writer = BodyWriter { sender, buffer: Vec::with_capacity(CHUNK) };
            let ended = write(&mut writer).and_then(|()| writer.flush());
            if let Err(error) = ended {
                // When the request is gone nobody needs to know.
                drop(writer.sender.blocking_send(Err(error)));
            }
        });
        Self::Stream(receiver)
    }

    /// What a reader gives.
    pub fn read(mut reader: impl Read + Send + 'static) -> Self {
        Self::written(move |writer| {
            while writer.take_from(&mut reader)? {}
            Ok(())
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => receiver.poll_recv(cx).map(|next| next.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// What a body's thread writes into.
pub struct BodyWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl BodyWriter {
    /// Takes what a reader has, a chunk at most, and sends it: whoever drips is not waited for until a chunk is full, for which
    /// the daemon would not wait. False at its end.
    fn take_from(&mut self, reader: &mut impl Read) -> io::Result<bool> {
        self.buffer.resize(CHUNK, 0);
        let got = loop {
            match reader.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got,
            }
        };
        self.buffer.truncate(*got.as_ref().unwrap_or(&0));
        self.flush()?;
        Ok(got? > 0)
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)).into();
        self.sender.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// An answer's body, read by a thread that blocks: what tar wants.
pub struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl BodyReader {
    /// A reader, and the other end that is fed by [`feed`].
    pub fn new() -> (Self, mpsc::Sender<io::Result<Bytes>>) {
        let (sender, receiver) = mpsc::channel(8);
        (Self { receiver, current: Bytes::new() }, sender)
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(next) => self.current = next?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Feeds a thread's reader until either end is done.
pub async fn feed(mut body: hyper::body::Incoming, sender: mpsc::Sender<io::Result<Bytes>>) {
    use http_body_util::BodyExt as _;
    while let Some(frame) = body.frame().await {
        let item = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
            Err(error) => Err(io::Error::other(error)),
        };
        if sender.send(item).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_reader_has_is_sent_though_it_has_no_more_for_now() {
        let (reader, mut pipe) = io::pipe().unwrap();
        let Body::Stream(mut sent) = Body::read(reader) else { panic!("a stream") };
        for piece in [&b"a few"[..], b"more"] {
            pipe.write_all(piece).unwrap();
            assert_eq!(sent.recv().await.unwrap().unwrap(), piece);
        }
        drop(pipe);
        assert!(sent.recv().await.is_none());
    }

    #[tokio::test]
    async fn much_goes_in_whole_chunks_and_all_of_it() {
        let whole: Vec<u8> = (0..2 * CHUNK + 7).map(|index| index as u8).collect();
        let Body::Stream(mut sent) = Body::read(io::Cursor::new(whole.clone())) else { panic!("a stream") };
        let mut pieces = Vec::new();
        while let Some(piece) = sent.recv().await {
            pieces.push(piece.unwrap());
        }
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [CHUNK, CHUNK, 7]);
        assert_eq!(pieces.concat(), whole);
    }
}
