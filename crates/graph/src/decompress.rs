//! Streams of archives without what they are compressed by, told by their first bytes.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_api::reference::Digest;
use sha2::{Digest as _, Sha256};

use crate::image::finish;
use crate::{Error, Result};

/// The most KiB that undoing xz may take: `xz -9` wants 65 MiB, and a header can ask for four gigabytes.
const XZ_MEMORY: u32 = 128 << 10;

/// What a stream is compressed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

/// What a stream is compressed by that begins so; its first four bytes tell.
pub(crate) const fn compression(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', ..] => Some(Compression::Xz),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Compression::Bzip2),
        _ => None,
    }
}

/// The uncompressed stream of a blob (gzip, zstd, xz, bzip2 or plain), by its first bytes. What is wrong with the blob itself it says
/// as [`io::ErrorKind::InvalidData`] or [`io::ErrorKind::UnexpectedEof`], whatever the decoder says; errors of reading it are as they came.
///
/// # Errors
/// What the decoder cannot begin with.
pub fn decompress<'a>(magic: &[u8], blob: &'a mut dyn BufRead) -> Result<Box<dyn Read + 'a>> {
    let Some(compression) = compression(magic) else { return Ok(Box::new(blob)) };
    let failed = Rc::new(Cell::new(false));
    let blob = Source { blob, failed: Rc::clone(&failed) };
    let decoder: Box<dyn Read + 'a> = match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        Compression::Zstd => zstd::Decoder::with_buffer(blob)
            .map(Box::new)
            .map_err(|source| Error::Stream { what: "layer".to_owned(), source })?,
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(blob, true, XZ_MEMORY)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(blob)),
    };
    Ok(Box::new(Inflated { decoder, compression, failed }))
}

/// What a decoder reads, and whether reading it failed.
struct Source<'a> {
    blob: &'a mut dyn BufRead,
    failed: Rc<Cell<bool>>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.blob.read(buffer).inspect_err(|error| self.failed.set(error.kind() != io::ErrorKind::Interrupted))
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.blob.fill_buf().inspect_err(|error| self.failed.set(error.kind() != io::ErrorKind::Interrupted))
    }

    fn consume(&mut self, amount: usize) {
        self.blob.consume(amount);
    }
}

/// What a decoder gives, with errors of one kind: each decoder has its own.
struct Inflated<'a> {
    decoder: Box<dyn Read + 'a>,
    compression: Compression,
    failed: Rc<Cell<bool>>,
}

impl Read for Inflated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| {
            let as_it_is = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof);
            if as_it_is || self.failed.get() {
                return error;
            }
            let why = match (self.compression, error.kind()) {
                (Compression::Xz, io::ErrorKind::OutOfMemory) => {
                    let most = XZ_MEMORY >> 10;
                    format!("its dictionary needs more than {most} MiB: compress it with xz -9 or less")
                }
                (compression, _) => format!("{compression:?} stream: {error}").to_lowercase(),
            };
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }
}

/// Fails when whoever gave the stream has left: a few bytes inflate to gigabytes, while nothing is read that would fail.
pub(crate) struct Leavable<'a, R> {
    pub inner: R,
    pub left: &'a AtomicBool,
}

impl<R: Read> Read for Leavable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled, or the client has gone away"));
        }
        self.inner.read(buffer)
    }
}

/// The digest of what a blob is when it is inflated, unless whoever wants it has `left`.
pub(crate) fn inflated_digest(blob: &mut dyn Read, left: &AtomicBool) -> Result<Digest> {
    let failed = |source| Error::stream("layer", source);
    let mut magic = Vec::new();
    (&mut *blob).take(4).read_to_end(&mut magic).map_err(failed)?;
    let mut whole = BufReader::with_capacity(128 << 10, io::Cursor::new(magic.clone()).chain(blob));
    let mut hash = Sha256::new();
    io::copy(&mut Leavable { inner: decompress(&magic, &mut whole)?, left }, &mut hash).map_err(failed)?;
    Ok(finish(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a root file system\n";

    /// `TEXT` of `xz`.
    const XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16, 0x00,
        0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x12, 0x61, 0x20, 0x72, 0x6f, 0x6f, 0x74, 0x20, 0x66, 0x69,
        0x6c, 0x65, 0x20, 0x73, 0x79, 0x73, 0x74, 0x65, 0x6d, 0x0a, 0x00, 0x00, 0x8c, 0x5c, 0x87, 0x59, 0x74, 0x76,
        0x8a, 0x1f, 0x00, 0x01, 0x2b, 0x13, 0x9c, 0x09, 0x48, 0xd2, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00,
        0x00, 0x04, 0x59, 0x5a,
    ];

    /// `TEXT` of `bzip2`.
    const BZIP2: &[u8] = &[
        0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0x3c, 0xf2, 0x8c, 0xf9, 0x00, 0x00, 0x02, 0x51,
        0x80, 0x00, 0x10, 0x40, 0x00, 0x23, 0x26, 0x9c, 0x20, 0x20, 0x00, 0x22, 0x03, 0x40, 0x02, 0x01, 0xa0, 0x09,
        0xd0, 0xe2, 0x84, 0x4d, 0x46, 0x63, 0xf2, 0x2f, 0x17, 0x8b, 0xb9, 0x22, 0x9c, 0x28, 0x48, 0x1e, 0x79, 0x46,
        0x7c, 0x80,
    ];

    /// One byte of `xz --lzma2=dict=1536MiB`.
    const GREEDY: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x25, 0x00,
        0x00, 0x00, 0x3b, 0x78, 0x7b, 0x41, 0x01, 0x00, 0x00, 0x78, 0x00, 0x00, 0x00, 0x00, 0x45, 0xae, 0xef, 0x83,
        0xf8, 0xee, 0x16, 0x0a, 0x00, 0x01, 0x19, 0x01, 0xa5, 0x2c, 0x81, 0xcc, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00,
        0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];

    fn read(mut blob: &[u8]) -> io::Result<String> {
        let magic = blob[..4].to_vec();
        let mut text = String::new();
        decompress(&magic, &mut blob).expect("a decoder").read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn archives_of_every_usual_compression_are_read_to_their_end() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, TEXT.as_bytes()).unwrap();
        let zstd = zstd::encode_all(TEXT.as_bytes(), 1).unwrap();
        for blob in [XZ, BZIP2, &gzip.finish().unwrap(), &zstd, TEXT.as_bytes()] {
            assert_eq!(read(blob).unwrap(), TEXT);
        }
        for blob in [XZ, BZIP2] {
            assert_eq!(
                read(&blob.repeat(3)).unwrap(),
                TEXT.repeat(3),
                "several streams, as parallel compressors write"
            );
            assert!(read(&blob[..blob.len() - 5]).is_err(), "one that is cut short is not whole");
        }
    }

    #[test]
    fn what_is_wrong_with_a_blob_is_told_as_the_blobs_and_what_is_wrong_with_reading_it_as_that() {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.include_checksum(true).unwrap();
        io::Write::write_all(&mut zstd, TEXT.as_bytes()).unwrap();
        for blob in [XZ, BZIP2, &zstd.finish().unwrap()] {
            let mut broken = blob.to_vec();
            broken[blob.len() / 2] ^= 0x10;
            let error = read(&broken).unwrap_err();
            assert!(is_fault(&error), "{error} ({:?})", error.kind());
            let broken = || io::Error::new(io::ErrorKind::InvalidInput, "the cable");
            let mut cable = BufReader::new((&blob[..blob.len() / 2]).chain(Failing(broken)));
            let error = decompress(&blob[..4], &mut cable).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidInput, "the cable"));
        }
    }

    struct Failing<F>(F);

    impl<F: Fn() -> io::Error> Read for Failing<F> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(self.0())
        }
    }

    fn is_fault(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
    }

    #[test]
    fn no_header_makes_the_daemon_take_gigabytes() {
        let refusal = read(GREEDY).unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::InvalidData);
        assert!(refusal.to_string().contains("more than 128 MiB: compress it with xz -9"), "{refusal}");
    }
}
