//! Manifests: as they came, or made; the index last, for it is what makes the image visible.

use std::sync::Arc;

use gantry_api::progress::Progress;
use gantry_api::reference::{Digest, Reference};
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use serde::Serialize;

use super::{KnownBlob, PushOrigin, Pushed, Pusher};
use crate::backoff::Backoff;
use crate::http::Outgoing;
use crate::manifest::{DOCUMENT_LIMIT, Entry, OCI_CONFIG, OCI_MANIFEST, digest_of, to_oci};
use crate::progress::LayerReport;
use crate::{Descriptor, Document, Error, Result};

/// Attempts at one manifest.
const ATTEMPTS: u32 = 5;
/// Lists within lists.
const DEPTH: usize = 2;

/// A manifest that is made here. The order of its words is part of its digest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// What a manifest of any kind names: images, indexes, artifacts.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Names {
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
    pub manifests: Vec<Entry>,
    /// What it refers to.
    pub subject: Option<Descriptor>,
    pub artifact_type: Option<String>,
    pub annotations: Option<serde_json::Value>,
}

impl Names {
    pub(super) fn read(raw: &[u8], digest: &Digest) -> Result<Self> {
        serde_json::from_slice(raw).map_err(|error| Error::invalid(format!("manifest {digest}"), error.to_string()))
    }
}

impl Pusher {
    /// Everything of the image, and its name.
    pub(super) async fn image(self: &Arc<Self>, reference: &Reference) -> Result<Pushed> {
        let Some(origin) = self.image.origin.clone() else { return self.made(reference).await };
        match self.as_it_came(reference, &origin).await {
            Err(Error::Lost { digest, reason }) => {
                let root = origin.index.as_ref().unwrap_or(&origin.manifest).descriptor.digest.clone();
                (self.progress)(Progress::status(format!(
                    "The digest will be another one than {root}, which was pulled: layer {digest} is not to be had as it was \
                     ({reason}) and is compressed anew"
                )));
                self.made(reference).await
            }
            outcome => outcome,
        }
    }

    /// With a manifest of our own.
    async fn made(self: &Arc<Self>, reference: &Reference) -> Result<Pushed> {
        let mut layers = self.layers(None).await?;
        for layer in &mut layers {
            layer.media_type = to_oci(&layer.media_type).to_owned();
        }
        let config = Descriptor {
            media_type: OCI_CONFIG.to_owned(),
            digest: digest_of(&self.image.config),
            size: self.image.config.len() as u64,
        };
        self.place_bytes(&config.digest, self.image.config.clone()).await?;
        let made = Made { schema_version: 2, media_type: OCI_MANIFEST, config: &config, layers: &layers };
        let raw = serde_json::to_vec(&made).map_err(|error| Error::invalid("manifest", error.to_string()))?;
        let descriptor =
            Descriptor { media_type: OCI_MANIFEST.to_owned(), digest: digest_of(&raw), size: raw.len() as u64 };
        let manifest = Document { descriptor: descriptor.clone(), raw };
        self.put(&manifest, reference.tag()).await?;
        Ok(Pushed { reference: reference.clone(), root: descriptor, manifest, made: true, layers })
    }

    async fn as_it_came(self: &Arc<Self>, reference: &Reference, origin: &PushOrigin) -> Result<Pushed> {
        let manifest = &origin.manifest;
        let names = Names::read(&manifest.raw, &manifest.descriptor.digest)?;
        let layers = names.layers;
        if layers.len() != self.image.layers.len() {
            let reason = format!("it has {} layers, and the image {}", layers.len(), self.image.layers.len());
            return Err(Error::invalid(format!("manifest {}", manifest.descriptor.digest), reason));
        }
        let blobs = layers.iter().enumerate().map(|(index, layer)| KnownBlob {
            descriptor: layer.clone(),
            verified: false,
            seen: self.seen(index, layer, origin),
        });
        let blobs = blobs.collect();
        let root = origin.index.as_ref().unwrap_or(manifest);
        let mut subjects = vec![&root.descriptor.digest];
        subjects.extend(origin.index.as_ref().map(|_| &manifest.descriptor.digest));
        let push = async {
            self.layers(Some(blobs)).await?;
            self.place_bytes(&digest_of(&self.image.config), self.image.config.clone()).await?;
            match &origin.index {
                None => {
                    self.put(manifest, reference.tag()).await?;
                    Ok(manifest.descriptor.clone())
                }
                Some(index) => {
                    self.put(manifest, None).await?;
                    self.index(reference, origin, index).await
                }
            }
        };
        let (root, referrers) = self.beside(origin, &subjects, push).await?;
        self.copy_referrers(origin, referrers).await;
        Ok(Pushed { reference: reference.clone(), root, manifest: manifest.clone(), made: false, layers })
    }

    /// Where a layer of the manifest may be had.
    fn seen(&self, index: usize, layer: &Descriptor, origin: &PushOrigin) -> Vec<Reference> {
        let known = self.image.layers[index].blobs.iter().filter(|known| known.descriptor.digest == layer.digest);
        let mut seen: Vec<Reference> = origin.repositories.clone();
        for repository in known.flat_map(|known| &known.seen) {
            if !seen.contains(repository) {
                seen.push(repository.clone());
            }
        }
        seen
    }

    /// The index under the name, when everything that it lists is there; else the manifest of this platform alone.
    async fn index(
        self: &Arc<Self>,
        reference: &Reference,
        origin: &PushOrigin,
        index: &Document,
    ) -> Result<Descriptor> {
        let complete = self.listed(index, origin, DEPTH).await;
        match complete {
            Ok(()) => {
                self.put(index, reference.tag()).await?;
                Ok(index.descriptor.clone())
            }
            Err(Error::Lost { digest, reason }) => {
                tracing::info!(%digest, reason, "a part of an index is not to be had: this platform alone is pushed");
                let manifest = &origin.manifest;
                self.put(manifest, reference.tag()).await?;
                let aux = serde_json::json!({
                    "manifestPushedInsteadOfIndex": true,
                    "originalIndex": index.descriptor,
                    "selectedManifest": manifest.descriptor,
                });
                (self.progress)(Progress { aux: Some(aux), ..Progress::default() });
                Ok(manifest.descriptor.clone())
            }
            Err(error) => Err(error),
        }
    }

    /// Brings what an index lists to the registry: what is at hand, what is there, and the rest from where it came from.
    fn listed<'a>(
        self: &'a Arc<Self>,
        index: &'a Document,
        origin: &'a PushOrigin,
        depth: usize,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(async move {
            let entries = Names::read(&index.raw, &index.descriptor.digest)?.manifests;
            for entry in entries.iter().map(|entry| &entry.descriptor) {
                if entry.digest == origin.manifest.descriptor.digest {
                    continue;
                }
                let held = origin.attached.iter().find(|document| document.descriptor.digest == entry.digest);
                if self.has_manifest(&entry.digest).await? {
                    if let Some(held) = held {
                        self.list_again(&Document { descriptor: entry.clone(), raw: held.raw.clone() }).await?;
                    }
                    continue;
                }
                let document = match held {
                    Some(document) => Document { descriptor: entry.clone(), raw: document.raw.clone() },
                    None => self.fetched(entry, origin).await?,
                };
                let names = Names::read(&document.raw, &entry.digest)?;
                if !names.manifests.is_empty() {
                    let Some(depth) = depth.checked_sub(1) else {
                        return Err(Error::invalid(format!("index {}", entry.digest), "it is a list within a list"));
                    };
                    self.listed(&document, origin, depth).await?;
                }
                for blob in names.layers.iter().chain(&names.config) {
                    self.part(blob, origin).await?;
                }
                self.put(&document, None).await?;
            }
            Ok(())
        })
    }

    /// A blob that something in an index names.
    pub(super) async fn part(&self, blob: &Descriptor, origin: &PushOrigin) -> Result<()> {
        if let Some(held) = origin.attached.iter().find(|document| document.descriptor.digest == blob.digest) {
            return self.place_bytes(&blob.digest, held.raw.clone().into()).await;
        }
        let report = Arc::new(LayerReport::new(blob, self.progress.clone()));
        let known = KnownBlob { descriptor: blob.clone(), verified: false, seen: origin.repositories.clone() };
        self.place(&known, None, &report).await.map(drop)
    }

    /// A manifest from where the image came from.
    pub(super) async fn fetched(&self, entry: &Descriptor, origin: &PushOrigin) -> Result<Document> {
        let mut reason = "no registry is known that has it".to_owned();
        for repository in &origin.repositories {
            let sessions = match self.origins.sessions(repository).await {
                Ok(sessions) => sessions,
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            for session in sessions {
                match session.any_manifest(entry).await {
                    Ok(raw) => return Ok(Document { descriptor: entry.clone(), raw }),
                    Err(error) => reason = error.to_string(),
                }
            }
        }
        Err(Error::Lost { digest: entry.digest.clone(), reason })
    }

    pub(super) async fn has_manifest(&self, digest: &Digest) -> Result<bool> {
        let path = format!("manifests/{digest}");
        match self.session.patiently(|| self.session.send(Method::HEAD, &path, 0)).await {
            Ok(_) => Ok(true),
            Err(Error::ManifestUnknown { .. } | Error::NameUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest under a tag, or under its digest alone; among what refers to its subject, where it has one.
    pub(super) async fn put(&self, document: &Document, tag: Option<&str>) -> Result<()> {
        match self.put_as(document, tag.unwrap_or(document.descriptor.digest.as_str())).await? {
            true => Ok(()),
            false => self.list_referrer(document).await,
        }
    }

    /// Puts a manifest; says whether the registry lists it among what refers to its subject.
    pub(super) async fn put_as(&self, document: &Document, name: &str) -> Result<bool> {
        let Descriptor { media_type, digest, .. } = &document.descriptor;
        if document.raw.len() > DOCUMENT_LIMIT {
            return Err(Error::invalid(format!("manifest {digest}"), "it is too large for any registry"));
        }
        let path = format!("manifests/{name}");
        let kind = HeaderValue::try_from(media_type.as_str())
            .map_err(|_| Error::invalid(format!("manifest {digest}"), "its media type cannot be in a header"))?;
        let request = Outgoing {
            content_type: Some(kind),
            body: document.raw.clone().into(),
            ..Outgoing::with_method(Method::PUT, self.session.url(&path))
        };
        let mut backoff = Backoff::new(self.session.pause(), ATTEMPTS);
        loop {
            let attempt = async {
                let answer = self.session.ask(request.clone()).await?;
                if !answer.status().is_success() {
                    return Err(self.session.failure(answer, &path).await);
                }
                let said = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
                stored(said, digest, answer.url())?;
                Ok(answer.headers().contains_key("oci-subject"))
            };
            match attempt.await {
                Ok(lists) => return Ok(lists),
                Err(error) => self.session.wait(&mut backoff, error).await?,
            }
        }
    }
}

/// A registry that says another digest has stored other bytes.
fn stored(said: Option<&str>, digest: &Digest, url: &Url) -> Result<()> {
    match said.and_then(|said| said.parse::<Digest>().ok()) {
        Some(said) if said != *digest => {
            let reason = format!("{digest} was sent, and the registry says that it stored {said}");
            Err(Error::Upload { url: crate::http::shown(url), reason })
        }
        _ => Ok(()),
    }
}
