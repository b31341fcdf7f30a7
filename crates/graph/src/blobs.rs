//! The compressed blobs that layers are known as: where each was seen, and whether its bytes are kept.
//!
//! A layer gives its archive back from its files, but no blob that it was compressed to: compressors differ. So a blob that no
//! registry is known to have is kept in the content store beside the layer, as long as the layer stays.

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard};

use gantry_api::reference::Digest;
use gantry_linux::fs::Durability;
use serde::{Deserialize, Serialize};

use crate::decompress::inflated_digest;
use crate::{Content, Descriptor, Error, Graph, Layer, Result, records};

/// Repositories that are remembered of one blob, and blobs of one layer: the last ones.
const REMEMBERED: usize = 16;

/// A compressed blob that a layer is known as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// As manifests describe it.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// The repositories that had it (`docker.io/library/debian`), the one where it was seen last being the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<String>,
    /// It is this layer: it was inflated here, or made here. Of others only a manifest says so, which is enough to send that
    /// manifest again, and too little to name the blob in another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
    /// Its bytes are in the content store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

impl Blob {
    /// One that is not kept, and was seen nowhere.
    #[must_use]
    pub const fn new(descriptor: Descriptor) -> Self {
        Self { descriptor, seen: Vec::new(), verified: false, kept: false }
    }

    /// What a manifest has for a layer whose record is lost. That its bytes are kept is seen by inflating them.
    pub(crate) fn found(descriptor: &Descriptor, diff_id: &Digest, content: &Content) -> Self {
        let nobody_leaves = AtomicBool::new(false);
        let inflated =
            content.open_blob(&descriptor.digest).and_then(|mut file| inflated_digest(&mut file, &nobody_leaves));
        let is_it = inflated.is_ok_and(|found| found == *diff_id);
        Self { verified: is_it, kept: is_it, ..Self::new(descriptor.clone()) }
    }

    /// Adds what is known of it to what a layer is known as; false where nothing of it is new.
    pub(crate) fn add_to(self, blobs: &mut Vec<Self>) -> bool {
        let Some(known) = blobs.iter_mut().find(|known| known.descriptor.digest == self.descriptor.digest) else {
            blobs.push(self);
            if blobs.len() > REMEMBERED
                && let Some(first) = blobs.iter().position(|blob| !blob.kept)
            {
                blobs.remove(first);
            }
            return true;
        };
        let before = known.clone();
        known.verified |= self.verified;
        known.kept |= self.kept;
        known.seen.retain(|repository| !self.seen.contains(repository));
        known.seen.extend(self.seen);
        known.seen.drain(..known.seen.len().saturating_sub(REMEMBERED));
        *known != before
    }
}

impl Layer {
    /// The digests of its blobs whose bytes are kept.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.iter().filter(|blob| blob.kept).map(|blob| &blob.descriptor.digest)
    }

    /// Bytes of its blobs that are kept.
    fn kept_size(&self) -> u64 {
        self.blobs.iter().filter(|blob| blob.kept).map(|blob| blob.descriptor.size).sum()
    }
}

impl Graph {
    /// The blobs that layers with this diff id are known as, whatever they stand on.
    #[must_use]
    pub fn blobs(&self, diff_id: &Digest) -> Vec<Blob> {
        let mut blobs = Vec::new();
        for layer in self.inner.layers.all().iter().filter(|layer| layer.diff_id == *diff_id) {
            for blob in &layer.blobs {
                blob.clone().add_to(&mut blobs);
            }
        }
        blobs
    }

    /// Bytes of content of all layers, and of the blobs that are kept for them.
    #[must_use]
    pub fn layers_size(&self) -> u64 {
        self.inner.layers.all().iter().map(|layer| layer.size + layer.kept_size()).sum()
    }

    /// The bytes of a blob, where they are kept. Whoever reads them verifies the digest, as with everything from a disk.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn kept_blob(&self, digest: &Digest) -> Result<Option<File>> {
        if !self.inner.layers.keeps(digest, |_| true) {
            return Ok(None);
        }
        match self.content().open_blob(digest) {
            Ok(file) => Ok(Some(file)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes what was learned of a blob (after a push: where it is now; after compressing: that it is this layer) with every layer
    /// that has this diff id. Whether it is kept is not for the caller to say.
    ///
    /// # Errors
    /// The database's; then nothing is noted.
    pub fn note_blob(&self, diff_id: &Digest, blob: &Blob) -> Result<()> {
        let blob = Blob { kept: false, ..blob.clone() };
        self.change_layers(&self.change(), |layer| layer.diff_id == *diff_id && blob.clone().add_to(&mut layer.blobs))
    }

    /// Deletes the bytes of a blob that are kept; the layers stay.
    pub(crate) fn forget_kept(&self, change: &MutexGuard<'_, ()>, digest: &Digest) -> Result<()> {
        self.change_layers(change, |layer| {
            let its = layer.blobs.iter_mut().filter(|blob| blob.kept && blob.descriptor.digest == *digest);
            its.map(|blob| blob.kept = false).count() > 0
        })?;
        self.drop_document(Some(digest))
    }

    /// Whether the bytes of a blob should be kept: no registry is known to have them.
    pub(crate) fn is_ours_alone(&self, digest: &Digest) -> bool {
        let is_seen =
            |layer: &Layer| layer.blobs.iter().any(|blob| blob.descriptor.digest == *digest && !blob.seen.is_empty());
        !self.inner.layers.all().iter().any(|layer| is_seen(layer))
    }

    /// Writes the records of those layers anew that `work` says it changed.
    fn change_layers(&self, _change: &MutexGuard<'_, ()>, mut work: impl FnMut(&mut Layer) -> bool) -> Result<()> {
        let mut changed = Vec::new();
        for before in self.inner.layers.all() {
            let mut layer = Layer::clone(&before);
            if work(&mut layer) {
                changed.push((before, Arc::new(layer)));
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.db()
            .write(Durability::Process, |db| changed.iter().try_for_each(|(_, layer)| records::put_layer(db, layer)))?;
        changed.into_iter().for_each(|(before, layer)| self.inner.layers.exchange(&before, layer));
        Ok(())
    }

    /// Removes layers that were taken, with the blobs that were kept for them; returns their chain ids.
    pub(crate) fn discard_layers(&self, layers: Vec<Arc<Layer>>) -> Vec<Digest> {
        let kept: HashSet<Digest> = layers.iter().flat_map(|layer| layer.kept()).cloned().collect();
        let chains = self.inner.layers.discard_all(layers);
        self.drop_documents(&kept);
        chains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str, seen: &[&str]) -> Blob {
        let descriptor = Descriptor { media_type: "x".to_owned(), digest: crate::digest_of(text.as_bytes()), size: 1 };
        Blob { seen: seen.iter().map(|seen| (*seen).to_owned()).collect(), ..Blob::new(descriptor) }
    }

    #[test]
    fn what_is_learned_of_a_blob_adds_up_and_is_bounded() {
        let mut blobs = Vec::new();
        assert!(blob("a", &["one", "two"]).add_to(&mut blobs));
        assert!(!blob("a", &[]).add_to(&mut blobs));
        assert!(Blob { kept: true, verified: true, ..blob("a", &["one"]) }.add_to(&mut blobs));
        assert_eq!(blobs, [Blob { kept: true, verified: true, ..blob("a", &["two", "one"]) }]);
        for number in 0..2 * REMEMBERED {
            let (text, seen) = (number.to_string(), format!("repository{number}"));
            blob(&text, &[]).add_to(&mut blobs);
            blob("a", &[seen.as_str()]).add_to(&mut blobs);
        }
        assert_eq!((blobs.len(), blobs[0].seen.len()), (REMEMBERED, REMEMBERED));
        assert!(blobs[0].kept, "what is kept is not forgotten");
    }

    #[test]
    fn a_record_of_before_is_read() {
        let old = format!(r#"{{"mediaType":"m","digest":"{}","size":3}}"#, crate::digest_of(b"a"));
        let read: Blob = serde_json::from_str(&old).unwrap();
        assert_eq!((read.descriptor.size, read.seen.len(), read.kept), (3, 0, false));
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
    }
}
