//! Pull: from a name to a committed image.

use std::sync::{Arc, Mutex, PoisonError};

use gantry_api::progress::Progress;
use gantry_api::reference::{Digest, Reference};
use gantry_api::system::AuthConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attached::{self, Attached};
use crate::layers::{Layers, Leased, Leases};
use crate::manifest::{Config, Parsed, choose};
use crate::places::Places;
use crate::progress::{ProgressFn, from_beginning, pulling};
use crate::registry::Registry;
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
    places: Arc<Places>,
    /// Everything that may hold the draft.
    tasks: TaskTracker,
    slot: Slot,
    leases: Arc<Leases>,
}

impl Registry {
    /// Pulls an image into `sink`. Cancelled by `cancel`, it returns when the draft is gone. What was downloaded of an image
    /// that did not come is kept for the next pull of it.
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
        let progress = from_beginning(progress);
        let pulled = self.bring(&pull, &sink, &progress, &cancel).await?;
        progress(verdict(pulled.changed, &pull.reference));
        Ok(pulled)
    }

    /// Pulls every tag of a repository into `sink`; the first that fails ends it.
    ///
    /// # Errors
    /// As for [`Registry::pull`]; the tags that came before stay.
    pub async fn pull_all(
        &self,
        pull: Pull,
        sink: Arc<dyn ImageSink>,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<()> {
        let progress = from_beginning(progress);
        let tags = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled(pull.reference.familiar())),
            tags = self.tags(&pull.reference, pull.auth.as_ref(), &progress) => tags?,
        };
        let mut changed = false;
        for tag in tags {
            let invalid = |error| Error::invalid(format!("tag {tag:.128?} of {}", pull.reference), format!("{error}"));
            let reference = pull.reference.with_tag(&tag).map_err(invalid)?;
            changed |= self.bring(&Pull { reference, ..pull.clone() }, &sink, &progress, &cancel).await?.changed;
        }
        progress(verdict(changed, &pull.reference));
        Ok(())
    }

    async fn bring(
        &self,
        pull: &Pull,
        sink: &Arc<dyn ImageSink>,
        progress: &ProgressFn,
        cancel: &CancellationToken,
    ) -> Result<Pulled> {
        let reference = &pull.reference;
        let attempt = Attempt {
            registry: self,
            pull,
            sink,
            progress,
            places: Arc::new(Places::new(self, reference, pull.auth.as_ref(), progress)?),
            tasks: TaskTracker::new(),
            slot: Slot::default(),
            leases: Arc::default(),
        };
        let pulled = attempt.run(cancel).await?;
        progress(Progress::status(format!("Digest: {}", pulled.digest)));
        Ok(pulled)
    }
}

/// The last line of a pull.
fn verdict(changed: bool, reference: &Reference) -> Progress {
    let verdict = if changed { "Downloaded newer image for" } else { "Image is up to date for" };
    Progress::status(format!("Status: {verdict} {}", reference.familiar()))
}

impl Attempt<'_> {
    async fn run(self, cancel: &CancellationToken) -> Result<Pulled> {
        let fetched = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled(self.pull.reference.familiar())),
            fetched = self.fetch() => fetched,
        };
        if fetched.is_err() {
            self.leave();
        }
        // The threads that unpack see that nothing more comes; what they made goes with the draft.
        self.tasks.close();
        self.tasks.wait().await;
        let draft = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let leases = self.leases.take();
        let result = blocking(move || {
            let result = match (fetched, draft) {
                (Ok((id, digest)), Some(draft)) => {
                    let changed = keep_blobs(&*draft, &leases).and_then(|()| draft.commit().map_err(Error::Store));
                    changed.map(|changed| Pulled { id, digest, changed })
                }
                (Ok(_), None) => Err(Error::Store("there is no draft".into())),
                (Err(error), draft) => {
                    drop(draft);
                    Err(error)
                }
            };
            // What filled the disk does not keep it full.
            if result.as_ref().map_or_else(Error::is_full, |_| true) {
                leases.iter().for_each(|leased| leased.lease.part.spend());
            }
            drop(leases);
            result
        });
        result.await
    }

    /// Nobody wants the image any more.
    fn leave(&self) {
        if let Some(draft) = &*self.slot.lock().unwrap_or_else(PoisonError::into_inner) {
            draft.leave();
        }
    }

    /// Everything up to the commit. Returns the image's id and digest.
    async fn fetch(&self) -> Result<(Digest, Digest)> {
        let (session, image, attestations) = self.describe().await?;
        let reference = &self.pull.reference;
        let what = reference.digest().map(Digest::as_str).or(reference.tag()).unwrap_or_default();
        // Not before: what is not there is an answer of its own, and no line of a stream that has begun.
        (self.progress)(pulling(reference.path(), what));
        let (id, digest, layers) = (image.id.clone(), image.digest.clone(), image.layers.clone());
        let (sink, slot) = (self.sink.clone(), self.slot.clone());
        let begin = move || {
            let draft = sink.begin(image).map_err(Error::Store)?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(draft.clone());
            Ok(draft)
        };
        let draft = joined(self.tasks.spawn_blocking(begin).await)?;
        let attached =
            Attached { session, sink: Arc::clone(self.sink), tasks: self.tasks.clone(), entries: attestations };
        let layers = Layers {
            places: Arc::clone(&self.places),
            parts: Arc::clone(&self.registry.parts),
            draft: Arc::clone(&draft),
            layers,
            progress: self.progress.clone(),
            tasks: self.tasks.clone(),
            downloads: self.registry.http.options.downloads,
            unpackers: Arc::clone(&self.registry.unpackers),
            leases: Arc::clone(&self.leases),
        };
        let ((), documents) = tokio::try_join!(layers.fetch(), attached.fetch())?;
        draft.attach(documents);
        Ok((id, digest))
    }

    /// What the first place says that has the image.
    async fn describe(&self) -> Result<(Arc<Session>, NewImage, Vec<Descriptor>)> {
        let mut place = self.places.chosen();
        loop {
            let described = async {
                let session = self.places.session(place).await?;
                let (image, attestations) = self.described_by(&session).await?;
                Ok((session, image, attestations))
            };
            match described.await {
                Ok(described) => {
                    self.places.choose(place);
                    return Ok(described);
                }
                Err(error) => place = self.places.after(place, error)?,
            }
        }
    }

    /// Manifest and configuration, and the attestations that the index has of them.
    async fn described_by(&self, session: &Session) -> Result<(NewImage, Vec<Descriptor>)> {
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

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Gives the store the layers' blobs, if it wants them.
fn keep_blobs(draft: &dyn ImageDraft, leases: &[Leased]) -> Result<()> {
    if !draft.keeps_blobs() {
        return Ok(());
    }
    for Leased { lease, layer } in leases {
        let Some(layer) = layer else { continue };
        let blob = lease.part.file().map_err(Error::part(&lease.part.digest))?;
        draft.keep_blob(*layer, &blob).map_err(Error::Store)?;
    }
    Ok(())
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
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
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
