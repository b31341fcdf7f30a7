//! Layers as archives: what save, push and fsck read.

use std::io::{self, BufRead, Write};

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

/// Writes what is read; returns its digest and its length.
fn pass_on(archive: &mut Ahead, output: &mut dyn Write) -> Result<(Digest, u64)> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    loop {
        let piece = archive.fill_buf().map_err(|error| match error.downcast::<gantry_graphdriver::Error>() {
            Ok(error) => Error::Driver(error),
            Err(source) => Error::Stream { what: "layer on disk".to_owned(), source },
        })?;
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
