//! Finding images again when the database was damaged: from the documents in the content store, and the layers on the disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gantry_api::reference::Digest;
use gantry_graphdriver::GraphDriver;
use gantry_linux::fs::Durability;
use sha2::{Digest as _, Sha256};

use crate::db::Rescue;
use crate::image::finish;
use crate::layers::Plan;
use crate::opening::configuration;
use crate::origin::{self, Ways};
use crate::records::{self, IMAGE, LAYER, UNPLACED, Unplaced, WRITABLE};
use crate::{Blob, Content, Descriptor, GraphDb, Image, ImageConfig, Layer, Origin, Result, litter};

/// Brings the database up to what is there: images that it does not name are entered, those that were removed since the
/// backup are forgotten, and what belongs to nothing known is kept from being taken for litter.
///
/// # Errors
/// When a directory or the new database cannot be read or written.
pub(crate) fn reindex(db: &GraphDb, content: &Content, driver: &dyn GraphDriver, rescue: &Rescue) -> Result<()> {
    let documents = content.list()?;
    let stored: HashSet<String> = driver.list()?.into_iter().collect();
    let named: HashSet<String> = db.entities(IMAGE)?.into_iter().map(|entity| entity.id).collect();
    let candidates: Vec<&Digest> = documents.iter().filter(|id| !named.contains(id.as_str())).collect();
    let gone = named.iter().filter(|id| rescue.from_backup && id.parse().is_ok_and(|id| !content.exists(&id)));
    let gone: Vec<_> = gone.collect();
    let mut found = Found { content, driver, stored: &stored, known: known_layers(db)?, archives: None };
    let images = found.images(&candidates, &documents)?;
    db.write(Durability::Disk, |db| {
        gone.iter().try_for_each(|id| db.purge(id).map(drop))?;
        // What the database saw of the beginning of anything, it may have forgotten.
        litter::forget_beginnings(db)?;
        records::forget_edges(db)?;
        images.enter(db)
    })?;
    tracing::warn!(
        images = images.whole.len(),
        gone = gone.len(),
        unplaced = images.unplaced.len(),
        "images were indexed again"
    );
    keep(db, &stored)
}

/// Enters images whose layers no rescue found, and are there now: with another graphdriver. Returns the documents of those that
/// still have no layers.
///
/// # Errors
/// When a directory or the database cannot be read or written.
pub(crate) fn place(db: &GraphDb, content: &Content, driver: &dyn GraphDriver) -> Result<HashSet<Digest>> {
    let entities = db.entities(UNPLACED)?;
    if entities.is_empty() {
        return Ok(HashSet::new());
    }
    let id = |id: &str| id.strip_prefix("unplaced:").and_then(|id| id.parse::<Digest>().ok());
    let ids: Vec<Digest> = entities.iter().filter_map(|entity| id(&entity.id)).collect();
    let documents = entities.iter().filter_map(|entity| records::read::<Unplaced>(entity).ok());
    let documents: Vec<Digest> = documents.flat_map(|unplaced| unplaced.documents).collect();
    let stored: HashSet<String> = driver.list()?.into_iter().collect();
    let mut found = Found { content, driver, stored: &stored, known: known_layers(db)?, archives: None };
    let images = found.images(&ids.iter().collect::<Vec<_>>(), &documents)?;
    if !images.whole.is_empty() {
        db.write(Durability::Disk, |db| images.enter(db))?;
    }
    Ok(images.unplaced.into_iter().flat_map(|(_, unplaced)| unplaced.documents).chain(ids).collect())
}

/// Images that were found again.
#[derive(Default)]
struct Images {
    /// With layers, not all of which need be there.
    whole: Vec<Image>,
    /// None of their layers is there.
    unplaced: Vec<(Digest, Unplaced)>,
}

impl Images {
    fn enter(&self, db: &crate::Transaction<'_>) -> Result<()> {
        for image in &self.whole {
            db.purge(&records::unplaced_id(&image.id))?;
            image.layers.iter().try_for_each(|layer| records::put_layer(db, layer))?;
            records::put_image(db, image)?;
        }
        self.unplaced.iter().try_for_each(|(id, unplaced)| records::put_unplaced(db, id, unplaced))
    }
}

/// The layers that the backup knows.
fn known_layers(db: &GraphDb) -> Result<HashMap<Digest, Layer>> {
    let layers = db.entities(LAYER)?.into_iter().filter_map(|entity| records::read::<Layer>(&entity).ok());
    Ok(layers.map(|layer| (layer.chain_id.clone(), layer)).collect())
}

/// What directories there are, and which belong to nothing that is known.
fn keep(db: &GraphDb, stored: &HashSet<String>) -> Result<()> {
    let known: HashSet<String> = known_layers(db)?.into_values().map(|layer| layer.store_id).collect();
    let writable: HashSet<String> = db.entities(WRITABLE)?.into_iter().map(|entity| entity.id).collect();
    let lost = stored.iter().filter(|id| !known.contains(*id) && !writable.contains(&records::writable_id(id)));
    let lost: Vec<_> = lost.collect();
    db.write(Durability::Disk, |db| lost.iter().try_for_each(|id| records::put_kept(db, id)))
}

/// Looks for layers on the disk.
struct Found<'a> {
    content: &'a Content,
    driver: &'a dyn GraphDriver,
    stored: &'a HashSet<String>,
    known: HashMap<Digest, Layer>,
    /// What was imported or committed, by the digest of its archive: read only when it is needed.
    archives: Option<HashMap<Digest, String>>,
}

impl Found<'_> {
    /// The images that documents are the configurations of. Without a single one of its layers it may be another graphdriver's.
    fn images(&mut self, candidates: &[&Digest], documents: &[Digest]) -> Result<Images> {
        let content = self.content;
        let find = |digest: &Digest| content.read(digest).ok();
        let ways = Ways::from(documents, usize::MAX, &find);
        let mut configs = Vec::new();
        for id in candidates {
            if let Ok((config, raw)) = configuration(content, id) {
                let found = ways.to(id, config.rootfs.diff_ids.len(), &find);
                configs.push(((*id).clone(), config, raw, found));
            }
        }
        // An attestation has a configuration like an image's.
        let origins = configs.iter().flat_map(|(.., found)| found).flat_map(|found| &found.origin.attached);
        let attached: HashSet<Digest> = origins.map(|document| document.digest.clone()).collect();
        let mut images = Images::default();
        for (id, config, raw, came) in configs.into_iter().filter(|(id, ..)| !attached.contains(id)) {
            let origins: Vec<Origin> = came.iter().map(|found| found.origin.clone()).collect();
            let blobs: Vec<_> = came.into_iter().map(|found| found.layers).collect();
            // Blobs that are kept for the layers, wherever these are.
            let named = || blobs.iter().flatten().map(|blob| &blob.digest).filter(|digest| content.exists(digest));
            match self.layers(&config, &blobs)? {
                Some(layers) => {
                    images.whole.push(Image {
                        id,
                        config,
                        raw: raw.into(),
                        layers,
                        origins,
                        parent: None,
                        last_tagged: 0,
                    });
                }
                None => {
                    let documents = origin::documents(&origins).chain([&id]).chain(named()).cloned().collect();
                    images.unplaced.push((id, Unplaced { documents }));
                }
            }
        }
        Ok(images)
    }

    /// The layers of an image, if one of them is there, or it has none; those that are not there are damaged ones.
    fn layers(&mut self, config: &ImageConfig, blobs: &[Vec<Descriptor>]) -> Result<Option<Vec<Arc<Layer>>>> {
        let (mut layers, mut there) = (Vec::new(), 0);
        for (index, plan) in Plan::of(&config.rootfs.diff_ids).iter().enumerate() {
            let found = self.layer(plan)?;
            there += usize::from(found.is_some());
            let mut layer = found.unwrap_or_else(|| plan.found(0));
            for blob in blobs.iter().filter_map(|blobs| blobs.get(index)) {
                Blob::found(blob, &plan.diff_id, self.content).add_to(&mut layer.blobs);
            }
            layers.push(Arc::new(layer));
        }
        if there == 0 && !layers.is_empty() {
            return Ok(None);
        }
        self.known.extend(layers.iter().map(|layer| (layer.chain_id.clone(), (**layer).clone())));
        Ok(Some(layers))
    }

    fn layer(&mut self, plan: &Plan) -> Result<Option<Layer>> {
        if let Some(layer) = self.known.get(&plan.chain_id) {
            return Ok(Some(layer.clone()));
        }
        let mut layer = plan.found(0);
        if !self.stored.contains(&layer.store_id) {
            match self.archives()?.get(&plan.diff_id) {
                Some(store_id) => layer.store_id.clone_from(store_id),
                None => return Ok(None),
            }
        }
        if self.driver.check(&layer.store_id).is_err() {
            return Ok(None);
        }
        layer.size = self.driver.size(&layer.store_id)?;
        Ok(Some(layer))
    }

    /// The layers that lie under an id that does not say what they are.
    fn archives(&mut self) -> Result<&HashMap<Digest, String>> {
        if self.archives.is_none() {
            let own = self.stored.iter().filter(|id| id.starts_with("import-") || id.starts_with("commit-"));
            let mut archives = HashMap::new();
            for id in own {
                let mut hash = Hash(Sha256::new());
                // One that cannot be read is nobody's layer now.
                if self.driver.diff(id, &mut hash).is_ok() {
                    archives.insert(finish(hash.0), id.clone());
                }
            }
            self.archives = Some(archives);
        }
        Ok(self.archives.get_or_insert_default())
    }
}

struct Hash(Sha256);

impl std::io::Write for Hash {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
