//! The pull-through cache: registries elsewhere, kept here as far as they were asked for.
//!
//! What is of an upstream has its name in front: `docker.io/library/alpine`. It lies in a directory of its own, beside
//! what was pushed here, and nothing can be pushed to it. Who asks while it comes reads along; what upstream cannot be
//! asked for now is served as it is here.

mod answer;
mod blobs;
mod fetch;
mod lists;
mod manifests;
mod place;
mod settings;
mod shelf;
mod turns;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use settings::{Address, CacheSettings, ProxySettings, Upstream};

pub(super) use answer::{answer, mirror};

use self::fetch::Fetches;
use self::place::Place;
use self::shelf::Shelf;
use self::turns::Turns;
use super::metrics::CacheMetrics;
use super::{Failure, Manifest, Name};

/// Docker Hub.
const HUB: &str = "docker.io";

/// A cache that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A setting of an upstream.
    #[error("{0}")]
    Settings(String),
    /// Its directory.
    #[error("open the cache: {0}")]
    Store(#[from] super::StoreError),
}

/// The cache of all upstreams.
pub struct Cache {
    places: Vec<Arc<Place>>,
    shelf: Arc<Shelf>,
    fetches: Arc<Fetches>,
    /// One question about a tag at a time; who waited finds the answer.
    turns: Turns<(Name, String)>,
    age: Duration,
    mirror: bool,
    metrics: CacheMetrics,
}

/// Something of an upstream, and what is to be said about it.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// It.
    pub value: T,
    /// Why it may be old.
    pub warning: Option<String>,
}

impl Cache {
    /// Opens or makes it below `root`; none without upstreams.
    ///
    /// # Errors
    /// Settings that do not go together, a directory that cannot be used.
    pub async fn open(
        proxies: &[ProxySettings],
        settings: &CacheSettings,
        root: &Path,
        metrics: CacheMetrics,
    ) -> Result<Option<Self>, CacheError> {
        if proxies.is_empty() {
            return Ok(None);
        }
        let place = |proxy| Place::open(proxy, settings).map(Arc::new).map_err(CacheError::Settings);
        Ok(Some(Self {
            places: proxies.iter().map(place).collect::<Result<_, _>>()?,
            shelf: Arc::new(Shelf::open(root, settings.size.0, metrics.clone()).await?),
            fetches: Arc::default(),
            turns: Turns::default(),
            age: settings.age.0,
            mirror: settings.mirror,
            metrics,
        }))
    }

    /// The repository here that is meant, where it is called otherwise: by containerd, which asks a mirror for what `name` is
    /// at the registry `namespace`, and by those who leave out Docker Hub's `library`.
    #[must_use]
    pub fn meant(&self, name: &Name, namespace: Option<&str>) -> Option<Name> {
        if let Some(namespace) = namespace.filter(|_| !self.owns(name)) {
            return self.named(name, namespace);
        }
        let short = self.place(name).filter(|place| place.name == HUB).and_then(|_| name.as_str().split_once('/'))?.1;
        if short.contains('/') { None } else { format!("{HUB}/library/{short}").parse().ok() }
    }

    fn named(&self, name: &Name, namespace: &str) -> Option<Name> {
        self.places.iter().find(|place| place.name == namespace)?;
        let short = if namespace == HUB && !name.as_str().contains('/') { "library/" } else { "" };
        format!("{namespace}/{short}{name}").parse().ok()
    }

    /// Whether it is of an upstream: nothing is pushed there.
    #[must_use]
    pub fn owns(&self, name: &Name) -> bool {
        self.place(name).is_some()
    }

    /// What a name without a registry is at Docker Hub, when that is cached and asked for so.
    #[must_use]
    pub fn mirrored(&self, name: &Name) -> Option<Name> {
        if !self.mirror || self.owns(name) {
            return None;
        }
        self.named(name, HUB)
    }

    fn place(&self, name: &Name) -> Option<&Arc<Place>> {
        let (first, rest) = name.as_str().split_once('/')?;
        self.places.iter().find(|place| place.name == first && !rest.is_empty())
    }

    fn known(&self, name: &Name) -> Result<&Arc<Place>, Failure> {
        let unknown =
            || Failure::new(super::Code::NameUnknown, format!("{name} is of no registry that is cached here"));
        self.place(name).ok_or_else(unknown)
    }
}

/// The manifests' limit, upstream's as well as ours.
const MANIFEST_LIMIT: usize = 4 << 20;

/// A manifest with its warning.
pub type FoundManifest = Found<Manifest>;
