//! What a push needs of the store: what an image came as, layers that stay meanwhile, and a note of what a registry has now.

use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs::Durability;

use crate::images::canonical;
use crate::origin::{documents, merged};
use crate::registration::Pins;
use crate::{Document, Error, Graph, Image, Origin, Result, records};

/// Layers that stay, whoever removes their image, as long as this lives.
pub struct Held {
    _pins: Pins,
}

/// What an image came as, with the bytes.
#[derive(Debug, Clone)]
pub struct Came {
    /// The index that its manifest was chosen from, if that is there.
    pub index: Option<Document>,
    /// Its manifest.
    pub manifest: Document,
    /// Attestations: manifests and blobs.
    pub attached: Vec<Document>,
}

impl Graph {
    /// Keeps the layers of an image.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when it was removed before.
    pub fn hold(&self, image: &Image) -> Result<Held> {
        let pins = Pins::new(self, image.layers.iter().map(|layer| layer.chain_id.clone()).collect());
        match image.layers.iter().find(|layer| self.inner.layers.get(&layer.chain_id).is_none()) {
            Some(_) => Err(Error::NoSuchImage(image.id.to_string())),
            None => Ok(Held { _pins: pins }),
        }
    }

    /// What an image came as last, as far as the documents of it can be read; none for what was made here.
    #[must_use]
    pub fn came_as(&self, image: &Image) -> Option<Came> {
        image.origins.iter().rev().find_map(|origin| {
            let read = |descriptor: &crate::Descriptor| {
                let raw = self.content().read(&descriptor.digest).ok()?;
                Some(Document { media_type: descriptor.media_type.clone(), raw })
            };
            Some(Came {
                manifest: read(&origin.manifest)?,
                index: origin.index.as_ref().and_then(read),
                attached: origin.attached.iter().filter_map(read).collect(),
            })
        })
    }

    /// Notes what an image is at a registry: its name by digest, and the manifest, if that was made for the push. An image that
    /// was removed meanwhile stays removed.
    ///
    /// # Errors
    /// The content store's and the database's; then nothing is noted.
    pub fn note_push(&self, id: &Digest, name: &Reference, manifest: Option<Document>) -> Result<()> {
        let change = self.change();
        let mut images = (*self.images()).clone();
        let Some(known) = images.get(id).cloned() else { return Ok(()) };
        let name = canonical(name);
        let mut image = Image::clone(&known);
        if let Some(manifest) = manifest {
            self.content().put_all([&manifest.raw])?;
            let made = Origin { index: None, manifest: manifest.descriptor(), attached: Vec::new() };
            let has = images.names(id);
            image.origins = merged(&known.origins, &[made], &has.iter().chain([&name]).collect::<Vec<_>>());
        }
        let image = Arc::new(image);
        self.inner.db.write(Durability::Disk, |db| {
            records::put_image(db, &image)?;
            db.replace(&records::name_path(&name), id.as_str()).map(drop)
        })?;
        images.insert(image);
        images.name(name, id.clone());
        self.publish(&change, images);
        self.drop_documents(documents(&known.origins));
        Ok(())
    }
}
