//! A store in memory, and a pull into it with everything that it said.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gantry_api::progress::Progress;
use gantry_api::reference::Digest;
use gantry_api::system::AuthConfig;
use gantry_registry::{
    BlobReader, Document, Error, ImageDraft, ImageSink, NewImage, Options, Platform, Pull, Pulled, Registry, SinkError,
    Unpacked,
};
use tokio_util::sync::CancellationToken;

use crate::image::digest;

/// What a store has, and what it was asked.
#[derive(Default)]
pub struct Store {
    pub in_order: bool,
    /// Layers by the digest of their blob.
    pub layers: Mutex<HashMap<Digest, Vec<u8>>>,
    pub images: Mutex<Vec<NewImage>>,
    /// What came with them.
    pub attached: Mutex<Vec<Document>>,
    /// Drafts that are neither committed nor dropped.
    pub drafts: AtomicUsize,
    pub order: Mutex<Vec<usize>>,
    pub names: Mutex<BTreeMap<String, Digest>>,
    /// Compressed blobs are wanted, too, and here they are by layer.
    pub keeps_blobs: bool,
    pub blobs: Mutex<HashMap<usize, Vec<u8>>>,
    /// Somebody else has brought this layer when it is asked for.
    pub shared: Option<usize>,
    /// Somebody else is at work on every layer until the pull has left: it waits here.
    pub others: Option<Arc<Others>>,
    /// The archive of this layer is refused.
    pub refuse: Option<usize>,
    /// So is one that begins with zeros.
    pub refuse_zeros: bool,
}

/// Whoever waits for others.
#[derive(Default)]
pub struct Others {
    pub waiting: AtomicUsize,
    left: Mutex<bool>,
    changed: Condvar,
}

impl Others {
    fn wait(&self) -> SinkError {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let left = self.left.lock().unwrap();
        drop(self.changed.wait_while(left, |left| !*left).unwrap());
        "the pull has left".into()
    }
}

pub struct Sink(pub Arc<Store>);

struct Draft {
    store: Arc<Store>,
    image: NewImage,
    made: Mutex<HashMap<Digest, Vec<u8>>>,
    attached: Mutex<Vec<Document>>,
}

impl ImageSink for Sink {
    fn begin(&self, image: NewImage) -> Result<Arc<dyn ImageDraft>, SinkError> {
        self.0.drafts.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Draft { store: self.0.clone(), image, made: Mutex::default(), attached: Mutex::default() }))
    }

    fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let attached = self.0.attached.lock().unwrap();
        attached.iter().find(|document| document.descriptor.digest == *digest).map(|document| document.raw.clone())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.store.drafts.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ImageDraft for Draft {
    fn is_complete(&self) -> bool {
        self.store.images.lock().unwrap().iter().any(|image| image.id == self.image.id)
    }

    fn is_present(&self, index: usize) -> bool {
        self.store.layers.lock().unwrap().contains_key(&self.image.layers[index].digest)
    }

    fn unpacks_in_parallel(&self) -> bool {
        !self.store.in_order
    }

    fn unpack(&self, index: usize, blob: &mut BlobReader) -> Result<Unpacked, SinkError> {
        if self.store.refuse == Some(index) {
            blob.read_exact(&mut [0; 10])?;
            return Err("the archive is hostile".into());
        }
        if self.store.shared == Some(index) {
            return Ok(Unpacked::Shared);
        }
        if let Some(others) = &self.store.others {
            return Err(others.wait());
        }
        let mut bytes = vec![0; 100];
        blob.read_exact(&mut bytes)?;
        if self.store.refuse_zeros && bytes.iter().all(|byte| *byte == 0) {
            return Err("the archive is nothing but zeros".into());
        }
        blob.read_to_end(&mut bytes)?;
        self.store.order.lock().unwrap().push(index);
        self.made.lock().unwrap().insert(self.image.layers[index].digest.clone(), bytes);
        Ok(Unpacked::Fresh)
    }

    fn keeps_blobs(&self) -> bool {
        self.store.keeps_blobs
    }

    fn keep_blob(&self, index: usize, blob: &Path) -> Result<(), SinkError> {
        self.store.blobs.lock().unwrap().insert(index, std::fs::read(blob)?);
        Ok(std::fs::remove_file(blob)?)
    }

    fn leave(&self) {
        if let Some(others) = &self.store.others {
            *others.left.lock().unwrap() = true;
            others.changed.notify_all();
        }
    }

    fn attach(&self, documents: Vec<Document>) {
        self.attached.lock().unwrap().extend(documents);
    }

    fn commit(self: Arc<Self>) -> Result<bool, SinkError> {
        let draft = Arc::into_inner(self).ok_or("somebody still holds the draft")?;
        let made = std::mem::take(&mut *draft.made.lock().unwrap());
        draft.store.attached.lock().unwrap().append(&mut draft.attached.lock().unwrap());
        draft.store.layers.lock().unwrap().extend(made);
        draft.store.images.lock().unwrap().push(draft.image.clone());
        let name = draft.image.reference.to_string();
        Ok(draft.store.names.lock().unwrap().insert(name, draft.image.id.clone()) != Some(draft.image.id.clone()))
    }
}

/// What a pull did.
pub struct Outcome {
    pub result: Result<Pulled, Error>,
    pub progress: Vec<Progress>,
    pub store: Arc<Store>,
}

impl Outcome {
    pub fn error(&self) -> String {
        assert_eq!(self.store.drafts.load(Ordering::SeqCst), 0, "a draft is left");
        assert!(self.store.images.lock().unwrap().is_empty(), "something was committed");
        self.result.as_ref().unwrap_err().to_string()
    }

    pub fn states(&self, id: &str) -> Vec<String> {
        let mut states: Vec<_> =
            self.progress.iter().filter(|p| p.id.as_deref() == Some(id)).map(|p| p.status.clone()).collect();
        states.dedup();
        states
    }
}

/// A pull, with what tests change about it.
#[derive(Default)]
pub struct Request {
    pub platform: Option<&'static str>,
    pub auth: Option<AuthConfig>,
    pub store: Arc<Store>,
    pub cancel: CancellationToken,
    pub mirrors: Vec<String>,
    /// `registries` of `daemon.json`.
    pub registries: Option<serde_json::Value>,
    pub every_tag: bool,
    pub registry: Option<Registry>,
    /// Where unfinished downloads are; a directory of its own where none is given.
    pub parts: Option<std::path::PathBuf>,
    /// From so many bytes on a blob comes in several ranges.
    pub large: Option<u64>,
    /// What it says, as it says it.
    pub progress: Arc<Mutex<Vec<Progress>>>,
    /// The longest silence that is borne.
    pub silence: Option<Duration>,
}

impl Request {
    /// The client that it asks for.
    pub fn registry(&self) -> Registry {
        let options = Options::parse(&[], &self.mirrors).unwrap().retry_pause(Duration::from_millis(5));
        let options = options
            .large_blobs(self.large.unwrap_or(1 << 30))
            .longest_silence(self.silence.unwrap_or(Duration::from_secs(20)));
        let registries = self.registries.clone().unwrap_or_else(|| serde_json::json!([]));
        let options = options.registries(serde_json::from_value(registries).unwrap());
        Registry::new(match &self.parts {
            Some(parts) => options.parts(parts),
            None => options,
        })
    }

    pub async fn pull(mut self, name: &str) -> Outcome {
        let own = self.parts.is_none().then(|| tempfile::tempdir().unwrap());
        self.parts = self.parts.or_else(|| Some(own.as_ref()?.path().to_owned()));
        let registry = self.registry.clone().unwrap_or_else(|| self.registry());
        let pull = Pull {
            reference: name.parse().unwrap(),
            platform: Some(self.platform.unwrap_or("linux/amd64").parse::<Platform>().unwrap()),
            auth: self.auth,
        };
        let progress = self.progress;
        let told = progress.clone();
        let report = Arc::new(move |message| told.lock().unwrap().push(message));
        let sink = Arc::new(Sink(self.store.clone()));
        let nothing = || Pulled { id: digest(b""), digest: digest(b""), changed: false };
        let pulling = async {
            match self.every_tag {
                true => registry.pull_all(pull, sink, report, self.cancel).await.map(|()| nothing()),
                false => registry.pull(pull, sink, report, self.cancel).await,
            }
        };
        let result = tokio::time::timeout(Duration::from_secs(30), pulling).await.expect("a pull that ends");
        let progress = progress.lock().unwrap().clone();
        Outcome { result, progress, store: self.store }
    }
}

pub async fn pull(name: &str) -> Outcome {
    Request::default().pull(name).await
}

pub fn login(username: &str, password: &str) -> Option<AuthConfig> {
    Some(AuthConfig { username: username.into(), password: password.into(), ..AuthConfig::default() })
}
