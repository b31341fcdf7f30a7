//! The layers of one image, a few at once.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::upload::is_there;
use super::{KnownBlob, Pusher};
use crate::manifest::OCI_LAYER_GZIP;
use crate::progress::LayerReport;
use crate::pull::joined;
use crate::{Descriptor, Error, Result};

impl Pusher {
    /// Brings all layers to the registry; as the blobs of a manifest where they are given, else as they are at hand.
    /// Returns what they are there, lowest first.
    pub(super) async fn layers(self: &Arc<Self>, blobs: Option<Vec<KnownBlob>>) -> Result<Vec<Descriptor>> {
        let count = self.image.layers.len();
        let mut done: Vec<Option<Descriptor>> = vec![None; count];
        // From the top: it is the one that is most likely to be new.
        let mut next = (0..count).rev();
        let mut running = JoinSet::new();
        for (place, index) in (0..count).rev().enumerate() {
            self.report(index).state(if place < self.uploads { "Preparing" } else { "Waiting" });
        }
        loop {
            while running.len() < self.uploads
                && let Some(index) = next.next()
            {
                let (pusher, blob) = (Arc::clone(self), blobs.as_ref().and_then(|blobs| blobs.get(index)).cloned());
                running.spawn(async move { Ok((index, pusher.layer(index, blob).await?)) });
            }
            match running.join_next().await {
                Some(outcome) => {
                    let (index, blob) = joined(outcome)?;
                    done[index] = Some(blob);
                }
                None => break,
            }
        }
        done.into_iter().collect::<Option<_>>().ok_or_else(|| Error::invalid("push", "a layer was left out"))
    }

    fn report(&self, index: usize) -> Arc<LayerReport> {
        let layer = &self.image.layers[index];
        Arc::new(LayerReport::named(layer.diff_id.short(), layer.size, self.progress.clone()))
    }

    async fn layer(&self, index: usize, blob: Option<KnownBlob>) -> Result<Descriptor> {
        let report = self.report(index);
        match blob {
            Some(blob) => self.place(&blob, Some(index), &report).await.map(|_| blob.descriptor),
            None => self.any_form(index, &report).await,
        }
    }

    /// A layer in whatever form it is to be had most easily.
    async fn any_form(&self, index: usize, report: &Arc<LayerReport>) -> Result<Descriptor> {
        let place = self.busy.layer(&self.session.reference, &self.image.layers[index].diff_id);
        let mut held = place.lock().await;
        if let Some(found) = self.there(index, &held).await? {
            report.state("Layer already exists");
            return Ok(found);
        }
        for known in self.verified(index) {
            match self.place(known, Some(index), report).await {
                Ok(_) => return Ok(held.insert(known.descriptor.clone()).clone()),
                Err(Error::Lost { digest, reason }) => {
                    tracing::debug!(%digest, reason, "a layer is not to be had as it was");
                }
                Err(error) => return Err(error),
            }
        }
        let made = self.compress(index, OCI_LAYER_GZIP, report).await?;
        Ok(held.insert(made).clone())
    }

    /// The compressed blobs that are the layer beyond doubt.
    fn verified(&self, index: usize) -> impl Iterator<Item = &KnownBlob> {
        let layer = &self.image.layers[index];
        layer.blobs.iter().filter(|known| known.verified && known.descriptor.digest != layer.diff_id)
    }

    /// What of the forms of a layer the registry has.
    async fn there(&self, index: usize, made: &Option<Descriptor>) -> Result<Option<Descriptor>> {
        let known = self.verified(index).map(|known| &known.descriptor);
        for blob in made.iter().chain(known) {
            if is_there(&self.session, &blob.digest).await? {
                return Ok(Some(blob.clone()));
            }
        }
        Ok(None)
    }
}
