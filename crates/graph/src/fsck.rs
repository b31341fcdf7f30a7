//! Checking the store: every byte of every layer and document against its digest, and what is there against what should be.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use gantry_api::reference::Digest;
use gantry_linux::fs::Durability;

use crate::records::{self, IMAGE, LAYER};
use crate::registration::Pins;
use crate::{Error, Graph, Image, Images, Layer, Removed, Result, Use};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: `image sha256:…`, `layer sha256:…`.
    pub subject: String,
    /// What is wrong with it.
    pub problem: String,
    /// What was done about it; `None` where nothing was.
    pub repair: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.problem)?;
        match &self.repair {
            Some(repair) => write!(f, " ({repair})"),
            None => Ok(()),
        }
    }
}

impl Graph {
    /// Reads everything that is stored and reports what is wrong. It disturbs nobody: what is added or removed meanwhile is
    /// left alone. With `repair` litter is deleted, and images that cannot be whole any more are removed with their names,
    /// so that pulling or loading them makes them whole; those that containers (`users`) use are kept.
    ///
    /// # Errors
    /// When the database or a directory cannot be read at all; damage is a finding, not an error.
    pub fn fsck(&self, repair: bool, users: &[Use], report: &mut dyn FnMut(Finding)) -> Result<()> {
        let images = self.images();
        // What is being read must not be collected meanwhile.
        let chains = images.iter().flat_map(|image| &image.layers).map(|layer| layer.chain_id.clone()).collect();
        let pins = Pins::new(self, chains);
        let mut check = Check { graph: self, users, repair, report };
        let damaged = check.layers(&images);
        check.images(&images, &damaged)?;
        drop(pins);
        check.unloaded(&images)?;
        check.litter()
    }
}

struct Check<'a> {
    graph: &'a Graph,
    users: &'a [Use],
    repair: bool,
    report: &'a mut dyn FnMut(Finding),
}

impl Check<'_> {
    fn say(&mut self, subject: String, problem: impl fmt::Display, repair: Option<String>) {
        (self.report)(Finding { subject, problem: problem.to_string(), repair });
    }

    /// The layers whose archive is not what it was.
    fn layers(&mut self, images: &Images) -> HashSet<Digest> {
        let mut seen = HashSet::new();
        let mut damaged = HashSet::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            if !seen.insert(layer.chain_id.clone()) {
                continue;
            }
            if let Err(problem) = self.graph.check_layer(layer) {
                damaged.insert(layer.chain_id.clone());
                self.say(format!("layer {}", layer.chain_id), problem, None);
            }
        }
        damaged
    }

    fn images(&mut self, images: &Images, damaged: &HashSet<Digest>) -> Result<()> {
        // What stands on others first: an image with children cannot be removed.
        let mut all: Vec<&Arc<Image>> = images.iter().collect();
        all.sort_by_key(|image| std::cmp::Reverse(image.layers.len()));
        for image in all {
            let content = self.graph.content();
            let documents = std::iter::once(&image.id).chain(image.manifest.as_ref().map(|manifest| &manifest.digest));
            let broken = documents.filter_map(|digest| content.read(digest).err()).next();
            let layer = image.layers.iter().find(|layer| damaged.contains(&layer.chain_id));
            let problem = match (broken, layer) {
                (Some(error), _) => error.to_string(),
                (None, Some(layer)) => format!("its layer {} is damaged", layer.chain_id),
                (None, None) => continue,
            };
            let repair = if self.repair { Some(self.remove(image)?) } else { None };
            self.say(format!("image {}", image.id), problem, repair);
        }
        Ok(())
    }

    /// Removes an image that is not whole; returns what came of it.
    fn remove(&self, image: &Image) -> Result<String> {
        match self.graph.remove_image(image.id.as_str(), true, false, self.users) {
            Ok(removed) => {
                let names = removed.iter().filter_map(|step| match step {
                    Removed::Untagged(name) => Some(name.as_str()),
                    Removed::Deleted(_) => None,
                });
                let names: Vec<_> = names.collect();
                Ok(if names.is_empty() {
                    "removed".to_owned()
                } else {
                    format!("removed: pull or load {} again", names.join(", "))
                })
            }
            Err(Error::Conflict(reason)) => Ok(format!("kept: {reason}")),
            Err(error) => Err(error),
        }
    }

    /// What the database names and could not be loaded when the store was opened.
    fn unloaded(&mut self, images: &Images) -> Result<()> {
        let db = self.graph.db();
        for entity in db.entities(IMAGE)? {
            let known =
                entity.id.parse().is_ok_and(|id| images.get(&id).is_some() || self.graph.images().get(&id).is_some());
            if !known {
                let repair = self.purge(&entity.id)?;
                self.say(format!("image {}", entity.id), "a part of it is missing or damaged", repair);
            }
        }
        for entity in db.entities(LAYER)? {
            let layer: Layer = match records::read(&entity) {
                Ok(layer) => layer,
                Err(error) => {
                    let repair = self.purge(&entity.id)?;
                    self.say(entity.id, error, repair);
                    continue;
                }
            };
            if !self.graph.driver().exists(&layer.store_id) && self.graph.inner.layers.get(&layer.chain_id).is_none() {
                let repair = self.purge(&entity.id)?;
                self.say(format!("layer {}", layer.chain_id), "its files are missing", repair);
            }
        }
        Ok(())
    }

    fn purge(&self, id: &str) -> Result<Option<String>> {
        if !self.repair {
            return Ok(None);
        }
        self.graph.db().write(Durability::Disk, |db| db.purge(id))?;
        Ok(Some("forgotten: pull or load it again".to_owned()))
    }

    /// Layers and documents that nothing names.
    fn litter(&mut self) -> Result<()> {
        let graph = self.graph;
        // Nothing is registered or removed between the two looks.
        let change = graph.change();
        let images = graph.images();
        let writable = graph.container_layers();
        let mut orphans = Vec::new();
        for id in graph.driver().list()? {
            if !writable.contains(&id) && !graph.inner.layers.holds(&id) {
                orphans.push(id);
            }
        }
        let mut named: BTreeSet<&Digest> = images.iter().map(|image| &image.id).collect();
        named.extend(images.iter().filter_map(|image| image.manifest.as_ref().map(|manifest| &manifest.digest)));
        named.extend(images.all_names().filter_map(|(name, _)| name.digest()));
        let stored = graph.content().list()?;
        let documents: Vec<_> = stored.iter().filter(|digest| !named.contains(digest)).collect();
        let done = self.repair.then(|| "deleted".to_owned());
        if self.repair {
            orphans.iter().try_for_each(|id| graph.driver().remove(id))?;
            documents.iter().try_for_each(|digest| graph.content().delete(digest))?;
        }
        drop(change);
        for id in orphans {
            self.say(format!("layer directory {id}"), "no image and no container needs it", done.clone());
        }
        for digest in documents {
            self.say(format!("document {digest}"), "no image names it", done.clone());
        }
        Ok(())
    }
}

impl Graph {
    /// Reads a whole layer.
    fn check_layer(&self, layer: &Layer) -> std::result::Result<(), String> {
        let size = self.layer_archive(layer, &mut io::sink()).map_err(|error| error.to_string())?;
        if layer.archive_size != 0 && layer.archive_size != size {
            return Err(format!("its archive has {size} bytes, the database says {}", layer.archive_size));
        }
        match self.driver().size(&layer.store_id) {
            Ok(size) if size == layer.size => Ok(()),
            Ok(size) => Err(format!("it has {size} bytes of content, the database says {}", layer.size)),
            Err(error) => Err(error.to_string()),
        }
    }
}
