//! Finding images again when the database was damaged: from the documents in the content store, and the layers on the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use gantry_api::json;
use gantry_api::reference::Digest;
use gantry_graphdriver::GraphDriver;
use gantry_linux::fs::Durability;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::db::Rescue;
use crate::image::finish;
use crate::layers::Plan;
use crate::opening::configuration;
use crate::records::{self, IMAGE, LAYER, WRITABLE};
use crate::{Content, Descriptor, GraphDb, Image, ImageConfig, Layer, Result};

/// As much of a manifest as tells which image it is of.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Brings the database up to what is there: images that it does not name are entered, those that were removed since the
/// backup are forgotten, and directories that belong to nothing known are kept from being taken for litter.
///
/// # Errors
/// When a directory or the new database cannot be read or written.
pub(crate) fn reindex(db: &GraphDb, content: &Content, driver: &dyn GraphDriver, rescue: &Rescue) -> Result<()> {
    let documents = content.list()?;
    let stored: HashSet<String> = driver.list()?.into_iter().collect();
    let mut found = Found { driver, stored: &stored, known: known_layers(db)?, archives: None };
    let named: HashSet<String> = db.entities(IMAGE)?.into_iter().map(|entity| entity.id).collect();
    let manifests = manifests(content, &documents);
    let mut images = Vec::new();
    for id in documents.iter().filter(|id| !named.contains(id.as_str())) {
        let Ok((config, raw)) = configuration(content, id) else { continue };
        let manifest = manifests.get(id);
        if let Some(layers) = found.layers(&config, manifest.map(|(_, layers)| layers.as_slice()))? {
            let manifest = manifest.map(|(descriptor, _)| descriptor.clone());
            let id = id.clone();
            images.push(Image { id, config, raw: raw.into(), layers, manifest, parent: None, last_tagged: 0 });
        }
    }
    let gone = named.iter().filter(|id| rescue.from_backup && id.parse().is_ok_and(|id| !content.exists(&id)));
    let gone: Vec<_> = gone.collect();
    tracing::warn!(images = images.len(), gone = gone.len(), "images were indexed again");
    db.write(Durability::Disk, |db| {
        for image in &images {
            image.layers.iter().try_for_each(|layer| records::put_layer(db, layer))?;
            records::put_image(db, image)?;
        }
        gone.iter().try_for_each(|id| db.purge(id).map(drop))
    })?;
    keep(db, &stored)
}

/// The layers that the backup knows.
fn known_layers(db: &GraphDb) -> Result<HashMap<Digest, Layer>> {
    let layers = db.entities(LAYER)?.into_iter().filter_map(|entity| records::read::<Layer>(&entity).ok());
    Ok(layers.map(|layer| (layer.chain_id.clone(), layer)).collect())
}

/// The manifests in the content store, by the image that they are of.
fn manifests(content: &Content, documents: &[Digest]) -> BTreeMap<Digest, (Descriptor, Vec<Descriptor>)> {
    let mut manifests = BTreeMap::new();
    for digest in documents {
        let Ok(raw) = content.read(digest) else { continue };
        if let Ok(manifest) = json::from_slice::<Manifest>(&raw) {
            let descriptor =
                Descriptor { media_type: manifest.media_type, digest: digest.clone(), size: raw.len() as u64 };
            manifests.insert(manifest.config.digest, (descriptor, manifest.layers));
        }
    }
    manifests
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
    driver: &'a dyn GraphDriver,
    stored: &'a HashSet<String>,
    known: HashMap<Digest, Layer>,
    /// What was imported or committed, by the digest of its archive: read only when it is needed.
    archives: Option<HashMap<Digest, String>>,
}

impl Found<'_> {
    /// The layers of an image, if all of them are there; a document whose layers are not was never an image here.
    fn layers(&mut self, config: &ImageConfig, blobs: Option<&[Descriptor]>) -> Result<Option<Vec<Arc<Layer>>>> {
        let mut layers = Vec::new();
        for (index, plan) in Plan::of(&config.rootfs.diff_ids).iter().enumerate() {
            let Some(mut layer) = self.layer(plan)? else { return Ok(None) };
            if let Some(blob) = blobs.and_then(|blobs| blobs.get(index))
                && !layer.blobs.contains(blob)
            {
                layer.blobs.push(blob.clone());
            }
            self.known.insert(plan.chain_id.clone(), layer.clone());
            layers.push(Arc::new(layer));
        }
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
