//! How images, layers and writable layers are written in the GraphDB.
//!
//! | kind | id | document |
//! |---|---|---|
//! | `image` | `sha256:…`, the configuration's digest | [`ImageRecord`]; the configuration is in the content store |
//! | `layer` | `layer:` and the chain id's digits | [`Layer`] |
//! | `writable` | `writable:` and the container's id | [`WritableRecord`] |
//! | `kept` | `kept:` and the graphdriver's id | `{}`: a directory whose record was lost with a damaged database |
//! | `suspect` | `suspect:` and the chain id's digits | [`Suspicion`]: the layer is damaged |
//!
//! | `unplaced` | `unplaced:` and the image's id | [`Unplaced`]: an image that a rescue found no layers of |
//! | `edges` | `edges` | `{}`: the edges of every image are there |
//!
//! Names of images are edges `/images/<canonical name>` to their image. An image has an edge `parent` to the image that it was
//! made on top of, and edges `layer:000` … to its layers, lowest first.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs::Durability;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Descriptor, Entity, Error, GraphDb, Image, Layer, Origin, Result, Transaction, View, join};

pub(crate) const IMAGE: &str = "image";
pub(crate) const LAYER: &str = "layer";
pub(crate) const WRITABLE: &str = "writable";
pub(crate) const KEPT: &str = "kept";
pub(crate) const SUSPECT: &str = "suspect";
pub(crate) const IMAGES: &str = "/images";
pub(crate) const UNPLACED: &str = "unplaced";
const EDGES: &str = "edges";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// What older versions knew of its origin.
    #[serde(default, skip_serializing)]
    manifest: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    origins: Vec<Origin>,
    /// Chain id of its uppermost layer, for when the configuration cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    #[serde(default)]
    pub last_tagged: i64,
}

impl ImageRecord {
    pub(crate) fn origins(&self) -> Vec<Origin> {
        let old = |manifest: &Descriptor| Origin { index: None, manifest: manifest.clone(), attached: Vec::new() };
        if self.origins.is_empty() { self.manifest.iter().map(old).collect() } else { self.origins.clone() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WritableRecord {
    pub image: Digest,
    /// Chain id of the image's uppermost layer.
    pub parent: Option<Digest>,
}

/// Why a layer is not to be trusted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Suspicion {
    pub reason: String,
}

/// The documents of an image that a rescue found, and no layer of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unplaced {
    pub documents: Vec<Digest>,
}

pub(crate) fn unplaced_id(image: &Digest) -> String {
    format!("unplaced:{image}")
}

pub(crate) fn layer_id(chain: &Digest) -> String {
    format!("layer:{}", chain.hex())
}

pub(crate) fn suspect_id(chain: &Digest) -> String {
    format!("suspect:{}", chain.hex())
}

pub(crate) fn kept_id(store_id: &str) -> String {
    format!("kept:{store_id}")
}

pub(crate) fn writable_id(container: &str) -> String {
    format!("writable:{container}")
}

pub(crate) fn name_path(name: &Reference) -> String {
    join(IMAGES, &name.to_string())
}

pub(crate) fn read<T: DeserializeOwned>(entity: &Entity) -> Result<T> {
    serde_json::from_str(&entity.properties)
        .map_err(|error| Error::invalid(format!("document of {} {}", entity.kind, entity.id), error))
}

fn write(db: &Transaction<'_>, id: &str, kind: &str, document: &impl Serialize) -> Result<()> {
    let document = serde_json::to_string(document).map_err(|error| Error::invalid(format!("{kind} {id}"), error))?;
    db.put_entity(id, kind, &document)
}

pub(crate) fn put_layer(db: &Transaction<'_>, layer: &Layer) -> Result<()> {
    write(db, &layer_id(&layer.chain_id), LAYER, layer)
}

pub(crate) fn purge_layers(db: &Transaction<'_>, layers: &[Arc<Layer>]) -> Result<()> {
    let ids = |chain: &Digest| [layer_id(chain), suspect_id(chain)];
    layers.iter().flat_map(|layer| ids(&layer.chain_id)).try_for_each(|id| db.purge(&id).map(drop))
}

pub(crate) fn put_image(db: &Transaction<'_>, image: &Image) -> Result<()> {
    let record = ImageRecord {
        manifest: None,
        origins: image.origins.clone(),
        top: image.top().cloned(),
        parent: image.parent.clone(),
        last_tagged: image.last_tagged,
    };
    write(db, image.id.as_str(), IMAGE, &record)?;
    put_edges(db, image)
}

/// Makes the edges of an image what they should be; a layer that has no record gets one.
fn put_edges(db: &Transaction<'_>, image: &Image) -> Result<()> {
    for layer in &image.layers {
        if db.entity(&layer_id(&layer.chain_id))?.is_none() {
            put_layer(db, layer)?;
        }
    }
    let id = image.id.as_str();
    let (there, wanted) = (db.edges(id)?, edges(db, image)?);
    for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
        db.unlink(id, name)?;
    }
    for (name, child) in wanted.iter().filter(|(name, child)| there.get(*name) != Some(child)) {
        db.link(id, name, child)?;
    }
    Ok(())
}

/// The edges that an image should have. A parent that is not there has none, nor one that stands on the image itself.
pub(crate) fn edges(db: &View<'_>, image: &Image) -> Result<BTreeMap<String, String>> {
    let layers = image.layers.iter().enumerate();
    let mut edges: BTreeMap<String, String> =
        layers.map(|(index, layer)| (format!("layer:{index:03}"), layer_id(&layer.chain_id))).collect();
    if let Some(parent) = &image.parent
        && db.entity(parent.as_str())?.is_some()
        && !db.reaches(parent.as_str(), image.id.as_str())?
    {
        edges.insert("parent".to_owned(), parent.to_string());
    }
    Ok(edges)
}

/// Makes the edges of these images, once: those of a database that an older version wrote, or that was found again.
pub(crate) fn complete_edges<'a>(db: &GraphDb, images: impl Iterator<Item = &'a Arc<Image>>) -> Result<()> {
    if db.entity(EDGES)?.is_some() {
        return Ok(());
    }
    db.write(Durability::Process, |db| {
        for image in images {
            put_edges(db, image)?;
        }
        db.put_entity(EDGES, EDGES, "{}")
    })
}

/// Has the edges be made with the next opening.
pub(crate) fn forget_edges(db: &Transaction<'_>) -> Result<()> {
    db.purge(EDGES).map(drop)
}

pub(crate) fn put_writable(db: &Transaction<'_>, container: &str, record: &WritableRecord) -> Result<()> {
    write(db, &writable_id(container), WRITABLE, record)
}

pub(crate) fn put_suspect(db: &Transaction<'_>, chain: &Digest, reason: &str) -> Result<()> {
    write(db, &suspect_id(chain), SUSPECT, &Suspicion { reason: reason.to_owned() })
}

pub(crate) fn put_unplaced(db: &Transaction<'_>, image: &Digest, unplaced: &Unplaced) -> Result<()> {
    write(db, &unplaced_id(image), UNPLACED, unplaced)
}

pub(crate) fn put_kept(db: &Transaction<'_>, store_id: &str) -> Result<()> {
    db.put_entity(&kept_id(store_id), KEPT, "{}")
}
