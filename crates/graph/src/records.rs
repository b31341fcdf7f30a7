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
//! Names of images are edges `/images/<canonical name>` to their image.

use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Descriptor, Entity, Error, Image, Layer, Result, Transaction, join};

pub(crate) const IMAGE: &str = "image";
pub(crate) const LAYER: &str = "layer";
pub(crate) const WRITABLE: &str = "writable";
pub(crate) const KEPT: &str = "kept";
pub(crate) const SUSPECT: &str = "suspect";
pub(crate) const IMAGES: &str = "/images";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub manifest: Option<Descriptor>,
    /// Chain id of its uppermost layer, for when the configuration cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    #[serde(default)]
    pub last_tagged: i64,
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
        manifest: image.manifest.clone(),
        top: image.top().cloned(),
        parent: image.parent.clone(),
        last_tagged: image.last_tagged,
    };
    write(db, image.id.as_str(), IMAGE, &record)
}

pub(crate) fn put_writable(db: &Transaction<'_>, container: &str, record: &WritableRecord) -> Result<()> {
    write(db, &writable_id(container), WRITABLE, record)
}

pub(crate) fn put_suspect(db: &Transaction<'_>, chain: &Digest, reason: &str) -> Result<()> {
    write(db, &suspect_id(chain), SUSPECT, &Suspicion { reason: reason.to_owned() })
}

pub(crate) fn put_kept(db: &Transaction<'_>, store_id: &str) -> Result<()> {
    db.put_entity(&kept_id(store_id), KEPT, "{}")
}
