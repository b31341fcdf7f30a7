//! Layers as archives: what save, push and fsck read.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use crate::image::finish;
use crate::{Error, Graph, Layer, Result};

impl Graph {
    /// Writes the uncompressed archive that a layer was made from, and verifies its digest on the way; returns its bytes.
    ///
    /// # Errors
    /// [`Error::Digest`] when the files are not those that were unpacked: what was written is not the layer. The driver's
    /// [`gantry_graphdriver::Error::Damaged`].
    pub fn layer_archive(&self, layer: &Layer, output: &mut dyn Write) -> Result<u64> {
        let mut output = Hashed { inner: output, hash: Sha256::new(), length: 0 };
        self.inner.driver.diff(&layer.store_id, &mut output)?;
        let found = finish(output.hash);
        if found != layer.diff_id {
            return Err(Error::Digest { what: "layer on disk", wanted: layer.diff_id.clone(), found });
        }
        Ok(output.length)
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

struct Hashed<'a> {
    inner: &'a mut dyn Write,
    hash: Sha256,
    length: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
