//! Attestations: what an index says about the image that was chosen from it. They come with it, so that it can be pushed again
//! as it was pulled. One that does not come, or that is none, is no reason not to run the image.

use std::sync::Arc;

use gantry_api::reference::Digest;
use serde::Deserialize;
use tokio_util::task::TaskTracker;

use crate::manifest::{DOCUMENT_LIMIT, Entry};
use crate::pull::joined;
use crate::session::Session;
use crate::sink::{Document, ImageSink};
use crate::{Descriptor, Error, Result};

/// Attestations of one image: today's builders write one.
const COUNT: usize = 8;
/// Bytes of all of them, which are held until the image is stored.
const LIMIT: u64 = 16 << 20;

/// What an attestation's manifest names.
#[derive(Deserialize)]
struct Named {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// The entries of an index that are attestations of a manifest.
pub fn of(entries: &[Entry], manifest: &Digest) -> Vec<Descriptor> {
    let attest = |entry: &&Entry| {
        entry.annotations.as_ref().is_some_and(|annotations| gantry_api::image::attests(annotations, manifest))
    };
    entries.iter().filter(attest).take(COUNT).map(|entry| entry.descriptor.clone()).collect()
}

/// Brings the attestations of one image.
pub struct Attached {
    pub session: Arc<Session>,
    pub sink: Arc<dyn ImageSink>,
    pub tasks: TaskTracker,
    pub entries: Vec<Descriptor>,
}

impl Attached {
    /// The manifests, and what they name. What the store has is not fetched.
    pub async fn fetch(self) -> Result<Vec<Document>> {
        let mut documents: Vec<Document> = Vec::new();
        for entry in &self.entries {
            let Some(manifest) = self.document(entry, true, &documents).await? else { continue };
            let named = serde_json::from_slice::<Named>(&manifest.raw);
            documents.push(manifest);
            let Named { config, layers } = match named {
                Ok(named) => named,
                Err(error) => {
                    tracing::debug!(digest = %entry.digest, %error, "an attestation names nothing that can be kept");
                    continue;
                }
            };
            for descriptor in config.into_iter().chain(layers) {
                if documents.iter().all(|document| document.descriptor.digest != descriptor.digest) {
                    documents.extend(self.document(&descriptor, false, &documents).await?);
                }
            }
        }
        Ok(documents)
    }

    /// One document; none where there is none to be kept.
    async fn document(
        &self,
        descriptor: &Descriptor,
        is_manifest: bool,
        others: &[Document],
    ) -> Result<Option<Document>> {
        let sum: u64 = others.iter().map(|document| document.descriptor.size).sum();
        if descriptor.size > DOCUMENT_LIMIT as u64 || descriptor.size > LIMIT - sum {
            tracing::warn!(digest = %descriptor.digest, bytes = descriptor.size, "an attestation is too large to be kept");
            return Ok(None);
        }
        let (sink, digest) = (Arc::clone(&self.sink), descriptor.digest.clone());
        if let Some(raw) = joined(self.tasks.spawn_blocking(move || Ok(sink.document(&digest))).await)? {
            return Ok(Some(Document { descriptor: descriptor.clone(), raw }));
        }
        let came = match is_manifest {
            true => self.session.any_manifest(descriptor).await,
            false => self.session.blob(descriptor, "attestation").await,
        };
        match came {
            Ok(raw) => Ok(Some(Document { descriptor: descriptor.clone(), raw })),
            Err(error @ (Error::ManifestUnknown { .. } | Error::BlobUnknown { .. })) => {
                tracing::debug!(digest = %descriptor.digest, %error, "the registry does not have an attestation");
                Ok(None)
            }
            // It is not what its index says: damage, or an attack.
            Err(error @ (Error::Digest { .. } | Error::Invalid { .. })) => Err(error),
            Err(error) => {
                tracing::warn!(digest = %descriptor.digest, %error, "an attestation did not come: the image is kept without it");
                Ok(None)
            }
        }
    }
}
