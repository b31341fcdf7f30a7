//! Images in the engine's hands: finding them, and the bridge between the registry's pull and the graph.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gantry_api::ErrorKind;
use gantry_api::platform::Platform;
use gantry_api::progress::Progress;
use gantry_api::reference::{Digest, Reference};
use gantry_graph::{Descriptor, Document, Graph, Image, Manifest, Registration, Use};
use gantry_registry::{BlobReader, ImageDraft, ImageSink, NewImage, SinkError, Unpacked};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::Options;

/// Pulls that are under way, by name and platform: a second caller follows the first one's.
#[derive(Default)]
pub struct Pulls(pub(crate) Mutex<HashMap<String, Arc<Broadcast>>>);

/// The messages of one pull, for everybody who waits for it.
pub struct Broadcast {
    messages: Mutex<Vec<Progress>>,
    failure: OnceLock<Error>,
    length: watch::Sender<(usize, bool)>,
}

impl Broadcast {
    pub(crate) fn new() -> Self {
        Self { messages: Mutex::default(), failure: OnceLock::new(), length: watch::Sender::new((0, false)) }
    }

    pub(crate) fn push(&self, message: Progress) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(message);
        self.length.send_modify(|state| state.0 = messages.len());
    }

    /// The end, after what came of the pull.
    pub(crate) fn end(&self, result: Result<()>) {
        if let Err(error) = result {
            self.failure.get_or_init(|| error);
        }
        self.length.send_modify(|state| state.1 = true);
    }

    /// Why it failed, once it has ended.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Whether anybody follows.
    pub(crate) fn is_followed(&self) -> bool {
        self.length.receiver_count() > 0
    }

    pub(crate) async fn unfollowed(&self) {
        self.length.closed().await;
    }

    pub(crate) fn follow(&self) -> watch::Receiver<(usize, bool)> {
        self.length.subscribe()
    }

    /// Messages from number `from` on.
    pub(crate) fn since(&self, from: usize) -> Vec<Progress> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.get(from..).unwrap_or_default().to_vec()
    }
}

/// An image by what a caller typed, with Docker's words when there is none.
///
/// # Errors
/// `No such image: x`.
pub fn find(engine: &Engine, name: &str) -> Result<Arc<Image>> {
    engine.graph.image(name).map_err(|error| match error {
        gantry_graph::Error::NoSuchImage(_) => match Reference::parse(name) {
            Ok(reference) => Error::not_found(format!("No such image: {}", reference.with_default_tag().familiar())),
            // An id that is not there is a name that cannot be.
            Err(_) if name.trim_start_matches("sha256:").bytes().all(|b| b.is_ascii_hexdigit()) => {
                Error::not_found(format!("No such image: {name}"))
            }
            Err(error) => error.into(),
        },
        other => other.into(),
    })
}

/// That an image is for the platform `os/architecture[/variant]`; any is right where it is empty.
///
/// # Errors
/// Docker's sentence: there is the image, but for another machine.
pub fn check_platform(image: &Image, name: &str, wanted: &str) -> Result<()> {
    let config = &image.config;
    let parts: Vec<&str> = wanted.split('/').collect();
    let has = [config.os.as_str(), config.architecture.as_str(), config.variant.as_str()];
    if wanted.is_empty() || parts.len() <= has.len() && parts.iter().zip(has).all(|(wanted, has)| *wanted == has) {
        return Ok(());
    }
    let [os, architecture, variant] = has.map(str::to_owned);
    let platform = wanted.parse::<Platform>().map_err(Error::invalid)?;
    if platform.distance(&Platform { os, architecture, variant }) == Some(0) {
        return Ok(());
    }
    let found: Vec<&str> = has.into_iter().filter(|part| !part.is_empty()).collect();
    let found = found.join("/");
    Err(Error::not_found(format!(
        "image with reference {name} was found but its platform ({found}) does not match the specified platform ({wanted})"
    )))
}

/// What `inspect` tells of the graphdriver: its name, and where a layer lies, as far as that could be read.
pub fn graph_driver(
    engine: &Engine,
    places: gantry_graph::Result<Vec<(&'static str, String)>>,
) -> gantry_api::inspect::GraphDriverData {
    let places = places.unwrap_or_else(|error| {
        match error.kind() {
            // What is being removed, or made.
            ErrorKind::NotFound | ErrorKind::Conflict => {
                tracing::debug!(%error, "inspect does not tell where a layer lies");
            }
            _ => tracing::warn!(%error, "inspect does not tell where a layer lies"),
        }
        Vec::new()
    });
    let data = places.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    gantry_api::inspect::GraphDriverData {
        data: Some(data).filter(|data: &std::collections::BTreeMap<_, _>| !data.is_empty()),
        name: engine.drivers.graph.name().into(),
    }
}

/// The name for a new image, `latest` where no tag is given; none where the repository is empty.
///
/// # Errors
/// What is no name or no tag, or would be read as a digest.
pub fn new_name(repository: &str, tag: &str) -> Result<Option<Reference>> {
    if repository.is_empty() {
        return Ok(None);
    }
    let name = Reference::parse(repository)?;
    if name.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    if name.familiar_repository() == "sha256" {
        return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
    }
    Ok(Some(if tag.is_empty() { name.with_default_tag() } else { name.with_tag(tag)? }))
}

/// Which containers use which image.
pub fn users(engine: &Engine) -> Vec<Use> {
    let elsewhere = engine.graph.container_layers_elsewhere().unwrap_or_else(|error| {
        tracing::warn!(%error, "every container counts as one of this graphdriver's");
        HashSet::new()
    });
    let records = engine.containers.all();
    let uses = records.iter().filter_map(|container| {
        let record = container.record();
        if elsewhere.contains(&record.id) {
            return None;
        }
        let image = record.image_id.parse().ok()?;
        Some(Use { image, container: record.id.clone(), running: record.state.has_processes() })
    });
    uses.collect()
}

/// Where what has come of images that are not there yet is kept.
pub fn downloads(options: &Options) -> PathBuf {
    options.data_root.join("parts")
}

/// What that takes of the disk.
///
/// # Errors
/// The disk's.
pub fn downloads_disk_use(engine: &Engine) -> Result<u64> {
    let directory = downloads(&engine.options);
    if gantry_linux::fs::symlink_metadata(&directory).is_err_and(|error| error.is_not_found()) {
        return Ok(0);
    }
    Ok(gantry_graphdriver::disk_use(&directory)?)
}

/// What the daemon was told about registries.
///
/// # Errors
/// A setting that cannot be.
pub fn registry_options(options: &Options) -> Result<gantry_registry::Options> {
    let parsed = gantry_registry::Options::parse(&options.insecure_registries, &options.registry_mirrors)
        .map_err(|error| Error::invalid(error.to_string()))?;
    let proxies = gantry_registry::Proxies {
        http: options.http_proxy.clone(),
        https: options.https_proxy.clone(),
        no_proxy: options.no_proxy.clone(),
    };
    proxies.check()?;
    Ok(parsed.parts(downloads(options)).registries(options.registries.clone()).proxies(proxies))
}

impl From<gantry_registry::Error> for Error {
    fn from(error: gantry_registry::Error) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

/// The graph as the registry sees it.
pub struct GraphSink {
    graph: Graph,
    /// Compressed layers are kept beside the unpacked ones.
    keeps_blobs: bool,
}

impl GraphSink {
    /// That of an engine.
    pub fn of(engine: &Engine) -> Self {
        Self { graph: engine.graph.clone(), keeps_blobs: engine.options.keep_compressed_layers }
    }
}

impl ImageSink for GraphSink {
    fn begin(&self, image: NewImage) -> std::result::Result<Arc<dyn ImageDraft>, SinkError> {
        let mut names = vec![image.reference.with_digest(image.digest.clone())];
        let tagged = image.reference.tag().map(|tag| image.reference.with_tag(tag)).transpose()?;
        let tag = tagged.filter(|_| image.reference.digest().is_none());
        names.extend(tag.clone());
        let known = self.graph.images().get(&image.id).is_some();
        let before = tag.as_ref().and_then(|tag| self.graph.image(&tag.to_string()).ok()).map(|held| held.id.clone());
        let descriptor = |layer: &gantry_registry::Descriptor| Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
        };
        let manifest = Manifest {
            raw: image.manifest.raw,
            media_type: image.manifest.descriptor.media_type.clone(),
            layers: image.layers.iter().map(descriptor).collect(),
        };
        let graph = self.graph.leavable();
        let mut registration = graph.register(image.config, Some(manifest))?.seen_in(&image.reference.repository());
        if let Some(index) = image.index {
            registration = registration.chosen_from(document(index));
        }
        // A damaged layer makes the image one that is to be brought.
        let present = known && (0..registration.len()).all(|index| registration.is_present(index));
        let changed = !present || (tag.is_some() && before.as_ref() != Some(registration.id()));
        let registration = Mutex::new(Some(Arc::new(registration)));
        Ok(Arc::new(Draft {
            graph,
            keeps_blobs: self.keeps_blobs,
            registration,
            blobs: image.layers.into_iter().map(|layer| layer.digest).collect(),
            attached: Mutex::default(),
            names,
            changed,
            present,
        }))
    }

    fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.graph.content().read(digest).ok()
    }
}

fn document(document: gantry_registry::Document) -> Document {
    Document { media_type: document.descriptor.media_type, raw: document.raw }
}

struct Draft {
    graph: Graph,
    keeps_blobs: bool,
    /// The digests of the compressed layers.
    blobs: Vec<Digest>,
    registration: Mutex<Option<Arc<Registration>>>,
    /// What its index says about it.
    attached: Mutex<Vec<Document>>,
    names: Vec<Reference>,
    changed: bool,
    present: bool,
}

impl Draft {
    fn registration(&self) -> std::result::Result<Arc<Registration>, SinkError> {
        let held = self.registration.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.ok_or_else(|| "the image was committed already".into())
    }
}

impl ImageDraft for Draft {
    fn is_complete(&self) -> bool {
        self.present
    }

    fn is_present(&self, index: usize) -> bool {
        self.registration().is_ok_and(|registration| registration.is_present(index))
    }

    fn unpacks_in_parallel(&self) -> bool {
        self.graph.unpacks_in_parallel()
    }

    fn unpack(&self, index: usize, blob: &mut BlobReader) -> std::result::Result<Unpacked, SinkError> {
        Ok(match self.registration()?.unpack(index, blob)? {
            gantry_graph::Unpacked::Fresh(_) => Unpacked::Fresh,
            gantry_graph::Unpacked::Shared => Unpacked::Shared,
        })
    }

    fn keeps_blobs(&self) -> bool {
        self.keeps_blobs
    }

    fn keep_blob(&self, index: usize, blob: &Path) -> std::result::Result<(), SinkError> {
        Ok(self.registration()?.keep_pulled_blob(index, &self.blobs[index], blob)?)
    }

    fn leave(&self) {
        self.graph.leave();
    }

    fn attach(&self, documents: Vec<gantry_registry::Document>) {
        let attached = documents.into_iter().map(document);
        self.attached.lock().unwrap_or_else(PoisonError::into_inner).extend(attached);
    }

    fn commit(self: Arc<Self>) -> std::result::Result<bool, SinkError> {
        let registration = self.registration.lock().unwrap_or_else(PoisonError::into_inner).take();
        let registration = registration.ok_or("the image was committed already")?;
        let registration = Arc::into_inner(registration).ok_or("a layer is still being unpacked")?;
        let attached = std::mem::take(&mut *self.attached.lock().unwrap_or_else(PoisonError::into_inner));
        registration.attested_by(attached).commit(&self.names)?;
        Ok(self.changed)
    }
}
