//! Pull: from a name to a committed image.

use std::sync::{Arc, Mutex, PoisonError};

use gantry_api::progress::Progress;
use gantry_api::reference::{Digest, Reference};
use gantry_api::system::AuthConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attached::{self, Attached};
use crate::layers::Layers;
use crate::manifest::{Config, Parsed, choose};
use crate::progress::{ProgressFn, pulling};
use crate::registry::{Registry, Source};
use crate::session::Session;
use crate::sink::{Document, ImageDraft, ImageSink, NewImage};
use crate::{Descriptor, Error, Platform, Result};

/// What to pull.
#[derive(Debug, Clone)]
pub struct Pull {
    /// Its name; `latest` when it has neither tag nor digest.
    pub reference: Reference,
    /// For which platform; this machine's when nobody asked for one.
    pub platform: Option<Platform>,
    /// The caller's credentials for that registry.
    pub auth: Option<AuthConfig>,
}

/// What was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image's id.
    pub id: Digest,
    /// What `name@` is followed by.
    pub digest: Digest,
    /// Whether the name means something new now.
    pub changed: bool,
}

/// The draft of the pull that is under way, where the end of the pull finds it.
type Slot = Arc<Mutex<Option<Arc<dyn ImageDraft>>>>;

struct Attempt<'a> {
    registry: &'a Registry,
    pull: &'a Pull,
    sink: &'a Arc<dyn ImageSink>,
    progress: &'a ProgressFn,
    /// Everything that may hold the draft.
    tasks: TaskTracker,
    slot: Slot,
}

impl Registry {
    /// Pulls an image into `sink`. Cancelled by `cancel`, it returns when the draft is gone.
    ///
    /// # Errors
    /// With Docker's words; nothing is left in the sink then.
    pub async fn pull(
        &self,
        mut pull: Pull,
        sink: Arc<dyn ImageSink>,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<Pulled> {
        pull.reference = pull.reference.with_default_tag();
        let reference = &pull.reference;
        let what = reference.digest().map(Digest::as_str).or(reference.tag()).unwrap_or_default();
        progress(pulling(reference.path(), what));
        let mut outcome = Err(Error::invalid(reference.to_string(), "it has no registry"));
        for source in self.sources(reference)? {
            let attempt = Attempt {
                registry: self,
                pull: &pull,
                sink: &sink,
                progress: &progress,
                tasks: TaskTracker::new(),
                slot: Slot::default(),
            };
            outcome = attempt.run(&source, &cancel).await;
            match &outcome {
                Err(error) if source.is_mirror && !cancel.is_cancelled() => {
                    tracing::warn!(%error, "mirror failed, trying the next registry");
                }
                _ => break,
            }
        }
        let pulled = outcome?;
        progress(Progress::status(format!("Digest: {}", pulled.digest)));
        let verdict = if pulled.changed { "Downloaded newer image for" } else { "Image is up to date for" };
        progress(Progress::status(format!("Status: {verdict} {}", reference.familiar())));
        Ok(pulled)
    }
}

impl Attempt<'_> {
    async fn run(self, source: &Source, cancel: &CancellationToken) -> Result<Pulled> {
        let fetched = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled(self.pull.reference.familiar())),
            fetched = self.fetch(source) => fetched,
        };
        // The threads that unpack see the end of their pipe; what they made goes with the draft.
        self.tasks.close();
        self.tasks.wait().await;
        let draft = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let result = blocking(move || match (fetched, draft) {
            (Ok((id, digest)), Some(draft)) => {
                let changed = draft.commit().map_err(Error::Store)?;
                Ok(Pulled { id, digest, changed })
            }
            (Ok(_), None) => Err(Error::Store("there is no draft".into())),
            (Err(error), draft) => {
                drop(draft);
                Err(error)
            }
        });
        result.await
    }

    /// Everything up to the commit. Returns the image's id and digest.
    async fn fetch(&self, source: &Source) -> Result<(Digest, Digest)> {
        let reference = &self.pull.reference;
        let session = Arc::new(self.registry.session(source, reference, self.pull.auth.as_ref()).await?);
        let (image, attestations) = self.describe(&session).await?;
        let (id, digest, layers) = (image.id.clone(), image.digest.clone(), image.layers.clone());
        let (sink, slot) = (self.sink.clone(), self.slot.clone());
        let begin = move || {
            let draft = sink.begin(image).map_err(Error::Store)?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(draft.clone());
            Ok(draft)
        };
        let draft = joined(self.tasks.spawn_blocking(begin).await)?;
        let attached = Attached {
            session: Arc::clone(&session),
            sink: Arc::clone(self.sink),
            tasks: self.tasks.clone(),
            entries: attestations,
        };
        let layers = Layers {
            session,
            draft: Arc::clone(&draft),
            layers,
            progress: self.progress.clone(),
            tasks: self.tasks.clone(),
            downloads: self.registry.http.options.downloads,
        };
        let ((), documents) = tokio::try_join!(layers.fetch(), attached.fetch())?;
        draft.attach(documents);
        Ok((id, digest))
    }

    /// Manifest and configuration, and the attestations that the index has of them.
    async fn describe(&self, session: &Session) -> Result<(NewImage, Vec<Descriptor>)> {
        let reference = &self.pull.reference;
        let host = Platform::host();
        let wanted = self.pull.platform.as_ref().unwrap_or(&host);
        let (first, parsed) = session.manifest(None).await?;
        let digest = first.descriptor.digest.clone();
        let mut attestations = Vec::new();
        let (index, manifest, config, layers) = match parsed {
            Parsed::Image { config, layers } => (None, first, config, layers),
            Parsed::Index(entries) => {
                let entry = choose(&entries, wanted)?;
                attestations = attached::of(&entries, &entry.digest);
                let (manifest, config, layers) = chosen(session, entry).await?;
                (Some(first), manifest, config, layers)
            }
        };
        let raw = session.blob(&config, "image configuration").await?;
        let parsed = Config::read(&raw, layers.len())?;
        if let Some(wanted) = &self.pull.platform
            && wanted.distance(&parsed.platform).is_none()
        {
            return Err(Error::OtherPlatform {
                reference: reference.familiar(),
                found: parsed.platform.to_string(),
                wanted: wanted.to_string(),
            });
        }
        let reference = reference.clone();
        let image = NewImage { reference, id: config.digest, digest, config: raw, manifest, index, layers };
        Ok((image, attestations))
    }
}

/// The manifest that an index led to.
async fn chosen(session: &Session, entry: &Descriptor) -> Result<(Document, Descriptor, Vec<Descriptor>)> {
    let (manifest, parsed) = session.manifest(Some(&entry.digest)).await?;
    match parsed {
        Parsed::Image { config, layers } => Ok((manifest, config, layers)),
        Parsed::Index(_) => Err(Error::invalid(
            format!("manifest list of {}", session.reference.familiar()),
            "its entry is a list itself, which is not supported",
        )),
    }
}

/// Runs what may block on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// The outcome of a task; its panic goes on here.
pub fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match outcome {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled("the image".to_owned())),
        },
    }
}
