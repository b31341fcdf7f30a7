//! The bridge between the registry's push and the graph.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_graph::{Blob, Document, Graph, Held, Image};
use gantry_registry::{Descriptor, ImageSource, KnownBlob, PushLayer, PushOrigin, Pushable, Pushed, SinkError};

use crate::error::Result;

/// An image of the graph as the registry's push sees it. Its layers stay as long as this lives.
pub struct GraphSource {
    graph: Graph,
    image: Arc<Image>,
    _held: Held,
}

impl GraphSource {
    /// Of an image that is there.
    ///
    /// # Errors
    /// When it was removed.
    pub fn new(graph: &Graph, image: &Arc<Image>) -> Result<Self> {
        Ok(Self { graph: graph.clone(), image: Arc::clone(image), _held: graph.hold(image)? })
    }

    /// What is known of it; with `single` the index that it was chosen from is left out. Reads documents: it blocks.
    pub fn pushable(&self, single: bool) -> Pushable {
        let layers = self.image.layers.iter().map(|layer| PushLayer {
            diff_id: layer.diff_id.clone(),
            size: layer.archive_size.max(layer.size),
            blobs: self.graph.blobs(&layer.diff_id).into_iter().map(known).collect(),
        });
        let origin = self.graph.came_as(&self.image).map(|came| {
            let index = came.index.map(document);
            let manifest = document(came.manifest);
            let root = index.as_ref().unwrap_or(&manifest).descriptor.digest.clone();
            PushOrigin {
                repositories: self.repositories(&root, &manifest.descriptor.digest),
                attached: came.attached.into_iter().map(document).collect(),
                index: index.filter(|_| !single),
                manifest,
            }
        });
        Pushable { config: self.image.raw.to_vec().into(), layers: layers.collect(), origin }
    }

    /// Where an image came from or went to, by its names.
    fn repositories(&self, root: &Digest, manifest: &Digest) -> Vec<Reference> {
        let names = self.graph.images().names(&self.image.id).into_iter();
        let by_digest = names.filter(|name| name.digest().is_some_and(|digest| digest == root || digest == manifest));
        by_digest.filter_map(|name| name.repository().parse().ok()).collect()
    }
}

fn known(blob: Blob) -> KnownBlob {
    let gantry_graph::Descriptor { media_type, digest, size } = blob.descriptor;
    KnownBlob {
        descriptor: Descriptor { media_type, digest, size },
        verified: blob.verified,
        // The last one is the one that was seen last.
        seen: blob.seen.iter().rev().filter_map(|seen| seen.parse().ok()).collect(),
    }
}

fn document(document: Document) -> gantry_registry::Document {
    let digest = gantry_graph::digest_of(&document.raw);
    let descriptor = Descriptor { media_type: document.media_type, digest, size: document.raw.len() as u64 };
    gantry_registry::Document { descriptor, raw: document.raw }
}

impl ImageSource for GraphSource {
    fn blob(&self, digest: &Digest) -> std::result::Result<Option<File>, SinkError> {
        Ok(self.graph.kept_blob(digest)?)
    }

    fn archive(&self, index: usize, output: &mut dyn Write) -> std::result::Result<(), SinkError> {
        let layer = self.image.layers.get(index).ok_or("the image has no such layer")?;
        self.graph.layer_archive(layer, output)?;
        Ok(())
    }

    fn pushed(&self, pushed: &Pushed) -> std::result::Result<(), SinkError> {
        let name = pushed.reference.with_digest(pushed.root.digest.clone());
        let made = pushed.made.then(|| Document {
            media_type: pushed.manifest.descriptor.media_type.clone(),
            raw: pushed.manifest.raw.clone(),
        });
        self.graph.note_push(&self.image.id, &name, made)?;
        for (layer, blob) in self.image.layers.iter().zip(&pushed.layers) {
            // One that is the archive itself is known by its diff id.
            if blob.digest != layer.diff_id {
                let Descriptor { media_type, digest, size } = blob.clone();
                let descriptor = gantry_graph::Descriptor { media_type, digest, size };
                let seen = vec![pushed.reference.repository()];
                self.graph.note_blob(&layer.diff_id, &Blob { seen, verified: pushed.made, ..Blob::new(descriptor) })?;
            }
        }
        Ok(())
    }
}
