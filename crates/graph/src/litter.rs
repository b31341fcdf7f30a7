//! What is stored and belongs to nothing: left by a daemon that died, or by a failure that was not undone wholly.

use std::collections::{BTreeSet, HashSet};
use std::sync::MutexGuard;

use gantry_api::reference::Digest;
use gantry_linux::fs::Durability;

use crate::records::IMAGE;
use crate::{Content, Graph, GraphDb, Result, Transaction, shelf};

/// The kind of the entities that say of a store (a driver's, or that of documents) that the database was there before it
/// held anything.
const FIRST: &str = "first";
/// The store of documents.
const CONTENT: &str = "content";

/// Writes into the database, of each store that holds nothing, that it knows all that will ever be in it: then what it does
/// not name is litter, also when it names nothing.
pub(crate) fn note_new_stores(db: &GraphDb, driver: &str, layers: &HashSet<String>, content: &Content) -> Result<()> {
    for (store, is_empty) in [(driver, layers.is_empty()), (CONTENT, content.list()?.is_empty())] {
        if is_empty && !knows_all(db, store)? {
            db.put_entity(Durability::Disk, &id(store), FIRST, "{}")?;
        }
    }
    Ok(())
}

/// Whether the database was there before the store held anything.
pub(crate) fn knows_all(db: &GraphDb, store: &str) -> Result<bool> {
    Ok(db.entity(&id(store))?.is_some())
}

/// From here on what the database does not name is nobody's litter, in any store that holds something.
pub(crate) fn forget_beginnings(db: &Transaction<'_>) -> Result<()> {
    db.entities(FIRST)?.iter().try_for_each(|entity| db.purge(&entity.id).map(drop))
}

fn id(store: &str) -> String {
    format!("{FIRST}:{store}")
}

impl Graph {
    /// Says that the database knows all that there is: a check found nothing else, or deleted it.
    pub(crate) fn note_beginnings(&self) -> Result<()> {
        for store in [self.driver().name(), CONTENT] {
            if !knows_all(self.db(), store)? {
                self.db().put_entity(Durability::Disk, &id(store), FIRST, "{}")?;
            }
        }
        Ok(())
    }

    /// Whether content is needed: by an image that there is (what those name is `named`) or that comes in, or by a layer.
    pub(crate) fn needs(&self, named: &BTreeSet<&Digest>, digest: &Digest) -> bool {
        named.contains(digest) || self.content().is_awaited(digest) || self.inner.layers.keeps(digest, |_| true)
    }

    /// Deletes the documents that no image names. Where an image of the database could not be read, or the database may be
    /// another one than the store's, nothing is deleted.
    pub(crate) fn discard_documents(&self, _change: &MutexGuard<'_, ()>) -> Result<()> {
        let images = self.images();
        let named = images.documents();
        let stored = self.content().list()?;
        let litter: Vec<_> = stored.iter().filter(|digest| !self.needs(&named, digest)).collect();
        // A change that failed may name them after the next start.
        self.db().settle()?;
        let unsure = self.was_rescued() || self.db().entities(IMAGE)?.len() > images.len();
        // Those of a damaged shelf are not known.
        let unsure = unsure || !shelf::damaged(self.db())?.is_empty();
        if litter.is_empty() || unsure {
            return Ok(());
        }
        if !knows_all(self.db(), CONTENT)? {
            return Ok(());
        }
        litter.into_iter().try_for_each(|digest| self.content().delete(digest))
    }
}
