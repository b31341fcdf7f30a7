//! The records of other graphdrivers than the one in use, put aside in the database: a store knows the images, layers and
//! names of its own driver alone, and what is done to them leaves those of the others as they are.
//!
//! | kind | id | document |
//! |---|---|---|
//! | `graphdriver` | `graphdriver` | [`InUse`]: whose records those of the other kinds are |
//! | `shelf` | `shelf:` and the driver's name | [`Shelf`]: everything of it |

use std::collections::{BTreeMap, HashSet};

use gantry_api::reference::{Digest, Reference};
use gantry_graphdriver::GraphDriver;
use gantry_linux::fs::Durability;
use serde::{Deserialize, Serialize};

use crate::records::{self, IMAGE, IMAGES, ImageRecord, LAYER, WRITABLE};
use crate::{Entity, Error, Graph, GraphDb, Layer, Origin, Result, Transaction, join};

const IN_USE: &str = "graphdriver";
const SHELF: &str = "shelf";
/// The shelf of images whose driver is not known any more.
const UNKNOWN: &str = "unknown";
/// The kinds of records that belong to a driver.
const KINDS: [&str; 5] = [IMAGE, LAYER, WRITABLE, "kept", "suspect"];

#[derive(Debug, Serialize, Deserialize)]
struct InUse {
    driver: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Shelf {
    records: Vec<Record>,
    /// Names of images with their ids.
    names: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    kind: String,
    properties: String,
}

/// Puts the records of the driver that was used before aside, and takes up those of `driver`, in one step. Returns the
/// documents that the images of other drivers need.
pub(crate) fn switch(db: &GraphDb, driver: &dyn GraphDriver) -> Result<Switched> {
    let mut lost = false;
    let before = match db.entity(IN_USE)?.map(|entity| records::read::<InUse>(&entity)).transpose() {
        Ok(before) => before,
        Err(error) => {
            let before = InUse { driver: guess(db, driver)? };
            tracing::warn!(%error, taken_for = before.driver, "whose images the database has is damaged");
            // It is written anew below, if it is the right one.
            db.write(Durability::Disk, |db| put(db, IN_USE, IN_USE, &before))?;
            Some(before)
        }
    };
    let driver = driver.name();
    if before.as_ref().is_none_or(|before| before.driver != driver) {
        db.write(Durability::Disk, |db| {
            if let Some(before) = &before {
                put_aside(db, &before.driver)?;
                lost = !take_up(db, driver)?;
            }
            put(db, IN_USE, IN_USE, &InUse { driver: driver.to_owned() })
        })?;
        if let Some(before) = before {
            tracing::warn!(
                before = before.driver,
                driver,
                "another graphdriver: images and containers of the one before are kept aside"
            );
        }
    }
    Ok(Switched { documents: documents(db)?, lost })
}

/// What a switch of drivers found.
pub(crate) struct Switched {
    /// The documents that the images of other drivers need.
    pub documents: HashSet<Digest>,
    /// The shelf of the driver was damaged: what is there must be indexed again.
    pub lost: bool,
}

/// The driver that the layers in the database are of: the one in use, if it has one of them or there are none.
fn guess(db: &GraphDb, driver: &dyn GraphDriver) -> Result<String> {
    let layers = db.entities(LAYER)?;
    let layers = layers.iter().filter_map(|entity| records::read::<Layer>(entity).ok());
    let (mut any, mut own) = (false, false);
    for layer in layers {
        any = true;
        own |= driver.exists(&layer.store_id);
    }
    Ok(if any && !own { UNKNOWN.to_owned() } else { driver.name().to_owned() })
}

/// The shelves that cannot be read.
pub(crate) fn damaged(db: &GraphDb) -> Result<Vec<(String, Error)>> {
    let shelves = db.entities(SHELF)?;
    let error = |entity: &Entity| records::read::<Shelf>(entity).err();
    Ok(shelves.iter().filter_map(|entity| Some((entity.id.clone(), error(entity)?))).collect())
}

/// The documents that the images of other drivers need.
pub(crate) fn documents(db: &GraphDb) -> Result<HashSet<Digest>> {
    Ok(shelves(db)?.iter().flat_map(|(_, shelf)| shelf.documents()).collect())
}

/// The driver that a container was made with, when that is another than the one in use.
pub(crate) fn driver_of(db: &GraphDb, container: &str) -> Result<Option<String>> {
    let id = records::writable_id(container);
    let mut shelves = shelves(db)?.into_iter();
    let found = shelves.find(|(_, shelf)| shelf.records.iter().any(|record| record.id == id));
    Ok(found.map(|(driver, _)| driver))
}

impl Graph {
    /// The containers whose layers other graphdrivers have: they use no image of this one.
    ///
    /// # Errors
    /// The database's.
    pub fn container_layers_elsewhere(&self) -> Result<HashSet<String>> {
        let shelves = shelves(self.db())?;
        let records = shelves.iter().flat_map(|(_, shelf)| &shelf.records);
        Ok(records.filter_map(|record| record.id.strip_prefix("writable:").map(str::to_owned)).collect())
    }
}

fn shelves(db: &GraphDb) -> Result<Vec<(String, Shelf)>> {
    Ok(db.entities(SHELF)?.iter().filter_map(|entity| Some((driver(entity)?, read(entity)?))).collect())
}

fn driver(entity: &Entity) -> Option<String> {
    Some(entity.id.strip_prefix("shelf:")?.to_owned())
}

/// A damaged one keeps nobody from working with another driver.
fn read(entity: &Entity) -> Option<Shelf> {
    let shelf = records::read(entity);
    shelf
        .inspect_err(
            |error| tracing::warn!(%error, "the images of another graphdriver are indexed again when it is used"),
        )
        .ok()
}

fn shelf_id(driver: &str) -> String {
    format!("shelf:{driver}")
}

fn put(db: &Transaction<'_>, id: &str, kind: &str, document: &impl Serialize) -> Result<()> {
    let document = serde_json::to_string(document).map_err(|error| Error::invalid(format!("{kind} {id}"), error))?;
    db.put_entity(id, kind, &document)
}

fn put_aside(db: &Transaction<'_>, driver: &str) -> Result<()> {
    let mut shelf = Shelf { names: db.children(IMAGES)?, ..Shelf::default() };
    for kind in KINDS {
        for Entity { id, kind, properties } in db.entities(kind)? {
            // Names go with what they name.
            db.purge(&id)?;
            shelf.records.push(Record { id, kind, properties });
        }
    }
    put(db, &shelf_id(driver), SHELF, &shelf)
}

/// False where its shelf is damaged, and gone now.
fn take_up(db: &Transaction<'_>, driver: &str) -> Result<bool> {
    let id = shelf_id(driver);
    let Some(entity) = db.entity(&id)? else { return Ok(true) };
    let Some(shelf) = read(&entity) else {
        db.purge(&id)?;
        return Ok(false);
    };
    for record in &shelf.records {
        db.put_entity(&record.id, &record.kind, &record.properties)?;
    }
    for (name, image) in &shelf.names {
        db.replace(&join(IMAGES, name), image)?;
    }
    records::forget_edges(db)?;
    db.purge(&id)?;
    Ok(true)
}

impl Shelf {
    /// Configurations, manifests, what names name by digest, and the blobs that are kept for layers.
    fn documents(&self) -> HashSet<Digest> {
        let images = self.records.iter().filter(|record| record.kind == IMAGE);
        let of_image = |record: &Record| {
            let image = serde_json::from_str::<ImageRecord>(&record.properties).unwrap_or_default();
            let origins = image.origins();
            let documents = origins.iter().flat_map(Origin::documents).map(|document| document.digest.clone());
            documents.chain(record.id.parse().ok()).collect::<Vec<_>>()
        };
        let mut documents: HashSet<Digest> = images.flat_map(of_image).collect();
        let names = self.names.keys().filter_map(|name| Reference::parse(name).ok());
        documents.extend(names.filter_map(|name| name.digest().cloned()));
        let layers = self.records.iter().filter(|record| record.kind == LAYER);
        let layers: Vec<Layer> = layers.filter_map(|record| serde_json::from_str(&record.properties).ok()).collect();
        documents.extend(layers.iter().flat_map(Layer::kept).cloned());
        documents
    }
}
