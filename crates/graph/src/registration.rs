//! An image on its way in: its layers unpacked in parallel, then all of it visible in one step.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs::{self, Durability};

use crate::decompress::inflated_digest;
use crate::graph::now;
use crate::images::canonical;
use crate::layers::{Extent, Plan};
use crate::origin::{Found, documents, merged};
use crate::records;
use crate::{
    Blob, DOCUMENT_LIMIT, Descriptor, Document, Error, Graph, Image, ImageConfig, Layer, Origin, Result, digest_of,
};

/// The manifest of a pulled image.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its bytes as they came, digest verified by the caller.
    pub raw: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// The layers' descriptors, lowest first.
    pub layers: Vec<Descriptor>,
}

/// How a layer came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpacked {
    /// It was unpacked now: its bytes of content.
    Fresh(u64),
    /// It was there, or another registration made it meanwhile; the reader was not read.
    Shared,
}

/// An image on its way in. Dropped without [`Registration::commit`], it leaves nothing that no image has.
pub struct Registration {
    graph: Graph,
    id: Digest,
    config: ImageConfig,
    raw: Vec<u8>,
    /// What it comes as.
    origins: Vec<Origin>,
    /// The bytes of all that, beside the configuration's.
    came: Vec<Vec<u8>>,
    /// The layers as each manifest has them, lowest first.
    blobs: Vec<Vec<Descriptor>>,
    /// The repository that has those blobs.
    seen: Option<String>,
    /// Blobs, each with the diff id of the layer that it is: a manifest may say the same blob of several layers.
    verified: Mutex<HashSet<(Digest, Digest)>>,
    plans: Vec<Plan>,
    parent: Option<Digest>,
    awaited: Awaited,
    _pins: Pins,
}

/// Content that an image on its way in will name. What no image came to name goes with this.
struct Awaited {
    graph: Graph,
    content: Mutex<Vec<Digest>>,
}

impl Awaited {
    fn add(&self, digest: Digest) {
        self.graph.content().wait_for(digest.clone());
        held(&self.content).push(digest);
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let _change = self.graph.change();
        for digest in &*held(&self.content) {
            self.graph.content().wait_no_more(digest);
            if let Err(error) = self.graph.drop_document(Some(digest)) {
                tracing::warn!(%error, "a document that no image names stays until `gantry system fsck --repair`");
            }
        }
    }
}

/// Layers that stay, or whose slots stay, as long as this lives. Layers that nothing needs go with it.
pub(crate) struct Pins {
    graph: Graph,
    chains: Vec<Digest>,
}

impl Pins {
    pub(crate) fn new(graph: &Graph, chains: Vec<Digest>) -> Self {
        chains.iter().for_each(|chain| graph.inner.layers.pin(chain));
        Self { graph: graph.clone(), chains }
    }
}

impl Graph {
    /// Starts the registration of an image. `config` is its configuration, whose digest the caller has verified.
    ///
    /// # Errors
    /// [`Error::Invalid`] when configuration or manifest are not what they must be.
    pub fn register(&self, config: Vec<u8>, manifest: Option<Manifest>) -> Result<Registration> {
        let parsed = ImageConfig::parse(&config)?;
        if let Some(manifest) = &manifest {
            if manifest.raw.len() > DOCUMENT_LIMIT {
                return Err(Error::invalid(
                    "manifest",
                    format!("{} bytes, at most {DOCUMENT_LIMIT}", manifest.raw.len()),
                ));
            }
            check_layers(&parsed, manifest.layers.len())?;
        }
        let plans = Plan::of(&parsed.rootfs.diff_ids);
        let pins = Pins::new(self, plans.iter().map(|plan| plan.chain_id.clone()).collect());
        let id = digest_of(&config);
        let graph = self.clone();
        let awaited = Awaited { graph: self.clone(), content: Mutex::default() };
        awaited.add(id.clone());
        let mut registration = Registration {
            graph,
            id,
            config: parsed,
            raw: config,
            origins: Vec::new(),
            came: Vec::new(),
            blobs: Vec::new(),
            seen: None,
            verified: Mutex::default(),
            plans,
            parent: None,
            awaited,
            _pins: pins,
        };
        if let Some(Manifest { raw, media_type, layers }) = manifest {
            let document = Document { media_type, raw };
            let origin = Origin { index: None, manifest: document.descriptor(), attached: Vec::new() };
            registration.came_as(Found { origin, documents: vec![document.raw], layers });
        }
        Ok(registration)
    }
}

fn check_layers(config: &ImageConfig, named: usize) -> Result<()> {
    let wanted = config.rootfs.diff_ids.len();
    if named != wanted {
        return Err(Error::invalid("manifest", format!("{named} layers, its configuration has {wanted}")));
    }
    Ok(())
}

impl Registration {
    /// The image's id.
    #[must_use]
    pub const fn id(&self) -> &Digest {
        &self.id
    }

    /// What the configuration says.
    #[must_use]
    pub const fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Says which image it is made on top of; one that is not there any more is none.
    #[must_use]
    pub(crate) fn on_top_of(mut self, parent: &Digest) -> Self {
        self.parent = self.graph.images().get(parent).map(|image| image.id.clone());
        self
    }

    /// Says which repository (as [`Reference::repository`] has it) the blobs of its manifests are in; the digests of those that
    /// [`Registration::unpack`] reads are verified by the caller.
    #[must_use]
    pub fn seen_in(mut self, repository: &str) -> Self {
        self.seen = Some(repository.to_owned());
        self
    }

    /// Keeps the bytes of the compressed blob that one of its manifests has for layer `index`, beside the layer and as long as
    /// that stays. The caller has verified the digest, and that the blob is this layer ([`Registration::unpack`] does). The file
    /// is moved into the content store, durably; it lies in the same file system. Nothing is left of it where no image comes.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no manifest has such a blob there; what the file system refuses.
    pub fn keep_blob(&self, index: usize, blob: &Digest, file: &Path) -> Result<()> {
        if !self.blobs_of(index).any(|known| known.digest == *blob) {
            let what = format!("blob {blob} of layer {index}");
            return Err(Error::invalid(what, format!("no manifest of image {} has it", self.id.short())));
        }
        self.take_blob(index, blob);
        self.graph.content().adopt(&[(file.to_owned(), blob.clone())])
    }

    /// The same for a blob that came by a pull, whose digest is verified: where nothing was unpacked from it, because another
    /// registration made the layer meanwhile, it is inflated now, and must be that layer.
    ///
    /// # Errors
    /// [`Error::Digest`] when it is another one; as [`Registration::keep_blob`].
    pub fn keep_pulled_blob(&self, index: usize, blob: &Digest, file: &Path) -> Result<()> {
        if let Some(Plan { diff_id: wanted, .. }) = self.plans.get(index)
            && !self.is_verified(index, blob)
        {
            let found = inflated_digest(&mut fs::open(file)?, &self.graph.left)?;
            if found != *wanted {
                return Err(Error::Digest { what: "uncompressed layer", wanted: wanted.clone(), found });
            }
        }
        self.keep_blob(index, blob, file)
    }

    /// Keeps a blob that is verified to be layer `index`, as [`Registration::keep_blob`], if it is in the content store.
    pub(crate) fn take_blob(&self, index: usize, blob: &Digest) {
        self.awaited.add(blob.clone());
        self.verify(index, blob);
    }

    fn verify(&self, index: usize, blob: &Digest) {
        held(&self.verified).insert((blob.clone(), self.plans[index].diff_id.clone()));
    }

    fn is_verified(&self, index: usize, blob: &Digest) -> bool {
        held(&self.verified).contains(&(blob.clone(), self.plans[index].diff_id.clone()))
    }

    /// What its manifests have for a layer.
    pub(crate) fn blobs_of(&self, index: usize) -> impl Iterator<Item = &Descriptor> {
        self.blobs.iter().filter_map(move |blobs| blobs.get(index))
    }

    /// Says which index its manifest was chosen from, digest verified by the caller: it is stored with the image.
    #[must_use]
    pub fn chosen_from(mut self, index: Document) -> Self {
        if let Some(origin) = self.origins.last_mut() {
            origin.index = Some(index.descriptor());
            self.take(index.raw);
        }
        self
    }

    /// Adds what the index says about it, digests verified by the caller: it is stored with the image.
    #[must_use]
    pub fn attested_by(mut self, attached: Vec<Document>) -> Self {
        for document in attached {
            if let Some(origin) = self.origins.last_mut() {
                origin.attached.push(document.descriptor());
                self.take(document.raw);
            }
        }
        self
    }

    /// That a manifest of so many layers is one of this image.
    pub(crate) fn check_layers(&self, named: usize) -> Result<()> {
        check_layers(&self.config, named)
    }

    /// Adds one way in which it comes.
    pub(crate) fn came_as(&mut self, found: Found) {
        self.origins.push(found.origin);
        self.blobs.push(found.layers);
        found.documents.into_iter().for_each(|document| self.take(document));
    }

    fn take(&mut self, document: Vec<u8>) {
        self.awaited.add(digest_of(&document));
        self.came.push(document);
    }

    /// How many layers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether it has no layers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Whether layer `index` (0 is the lowest) is there already, so that its blob need not be fetched. A quick look is
    /// taken at it: one that lacks a part, or was found damaged before, is not there.
    #[must_use]
    pub fn is_present(&self, index: usize) -> bool {
        self.plans.get(index).is_some_and(|plan| {
            self.graph.look_at(&plan.chain_id);
            self.graph.inner.layers.is_filled(&plan.chain_id)
        })
    }

    /// Unpacks layer `index` from its blob (compressed or not, told by its first bytes), verifies its diff id, and
    /// reads `blob` to its end so that whoever hashes it has seen all of it.
    ///
    /// Blocking; call it from several threads at once. Where [`Graph::unpacks_in_parallel`] is false, call it in order.
    /// While another registration unpacks the same layer this one waits, until [`Graph::leave`], and takes the layer if that succeeds.
    ///
    /// # Errors
    /// [`Error::Stream`] when `blob` fails (it may be tried again), [`Error::Digest`] or a driver's
    /// [`gantry_graphdriver::Error::Archive`] when the layer is not what it must be. Nothing of it is left.
    pub fn unpack(&self, index: usize, blob: &mut dyn Read) -> Result<Unpacked> {
        let plan = self.plans.get(index).ok_or_else(|| {
            Error::invalid(format!("layer {index}"), format!("image {} has {}", self.id.short(), self.plans.len()))
        })?;
        let unpacked = self.graph.inner.layers.unpack(plan, blob, &self.graph.left)?;
        if let (Some(_), Some(_), Some(blob)) = (unpacked, &self.seen, self.blobs_of(index).last()) {
            self.verify(index, &blob.digest);
        }
        if unpacked.is_some() && !self.graph.unpacks_in_parallel() {
            self.graph.inner.layers.commit(std::slice::from_ref(plan), &self.graph.left)?;
        }
        Ok(unpacked.map_or(Unpacked::Shared, Unpacked::Fresh))
    }

    /// The chain id of layer `index`.
    pub(crate) fn chain(&self, index: usize) -> &Digest {
        &self.plans[index].chain_id
    }

    /// Takes the draft `id` of the driver for layer `index`; false where the layer is there by now.
    pub(crate) fn settle(&self, index: usize, id: &str, extent: Extent, diff_id: &Digest) -> Result<bool> {
        let plan = &self.plans[index];
        if plan.diff_id != *diff_id {
            let (wanted, found) = (plan.diff_id.clone(), diff_id.clone());
            return Err(Error::Digest { what: "uncompressed layer", wanted, found });
        }
        self.graph.inner.layers.settle(plan, id, extent, &self.graph.left)
    }

    /// Makes the layers below layer `index` layers; they must be unpacked.
    pub(crate) fn commit_below(&self, index: usize) -> Result<()> {
        self.graph.inner.layers.commit(&self.plans[..index], &self.graph.left).map(drop)
    }

    /// Makes the image visible with these names (tags, and `name@digest` as pulled), on disk, in one step. Every layer
    /// must be unpacked or present. A name that another image had is taken from it.
    ///
    /// # Errors
    /// [`Error::Conflict`] when a layer was not unpacked; the database's and the driver's. Then the image is not there.
    pub fn commit(self, names: &[Reference]) -> Result<Arc<Image>> {
        let committed = self.make_visible(names);
        if committed.is_err() {
            // The first error is the one that matters; the next start deletes what this cannot.
            if let Err(error) = self.graph.discard_documents(&self.graph.change()) {
                tracing::warn!(%error, "documents that no image names stay until the next start");
            }
        }
        committed
    }

    fn make_visible(&self, names: &[Reference]) -> Result<Arc<Image>> {
        let inner = &self.graph.inner;
        let suspect = self.plans.iter().filter(|plan| inner.layers.suspicion(&plan.chain_id).is_some());
        let suspect: Vec<_> = suspect.map(|plan| &plan.chain_id).collect();
        inner.layers.commit(&self.plans, &self.graph.left)?;
        self.put_documents()?;
        let change = self.graph.change();
        // A removal of the same image may have come between.
        self.put_documents()?;
        let layers = inner.layers.commit(&self.plans, &self.graph.left)?.into_iter().enumerate();
        let layers: Vec<_> = layers.map(|(index, layer)| self.with_blobs(index, layer)).collect();
        let mut images = (*self.graph.images()).clone();
        let known = images.get(&self.id);
        let names: Vec<Reference> = names.iter().map(canonical).collect();
        let before = images.origins(&self.id).to_vec();
        let has = images.names(&self.id);
        let image = Arc::new(Image {
            id: self.id.clone(),
            config: self.config.clone(),
            raw: self.raw.clone().into(),
            origins: merged(&before, &self.origins, &has.iter().chain(&names).collect::<Vec<_>>()),
            parent: self.parent.clone().or_else(|| known.and_then(|known| known.parent.clone())),
            last_tagged: if names.is_empty() { known.map_or(0, |known| known.last_tagged) } else { now() },
            layers,
        });
        inner.db.write(Durability::Disk, |db| {
            image.layers.iter().try_for_each(|layer| records::put_layer(db, layer))?;
            records::put_image(db, &image)?;
            db.purge(&records::unplaced_id(&image.id))?;
            let healed = suspect.iter().filter(|chain| inner.layers.suspicion(chain).is_none());
            healed.into_iter().try_for_each(|chain| db.purge(&records::suspect_id(chain)).map(drop))?;
            names.iter().try_for_each(|name| db.replace(&records::name_path(name), image.id.as_str()).map(drop))
        })?;
        image.layers.iter().for_each(|layer| inner.layers.enter(Arc::clone(layer)));
        images.insert(Arc::clone(&image));
        for name in names {
            images.name(name, image.id.clone());
        }
        self.graph.publish(&change, images);
        self.graph.drop_documents(documents(&before));
        Ok(image)
    }

    /// Stores what is not there yet.
    fn put_documents(&self) -> Result<()> {
        self.graph.inner.content.put_all(std::iter::once(&self.raw).chain(&self.came))
    }

    /// The layer, with the blobs that this image's manifests know it by.
    fn with_blobs(&self, index: usize, mut layer: Arc<Layer>) -> Arc<Layer> {
        let diff_id = &self.plans[index].diff_id;
        for descriptor in self.blobs_of(index).filter(|descriptor| descriptor.digest != *diff_id) {
            let verified = self.is_verified(index, &descriptor.digest);
            let kept = verified && self.graph.content().exists(&descriptor.digest);
            let seen = self.seen.iter().cloned().collect();
            let blob = Blob { seen, verified, kept, ..Blob::new(descriptor.clone()) };
            blob.add_to(&mut Arc::make_mut(&mut layer).blobs);
        }
        layer
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.chains.iter().rev().for_each(|chain| self.graph.inner.layers.unpin(chain));
        // Layers that were committed for an image that then was not, or whose image was removed meanwhile.
        let change = self.graph.change();
        if let Err(error) = self.graph.collect(&change) {
            tracing::warn!(%error, "layers that no image needs stay until the next start");
        }
    }
}
