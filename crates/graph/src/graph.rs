//! The image store: what images and names there are, read from memory and changed one transaction at a time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_graphdriver::{Change, GraphDriver};
use gantry_linux::mount::RootMount;

use crate::{Content, Descriptor, GraphDb, Image, Result};

/// Images, their layers and the writable layers of containers. A handle: clones are the same store.
#[derive(Clone)]
pub struct Graph {
    inner: Arc<Inner>,
}

/// All images and names at one moment; immutable.
#[derive(Debug, Clone, Default)]
pub struct Images {
    by_id: BTreeMap<Digest, Arc<Image>>,
    names: BTreeMap<String, Digest>,
}

/// One step of a removal: what `docker rmi` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name went.
    Untagged(String),
    /// An image (`sha256:…`) went.
    Deleted(Digest),
}

/// A container that uses an image, as the engine knows it.
#[derive(Debug, Clone)]
pub struct Use {
    /// The image.
    pub image: Digest,
    /// The container's id.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

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

impl Graph {
    /// Opens the store in the data root, and removes what a dead daemon left half made.
    pub fn open(root: &Path, driver: Arc<dyn GraphDriver>) -> Result<Self> { Err(soon()) }
    /// The database, for the engine's own entities.
    pub fn db(&self) -> &GraphDb { &self.inner.db }
    /// Manifests and configurations by digest.
    pub fn content(&self) -> &Content { &self.inner.content }
    /// The graphdriver.
    pub fn driver(&self) -> &Arc<dyn GraphDriver> { &self.inner.driver }
    /// Everything that is there now. Never waits for the disk or a lock.
    pub fn images(&self) -> Arc<Images> { Arc::default() }
    /// An image by name, digest, `name@digest`, id or the beginning of one.
    pub fn image(&self, name: &str) -> Result<Arc<Image>> { Err(soon()) }
    /// Gives an image a name (tag `latest` when it has none); returns the image that had it before.
    pub fn tag(&self, name: &Reference, id: &Digest) -> Result<Option<Digest>> { Err(soon()) }
    /// `docker rmi`: Docker's rules about names, force and use.
    pub fn remove_image(&self, name: &str, force: bool, users: &[Use]) -> Result<Vec<Removed>> { Err(soon()) }
    /// Starts the registration of an image that is being pulled. `config` is verified by the caller.
    pub fn register(&self, config: Vec<u8>, manifest: Option<Manifest>) -> Result<Registration> { Err(soon()) }
    /// Whether layers of one registration may be unpacked in any order and at once.
    pub fn unpacks_in_parallel(&self) -> bool { false }
    /// Makes an image of one archive (compressed or not).
    pub fn import(&self, archive: &mut dyn Read, import: Import) -> Result<Arc<Image>> { Err(soon()) }
    /// Makes the writable layer of a container on an image.
    pub fn create_container_layer(&self, container: &str, image: &Digest) -> Result<()> { Err(soon()) }
    /// How to mount a container's root.
    pub fn container_root(&self, container: &str, read_only: bool) -> Result<RootMount> { Err(soon()) }
    /// How to mount an image's root, read-only (volume copy-up, `cp` from images).
    pub fn image_root(&self, id: &Digest) -> Result<RootMount> { Err(soon()) }
    /// What the container changed.
    pub fn container_changes(&self, container: &str) -> Result<Vec<Change>> { Err(soon()) }
    /// Writes what the container changed, as a layer archive.
    pub fn container_diff(&self, container: &str, archive: &mut dyn Write) -> Result<()> { Err(soon()) }
    /// Bytes of the container's own layer, and of its whole root.
    pub fn container_size(&self, container: &str) -> Result<(u64, u64)> { Err(soon()) }
    /// Removes the writable layer: gone at once, its space with the next [`Graph::sweep`]. None there is no error.
    pub fn remove_container_layer(&self, container: &str) -> Result<()> { Err(soon()) }
    /// The containers that have a writable layer.
    pub fn container_layers(&self) -> Vec<String> { Vec::new() }
    /// Deletes what was removed. Slow: call it from a background thread after removals.
    pub fn sweep(&self) -> Result<()> { Err(soon()) }
}

impl Images {
    /// Every image, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Image>> { self.by_id.values() }
    /// An image by its id.
    pub fn get(&self, id: &Digest) -> Option<&Arc<Image>> { self.by_id.get(id) }
    /// The names of an image: tags (`docker.io/library/debian:12`) and repo digests (`…@sha256:…`), canonical.
    pub fn names(&self, id: &Digest) -> Vec<Reference> { Vec::new() }
    /// An image by name, digest, `name@digest`, id or the beginning of one.
    pub fn resolve(&self, name: &str) -> Result<&Arc<Image>> { Err(soon()) }
}

/// What `import` makes beside the layer.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The name to give, if any.
    pub name: Option<Reference>,
    /// The configuration, with the changes (`-c`) applied.
    pub config: gantry_api::container::Config,
    /// The platform; empty means this machine's.
    pub architecture: String,
    /// Now, as RFC 3339.
    pub created: String,
    /// The comment of the history.
    pub message: String,
}

/// An image on its way in. Dropped without [`Registration::commit`], it leaves nothing that no image has.
pub struct Registration { graph: Graph }

/// How a layer came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpacked {
    /// It was unpacked now: its bytes of content.
    Fresh(u64),
    /// It was there, or another registration made it meanwhile; the reader was not read to its end.
    Shared,
}

impl Registration {
    /// The image's id.
    pub fn id(&self) -> &Digest { unreachable!() }
    /// What the configuration says.
    pub fn config(&self) -> &crate::ImageConfig { unreachable!() }
    /// How many layers.
    pub fn len(&self) -> usize { 0 }
    /// Whether layer `index` (0 is the lowest) is there already, so that its blob need not be fetched.
    pub fn is_present(&self, index: usize) -> bool { false }
    /// Unpacks layer `index` from its blob (gzip, zstd or plain, by its magic bytes), verifies its diff id, and reads
    /// `blob` to its end so that whoever hashes it has seen all. Blocking; call it from several threads at once. Where
    /// [`Graph::unpacks_in_parallel`] is false, in order. Waits for another registration that unpacks the same layer.
    pub fn unpack(&self, index: usize, blob: &mut dyn Read) -> Result<Unpacked> { Err(soon()) }
    /// Makes the image visible with these names, on disk, in one step. Every layer must be unpacked or present.
    pub fn commit(self, names: &[Reference]) -> Result<Arc<Image>> { Err(soon()) }
}

fn soon() -> crate::Error { crate::Error::Conflict("not written yet".to_owned()) }
struct Inner { db: GraphDb, content: Content, driver: Arc<dyn GraphDriver> }
