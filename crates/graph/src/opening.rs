//! What is found when the store is opened: the database's records, held against what is on the disk.
//!
//! One damaged record never keeps the others from being read, and what it belonged to is not taken for litter.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_graphdriver::GraphDriver;
use gantry_linux::fs::Durability;

use crate::images::DamagedImage;
use crate::layers::Plan;
use crate::litter;
use crate::origin::Found;
use crate::records::{self, IMAGE, IMAGES, ImageRecord, KEPT, LAYER, SUSPECT, Suspicion, WRITABLE, WritableRecord};
use crate::{Blob, Content, Entity, GraphDb, Image, ImageConfig, Images, Layer, Origin, Result};

/// What was found.
pub(crate) struct Opening {
    pub layers: HashMap<Digest, Arc<Layer>>,
    pub suspects: Vec<(Digest, String)>,
    pub images: Images,
    pub writable: HashMap<String, WritableRecord>,
    /// Directories whose records were lost with a damaged database.
    pub kept: HashSet<String>,
    /// Every record was read, so that what none names is litter.
    pub complete: bool,
    stored: HashSet<String>,
}

impl Opening {
    /// Reads everything.
    ///
    /// # Errors
    /// When the database or a directory cannot be read at all.
    pub(crate) fn read(db: &GraphDb, content: &Content, driver: &dyn GraphDriver) -> Result<Self> {
        let stored: HashSet<String> = driver.list()?.into_iter().collect();
        litter::note_new_stores(db, driver.name(), &stored, content)?;
        let mut found = Self {
            layers: HashMap::new(),
            suspects: Vec::new(),
            images: Images::default(),
            writable: HashMap::new(),
            kept: HashSet::new(),
            complete: true,
            stored,
        };
        found.read_layers(db)?;
        found.read_images(db, content, driver)?;
        found.read_writable(db)?;
        let kept = db.entities(KEPT)?.into_iter();
        found.kept = kept.filter_map(|entity| Some(entity.id.strip_prefix("kept:")?.to_owned())).collect();
        Ok(found)
    }

    fn read_layers(&mut self, db: &GraphDb) -> Result<()> {
        for entity in db.entities(LAYER)? {
            let Some(layer) = self.record::<Layer>(&entity) else { continue };
            let chain = layer.chain_id.clone();
            let there = self.stored.contains(&layer.store_id);
            self.layers.insert(chain.clone(), Arc::new(layer));
            if !there {
                self.miss(chain);
            }
        }
        for entity in db.entities(SUSPECT)? {
            let chain = entity.id.strip_prefix("suspect:").and_then(|hex| Digest::from_hex(hex).ok());
            if let (Some(suspicion), Some(chain)) = (self.record::<Suspicion>(&entity), chain) {
                self.suspects.push((chain, suspicion.reason));
            }
        }
        Ok(())
    }

    fn miss(&mut self, chain: Digest) {
        tracing::warn!(layer = %chain, "the files of a layer are missing: pull or load its images again");
        self.suspects.push((chain, "its files are missing".to_owned()));
    }

    fn read_images(&mut self, db: &GraphDb, content: &Content, driver: &dyn GraphDriver) -> Result<()> {
        for entity in db.entities(IMAGE)? {
            let Ok(id) = entity.id.parse::<Digest>() else {
                tracing::warn!(image = entity.id, "an image's record has no id; fsck --repair removes it");
                self.complete = false;
                continue;
            };
            let record = self.record::<ImageRecord>(&entity);
            let intact = record.is_some();
            let record = record.unwrap_or_default();
            let origins = record.origins();
            match configuration(content, &id) {
                Ok((config, raw)) => {
                    let layers = self.layers_of(&id, &config, &origins, content, driver);
                    let ImageRecord { parent, last_tagged, .. } = record;
                    let image = Image { id, config, raw: raw.into(), layers, origins, parent, last_tagged };
                    self.images.insert(Arc::new(image));
                }
                Err(error) => {
                    tracing::warn!(image = entity.id, %error, "an image is damaged: pull or load it again");
                    let top = record.top.filter(|_| intact);
                    let reason = error.to_string();
                    self.images.insert_damaged(DamagedImage { id, reason, origins, top });
                }
            }
        }
        for (name, id) in db.children(IMAGES)? {
            if let (Ok(name), Ok(id)) = (Reference::parse(&name), id.parse())
                && self.images.is_known(&id)
            {
                self.images.name(name, id);
            }
        }
        Ok(())
    }

    /// An image's layers; those without a readable record are looked for under the id that a pulled layer has.
    fn layers_of(
        &mut self,
        image: &Digest,
        config: &ImageConfig,
        origins: &[Origin],
        content: &Content,
        driver: &dyn GraphDriver,
    ) -> Vec<Arc<Layer>> {
        let mut layers = Vec::new();
        let plans = Plan::of(&config.rootfs.diff_ids);
        for (index, plan) in plans.iter().enumerate() {
            let layer = self.layers.get(&plan.chain_id).cloned().unwrap_or_else(|| {
                let mut layer = plan.found(driver.size(plan.chain_id.hex()).unwrap_or(0));
                for manifest in origins.iter().map(|origin| &origin.manifest.digest) {
                    let find = |digest: &Digest| content.read(digest).ok();
                    if let Some(found) = Found::read(None, manifest, image, plans.len(), &find) {
                        Blob::found(&found.layers[index], &plan.diff_id, content).add_to(&mut layer.blobs);
                    }
                }
                let layer = Arc::new(layer);
                self.layers.insert(plan.chain_id.clone(), Arc::clone(&layer));
                if driver.check(&layer.store_id).is_err() {
                    self.miss(plan.chain_id.clone());
                }
                layer
            });
            layers.push(layer);
        }
        layers
    }

    fn read_writable(&mut self, db: &GraphDb) -> Result<()> {
        for entity in db.entities(WRITABLE)? {
            let container = entity.id.trim_start_matches("writable:").to_owned();
            if self.stored.contains(&container) {
                if let Some(record) = self.record::<WritableRecord>(&entity) {
                    self.writable.insert(container, record);
                }
            } else {
                // Its removal was interrupted after the files went.
                db.write(Durability::Process, |db| db.purge(&entity.id))?;
            }
        }
        Ok(())
    }

    fn record<T: serde::de::DeserializeOwned>(&mut self, entity: &Entity) -> Option<T> {
        match records::read(entity) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(%error, "a record of the database is damaged; `gantry system fsck` tells more");
                self.complete = false;
                None
            }
        }
    }

    /// Removes layers that no commit reached. Where not all of the database could be read, or it did not see the store's
    /// beginning, nothing is touched.
    pub(crate) fn remove_orphans(&self, db: &GraphDb, driver: &dyn GraphDriver) -> Result<()> {
        let known: HashSet<&str> = self.layers.values().map(|layer| layer.store_id.as_str()).collect();
        let orphans = self.stored.iter();
        let orphans = orphans
            .filter(|id| !known.contains(id.as_str()) && !self.writable.contains_key(*id) && !self.kept.contains(*id));
        let orphans: Vec<_> = orphans.collect();
        if !orphans.is_empty() && (!self.complete || !litter::knows_all(db, driver.name())?) {
            tracing::warn!(layers = orphans.len(), "the database does not name some layers; they are left alone");
            return Ok(());
        }
        for id in orphans {
            match driver.remove(id) {
                // What fills the disk must not keep the daemon from starting: the first sweep deletes it where it lies.
                Err(error) if error.is_disk_full() => {
                    tracing::warn!(%error, "a layer that nothing names waits for the sweep")
                }
                other => other?,
            }
        }
        Ok(())
    }
}

impl Plan {
    /// A layer that has no record, where a pulled one lies.
    pub(crate) fn found(&self, size: u64) -> Layer {
        Layer {
            chain_id: self.chain_id.clone(),
            diff_id: self.diff_id.clone(),
            parent: self.parent.clone(),
            store_id: self.chain_id.hex().to_owned(),
            size,
            archive_size: 0,
            blobs: Vec::new(),
        }
    }
}

/// The configuration of an image, verified.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Digest`], [`Error::Invalid`].
pub(crate) fn configuration(content: &Content, id: &Digest) -> Result<(ImageConfig, Vec<u8>)> {
    let raw = content.read(id)?;
    Ok((ImageConfig::parse(&raw)?, raw))
}
