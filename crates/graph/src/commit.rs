//! An image of a container: its image's layers, and what it changed as one more.

use std::sync::Arc;

use gantry_api::container::Config;
use gantry_api::platform::Platform;
use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs;

use crate::layers::{Extent, Plan};
use crate::records::WritableRecord;
use crate::{Error, Graph, History, Image, ImageConfig, Layer, Result, RootFs, digest_of};

/// What `commit` says beside the container's files.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The name to give, if any.
    pub name: Option<Reference>,
    /// The configuration, with the changes (`-c`) applied.
    pub config: Config,
    /// Now, as RFC 3339.
    pub created: String,
    /// The container's command, for the history.
    pub created_by: String,
    /// Who.
    pub author: String,
    /// The comment of image and history.
    pub comment: String,
}

impl Graph {
    /// Makes an image of a container's root. Its processes should be frozen meanwhile, or not be there. A container that
    /// changed nothing gives an image without a layer of its own.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer; the driver's and the database's. Then nothing is left.
    pub fn commit_container(&self, container: &str, commit: Commit) -> Result<Arc<Image>> {
        let record = self.check(container)?;
        let draft = format!("commit-{}-{}", crate::graph::now(), fs::unique());
        let mut settled = false;
        let made = self.commit_draft(container, &record, &draft, commit, &mut settled);
        // From when it is settled on it may be somebody else's too, and goes with the last.
        if made.is_err() && !settled {
            self.inner.layers.discard(&draft);
        }
        made
    }

    fn commit_draft(
        &self,
        container: &str,
        record: &WritableRecord,
        draft: &str,
        commit: Commit,
        settled: &mut bool,
    ) -> Result<Arc<Image>> {
        let (extent, diff_id) = self.fill_from_container(container, record.parent.as_ref(), draft)?;
        let empty = diff_id == digest_of(&[0; 1024]);
        let config = self.committed_config(record, (!empty).then_some(diff_id), commit.clone())?;
        let raw = serde_json::to_vec(&config).map_err(|error| Error::invalid("image configuration", error))?;
        // The registration pins the layers before the draft becomes the last one.
        let registration = self.register(raw, None)?.on_top_of(&record.image);
        match Plan::of(&config.rootfs.diff_ids).last() {
            Some(plan) if !empty && self.inner.layers.settle(plan, draft, extent, &self.left)? => *settled = true,
            _ => self.inner.driver.remove(draft)?,
        }
        registration.commit(commit.name.as_slice())
    }

    fn fill_from_container(&self, container: &str, parent: Option<&Digest>, draft: &str) -> Result<(Extent, Digest)> {
        self.with_archive(container, |changes| self.inner.layers.fill(draft, parent, None, changes, &self.left))
    }

    fn committed_config(
        &self,
        record: &WritableRecord,
        diff_id: Option<Digest>,
        commit: Commit,
    ) -> Result<ImageConfig> {
        let images = self.images();
        let base = match images.get(&record.image) {
            Some(image) => image.config.clone(),
            // It was removed by force; its layers are there as long as the container is.
            None => {
                let diff_ids = self.diff_ids(record.parent.as_ref())?;
                let Platform { os, architecture, variant } = Platform::host();
                ImageConfig {
                    architecture,
                    os,
                    variant,
                    // A step for each, or the new one's would be the lowest.
                    history: vec![History::default(); diff_ids.len()],
                    rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
                    ..ImageConfig::default()
                }
            }
        };
        let mut config = ImageConfig {
            created: commit.created.clone(),
            author: commit.author.clone(),
            comment: commit.comment.clone(),
            config: Some(commit.config),
            docker_version: String::new(),
            ..base
        };
        config.history.push(History {
            created: commit.created,
            created_by: commit.created_by,
            author: commit.author,
            comment: commit.comment,
            empty_layer: diff_id.is_none(),
        });
        config.rootfs.diff_ids.extend(diff_id);
        Ok(config)
    }

    /// The diff ids of a layer and of everything below it, lowest first.
    fn diff_ids(&self, top: Option<&Digest>) -> Result<Vec<Digest>> {
        let mut diff_ids = Vec::new();
        let mut at = top.cloned();
        while let Some(chain) = at {
            let missing = || Error::NotFound { kind: "layer", name: chain.to_string() };
            let layer: Arc<Layer> = self.inner.layers.get(&chain).ok_or_else(missing)?;
            diff_ids.push(layer.diff_id.clone());
            at = layer.parent.clone();
        }
        diff_ids.reverse();
        Ok(diff_ids)
    }
}
