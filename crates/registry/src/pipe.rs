//! From the asynchronous download to the blocking unpacking: a bounded channel that ends only after verification.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Pieces on their way; when they are full the download waits.
const DEPTH: usize = 8;

enum Piece {
    Data(Bytes),
    Verified,
}

/// The download's end.
pub struct Writer(mpsc::Sender<Piece>);

/// A layer's blob as it comes in: `Read` blocks until there is more. End-of-file means that digest and size were right;
/// whatever is wrong is an error.
pub struct BlobReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    verified: bool,
    consumed: Arc<AtomicU64>,
}

/// Both ends.
pub fn pipe() -> (Writer, BlobReader) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    (Writer(sender), BlobReader { pieces, current: Bytes::new(), verified: false, consumed: Arc::default() })
}

impl Writer {
    /// Hands over a piece; false when nobody reads any more.
    pub async fn data(&self, piece: Bytes) -> bool {
        self.0.send(Piece::Data(piece)).await.is_ok()
    }

    /// The blob is whole and right; false when nobody reads any more.
    pub async fn verified(self) -> bool {
        self.0.send(Piece::Verified).await.is_ok()
    }
}

impl BlobReader {
    /// How many bytes were read, for who watches.
    pub(crate) fn consumed(&self) -> Arc<AtomicU64> {
        self.consumed.clone()
    }

    /// Reads what is left, so that the blob is known to be right.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        while !self.verified {
            self.current.clear();
            self.next()?;
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<()> {
        match self.pieces.blocking_recv() {
            Some(Piece::Data(piece)) => {
                self.consumed.fetch_add(piece.len() as u64, Ordering::Relaxed);
                self.current = piece;
            }
            Some(Piece::Verified) => self.verified = true,
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download did not complete")),
        }
        Ok(())
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.verified {
            self.next()?;
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn end_of_file_comes_only_after_verification() {
        for verify in [true, false] {
            let (writer, mut reader) = pipe();
            let read = tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all)
            });
            assert!(writer.data(Bytes::from_static(b"abc")).await);
            if verify {
                assert!(writer.verified().await);
                assert_eq!(read.await.unwrap().unwrap(), b"abc");
            } else {
                drop(writer);
                assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }

    #[tokio::test]
    async fn a_reader_that_stopped_early_still_learns_the_verdict() {
        let (writer, mut reader) = pipe();
        let read = tokio::task::spawn_blocking(move || {
            reader.read_exact(&mut [0; 2]).unwrap();
            reader.finish()
        });
        assert!(writer.data(Bytes::from_static(b"abc")).await);
        assert!(writer.verified().await);
        read.await.unwrap().unwrap();
    }
}
