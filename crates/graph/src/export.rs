//! Layers as archives: what save, push and fsck read.

use std::io::{self, BufRead, Read, Write};

use gantry_api::reference::Digest;
use gantry_linux::ResultExt;
use sha2::{Digest as _, Sha256};

use crate::ahead::{Ahead, ahead};
use crate::image::finish;
use crate::{Error, Graph, Layer, Result};

/// Buffers between who makes an archive and who reads it.
const BUFFERS: usize = 8;

impl Graph {
    /// Writes the uncompressed archive that a layer was made from, and verifies its digest on the way; returns its bytes.
    ///
    /// # Errors
    /// [`Error::Digest`] when the files are not those that were unpacked: what was written is not the layer. The driver's
    /// [`gantry_graphdriver::Error::Damaged`].
    pub fn layer_archive(&self, layer: &Layer, output: &mut dyn Write) -> Result<u64> {
        let (found, length) = self.with_archive(&layer.store_id, |archive| pass_on(archive, output))?;
        if found != layer.diff_id {
            return Err(Error::Digest { what: "layer on disk", wanted: layer.diff_id.clone(), found });
        }
        Ok(length)
    }

    /// Reads a layer's archive as [`Graph::layer_archive`] does, and holds the layer's files against it: `report` gets a line for
    /// each thing that is otherwise. Returns the archive's bytes.
    pub(crate) fn verify_layer(
        &self,
        layer: &Layer,
        below_is_whole: bool,
        report: &mut dyn FnMut(String),
    ) -> Result<u64> {
        self.with_archive(&layer.store_id, |archive| {
            let mut hashed = Hashed { archive, hash: Sha256::new(), length: 0, failure: None };
            let verified = self.driver().verify(&layer.store_id, &mut hashed, below_is_whole, report);
            if hashed.failure.is_none() {
                // What is left of it, so that all of it is hashed; an error is kept in it.
                let _ = io::copy(&mut hashed, &mut io::sink());
            }
            if let Some(failure) = hashed.failure {
                return Err(broken(failure));
            }
            let found = finish(hashed.hash);
            if found != layer.diff_id {
                return Err(Error::Digest { what: "layer on disk", wanted: layer.diff_id.clone(), found });
            }
            // An archive that is not the right one is told before what was not understood of it.
            verified?;
            Ok(hashed.length)
        })
    }

    /// Bytes of a layer's uncompressed archive.
    ///
    /// # Errors
    /// As [`Graph::layer_archive`], for a layer whose archive has to be made to be measured.
    pub fn layer_archive_size(&self, layer: &Layer) -> Result<u64> {
        match layer.archive_size {
            0 => self.layer_archive(layer, &mut io::sink()),
            size => Ok(size),
        }
    }
}

impl Graph {
    /// Has `work` read the archive of a layer or of a container's changes while a thread makes it; the end of it is an error
    /// where making it failed.
    pub(crate) fn with_archive<T>(&self, store_id: &str, work: impl FnOnce(&mut Ahead) -> T) -> T {
        let (feed, mut reader) = ahead(BUFFERS);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut writer = feed.writer();
                let made = self.inner.driver.diff(store_id, &mut writer);
                writer.close(made.map_err(io::Error::other));
            });
            let outcome = work(&mut reader);
            // Whoever makes it is not to wait for a reader that has seen enough.
            drop(reader);
            outcome
        })
    }
}

fn broken(error: io::Error) -> Error {
    match error.downcast::<gantry_graphdriver::Error>() {
        Ok(error) => Error::Driver(error),
        Err(source) => Error::Stream { what: "layer on disk".to_owned(), source },
    }
}

/// Hashes what is read, and keeps the error where that fails: whoever reads tells it in words of his own.
struct Hashed<'a> {
    archive: &'a mut Ahead,
    hash: Sha256,
    length: u64,
    failure: Option<io::Error>,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.archive.read(buffer) {
            Ok(got) => {
                self.hash.update(&buffer[..got]);
                self.length += got as u64;
                Ok(got)
            }
            Err(error) => {
                self.failure = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

/// Writes what is read; returns its digest and its length.
fn pass_on(archive: &mut Ahead, output: &mut dyn Write) -> Result<(Digest, u64)> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    loop {
        let piece = archive.fill_buf().map_err(broken)?;
        if piece.is_empty() {
            return Ok((finish(hash), length));
        }
        hash.update(piece);
        output.write_all(piece).during("write", "layer archive")?;
        length += piece.len() as u64;
        let read = piece.len();
        archive.consume(read);
    }
}
