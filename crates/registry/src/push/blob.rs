//! One blob into its place: there already, mounted from another repository, or sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use gantry_api::reference::{Digest, Reference};
use reqwest::{Method, StatusCode, Url};

use super::feed::Data;
use super::upload::{self, Failure, UPLOADS, Upload, is_there};
use super::{KnownBlob, Pusher};
use crate::http::Outgoing;
use crate::progress::LayerReport;
use crate::session::Session;
use crate::{Descriptor, Error, Result};

/// Repositories that a blob is asked from, one after the other.
const MOUNTS: usize = 4;

/// Blobs that are on their way to a registry: who wants the same one there waits, and finds it.
#[derive(Default)]
pub struct Busy(Mutex<HashMap<String, Weak<Place>>>);

/// The place of one blob; holds what it was found to be, where that was not known before.
pub type Place = tokio::sync::Mutex<Option<Descriptor>>;

impl Busy {
    /// The place of a blob at a repository.
    pub fn blob(&self, repository: &Reference, blob: &Digest) -> Arc<Place> {
        self.place(format!("{} {blob}", repository.repository()))
    }

    /// The place of a layer at a repository, whatever blob it is there: it is held while that blob's is.
    pub fn layer(&self, repository: &Reference, diff_id: &Digest) -> Arc<Place> {
        self.place(format!("{} layer {diff_id}", repository.repository()))
    }

    fn place(&self, key: String) -> Arc<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| place.strong_count() > 0);
        if let Some(place) = places.get(&key).and_then(Weak::upgrade) {
            return place;
        }
        let place = Arc::default();
        places.insert(key, Arc::downgrade(&place));
        place
    }
}

/// What is known after a mount was tried.
enum Mount {
    Done(Reference),
    /// The registry began a session instead, or did nothing.
    Refused(Option<Url>),
}

impl Pusher {
    /// Brings a blob that the manifest names into its place; false where it was there.
    /// `layer` says which layer of the image it is, if it is one.
    pub(super) async fn place(
        &self,
        known: &KnownBlob,
        layer: Option<usize>,
        report: &Arc<LayerReport>,
    ) -> Result<bool> {
        let blob = &known.descriptor;
        let place = self.busy.blob(&self.session.reference, &blob.digest);
        let _held = place.lock().await;
        if is_there(&self.session, &blob.digest).await? {
            report.state("Layer already exists");
            return Ok(false);
        }
        let session = match self.mount(known).await? {
            Mount::Done(from) => {
                report.state(format!("Mounted from {}", from.path()));
                return Ok(true);
            }
            Mount::Refused(session) => session,
        };
        self.send(known, layer, session, report).await?;
        report.state("Pushed");
        Ok(true)
    }

    /// Sends a blob that the store keeps, or that another repository has.
    async fn send(
        &self,
        known: &KnownBlob,
        layer: Option<usize>,
        mut session: Option<Url>,
        report: &Arc<LayerReport>,
    ) -> Result<()> {
        let blob = &known.descriptor;
        let mut reason = "no registry is known that has it".to_owned();
        let plain = layer.filter(|index| self.image.layers[*index].diff_id == blob.digest);
        let at_hand = match plain {
            Some(index) => Some(Data::Plain { source: Arc::clone(&self.source), index, blob: blob.clone() }),
            None => self.kept(&blob.digest).await?,
        };
        if let Some(data) = at_hand {
            let upload = Upload::new(&self.session, &data, report, session.take());
            match upload.run(Some(&blob.digest)).await {
                Ok(_) => return Ok(()),
                Err(Failure::Target(error)) => return Err(error),
                Err(Failure::Source(error)) => reason = error.to_string(),
            }
        }
        for from in known.seen.iter().filter(|from| !self.is_target(from)) {
            let origins = match self.origins.sessions(from).await {
                Ok(origins) => origins,
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            for origin in origins {
                let data = Data::Elsewhere(origin, blob.clone());
                let upload = Upload::new(&self.session, &data, report, session.take());
                match upload.run(Some(&blob.digest)).await {
                    Ok(_) => return Ok(()),
                    Err(Failure::Target(error)) => return Err(error),
                    Err(Failure::Source(error)) => reason = error.to_string(),
                }
            }
        }
        Err(Error::Lost { digest: blob.digest.clone(), reason })
    }

    async fn kept(&self, digest: &Digest) -> Result<Option<Data>> {
        let (source, digest) = (Arc::clone(&self.source), digest.clone());
        super::blocking(move || {
            let Some(file) = source.blob(&digest).map_err(Error::Store)? else { return Ok(None) };
            let size = file.metadata().map_err(|error| Error::Store(error.into()))?.len();
            Ok(Some(Data::Kept(Arc::new(file), size)))
        })
        .await
    }

    /// A layer that is in no registry, or not to be had from any: compressed on its way.
    pub(super) async fn compress(
        &self,
        index: usize,
        media_type: &str,
        report: &Arc<LayerReport>,
    ) -> Result<Descriptor> {
        let layer = &self.image.layers[index];
        let data = Data::Archive { source: Arc::clone(&self.source), index, diff_id: layer.diff_id.to_string() };
        let (digest, size) = match Upload::new(&self.session, &data, report, None).run(None).await {
            Ok(made) => made,
            Err(Failure::Source(error) | Failure::Target(error)) => return Err(error),
        };
        report.state("Pushed");
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size })
    }

    /// A small blob that is at hand.
    pub(super) async fn place_bytes(&self, digest: &Digest, bytes: Bytes) -> Result<()> {
        let place = self.busy.blob(&self.session.reference, digest);
        let _held = place.lock().await;
        if is_there(&self.session, digest).await? {
            return Ok(());
        }
        upload::small(&self.session, digest, bytes, None).await
    }

    pub(super) fn is_target(&self, repository: &Reference) -> bool {
        repository.repository() == self.session.reference.repository()
    }

    async fn mount(&self, known: &KnownBlob) -> Result<Mount> {
        let target = &self.session.reference;
        let near = known.seen.iter().filter(|from| from.domain() == target.domain() && !self.is_target(from));
        for from in near.take(MOUNTS) {
            let session = self.session.reading(from.path());
            match session.patiently(|| mount_from(&session, &known.descriptor.digest, from)).await {
                Ok(Mount::Refused(None)) => {}
                Ok(outcome) => return Ok(outcome),
                // One that may not be read is no reason not to push.
                Err(error) => tracing::debug!(%error, from = %from, "a blob was not mounted"),
            }
        }
        Ok(Mount::Refused(None))
    }
}

async fn mount_from(session: &Session, digest: &Digest, from: &Reference) -> Result<Mount> {
    let mut url = session.url(UPLOADS);
    url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from.path());
    let answer = session.ask(Outgoing::with_method(Method::POST, url)).await?;
    match answer.status() {
        StatusCode::CREATED => Ok(Mount::Done(from.clone())),
        StatusCode::ACCEPTED => Ok(Mount::Refused(upload::next_location(session, &answer)?)),
        _ => Err(session.failure(answer, UPLOADS).await),
    }
}
