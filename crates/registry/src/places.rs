//! The places that may have an image, in the order in which they are asked: mirrors, then the registry itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gantry_api::progress::Progress;
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use tokio::sync::OnceCell;

use crate::progress::ProgressFn;
use crate::registry::{Registry, Source};
use crate::session::Session;
use crate::{Error, Result};

/// How long a mirror that did not answer is not asked again.
const REST: Duration = Duration::from_secs(60);
/// The longest time that one is left alone because it said so.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// Mirrors that are not asked for a while, and until when.
#[derive(Debug, Default)]
pub struct Resting(Mutex<HashMap<String, Instant>>);

impl Resting {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, source: &Source, error: &Error) {
        let rest = match error {
            Error::Network { .. } => REST,
            Error::Status { status, .. } if status.is_server_error() => REST,
            Error::TooManyRequests { retry_after, .. } => retry_after.unwrap_or(REST).min(LONGEST_REST),
            _ => return,
        };
        self.lock().insert(source.to_string(), Instant::now() + rest);
    }

    fn rests(&self, source: &Source) -> bool {
        let mut resting = self.lock();
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
        resting.contains_key(&source.to_string())
    }
}

/// The places of one pull.
pub struct Places {
    registry: Registry,
    reference: Reference,
    auth: Option<AuthConfig>,
    progress: ProgressFn,
    list: Vec<Place>,
    /// The one that gave the manifest.
    chosen: AtomicUsize,
}

struct Place {
    source: Source,
    session: OnceCell<Arc<Session>>,
}

impl Places {
    pub fn new(
        registry: &Registry,
        reference: &Reference,
        auth: Option<&AuthConfig>,
        progress: &ProgressFn,
    ) -> Result<Self> {
        let mut sources = registry.sources(reference)?;
        let own = sources.pop();
        sources.retain(|mirror| !registry.resting.rests(mirror));
        sources.extend(own);
        Ok(Self {
            registry: registry.clone(),
            reference: reference.clone(),
            auth: auth.cloned(),
            progress: Arc::clone(progress),
            list: sources.into_iter().map(|source| Place { source, session: OnceCell::new() }).collect(),
            chosen: AtomicUsize::new(0),
        })
    }

    /// The one to begin with.
    pub fn chosen(&self) -> usize {
        self.chosen.load(Ordering::Relaxed)
    }

    /// The place that gave the manifest: layers are asked for there first.
    pub fn choose(&self, place: usize) {
        self.chosen.store(place, Ordering::Relaxed);
    }

    pub async fn session(&self, place: usize) -> Result<Arc<Session>> {
        let Place { source, session } = &self.list[place];
        let open = async || {
            let session = self.registry.session(source, &self.reference, self.auth.as_ref()).await?;
            let patient = place + 1 == self.list.len();
            Ok(Arc::new(Session { progress: Some(Arc::clone(&self.progress)), patient, ..session }))
        };
        session.get_or_try_init(open).await.cloned()
    }

    /// The place to ask when `place` failed; the failure itself when there is no other or it would be of no use.
    pub fn after(&self, place: usize, error: Error) -> Result<usize> {
        let Some(next) = self.list.get(place + 1).filter(|_| error.is_of_the_registry()) else { return Err(error) };
        let (from, to) = (&self.list[place].source, &next.source);
        self.registry.resting.note(from, &error);
        tracing::warn!(%error, mirror = %from, next = %to, "a mirror failed, and the next place is asked");
        (self.progress)(Progress::status(format!("Mirror {from} failed: {error}; trying {to}")));
        Ok(place + 1)
    }
}
