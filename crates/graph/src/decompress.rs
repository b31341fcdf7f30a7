//! Streams of archives without what they are compressed by, told by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use gantry_api::reference::Digest;
use sha2::{Digest as _, Sha256};

use crate::image::finish;
use crate::{Error, Result};

/// The most KiB that undoing xz may take: `xz -9` wants 65 MiB, and a header can ask for four gigabytes.
const XZ_MEMORY: u32 = 128 << 10;

/// The uncompressed stream of a blob (gzip, zstd, xz, bzip2 or plain), by its first bytes.
///
/// # Errors
/// What the decoder cannot begin with.
pub fn decompress<'a>(magic: &[u8], blob: &'a mut dyn BufRead) -> Result<Box<dyn Read + 'a>> {
    match magic {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::with_buffer(blob)
            .map(|decoder| Box::new(decoder) as Box<dyn Read>)
            .map_err(|source| Error::Stream { what: "layer".to_owned(), source }),
        [0xfd, b'7', b'z', b'X', ..] => Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(blob, true, XZ_MEMORY))),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(blob))),
        _ => Ok(Box::new(blob)),
    }
}

/// The digest of what a blob is when it is inflated.
pub(crate) fn inflated_digest(blob: &mut dyn Read) -> Result<Digest> {
    let failed = |source| Error::Stream { what: "layer".to_owned(), source };
    let mut magic = Vec::new();
    (&mut *blob).take(4).read_to_end(&mut magic).map_err(failed)?;
    let mut whole = BufReader::with_capacity(128 << 10, io::Cursor::new(magic.clone()).chain(blob));
    let mut hash = Sha256::new();
    io::copy(&mut decompress(&magic, &mut whole)?, &mut hash).map_err(failed)?;
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
            let mut broken = blob.to_vec();
            broken[blob.len() / 2] ^= 0x10;
            assert!(read(&broken).is_err(), "a flipped bit is found");
        }
    }

    #[test]
    fn no_header_makes_the_daemon_take_gigabytes() {
        assert_eq!(read(GREEDY).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
