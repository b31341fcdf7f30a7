//! What is stored and belongs to nothing: left by a daemon that died, or by a failure that was not undone wholly.

use std::collections::HashSet;
use std::sync::MutexGuard;

use gantry_linux::fs::Durability;

use crate::records::IMAGE;
use crate::{Graph, GraphDb, Result};

/// The entity, and its kind, of a database that was there before anything was stored.
const FIRST: &str = "first";

/// Writes into the database of a store that holds nothing that it knows all that will ever be stored: then what it does not
/// name is litter, also when it names nothing.
pub(crate) fn note_a_new_store(db: &GraphDb, stored: &HashSet<String>) -> Result<()> {
    if !stored.is_empty() || knows_all(db)? {
        return Ok(());
    }
    db.put_entity(Durability::Disk, FIRST, FIRST, "{}")
}

/// Whether the database was there before anything was stored.
pub(crate) fn knows_all(db: &GraphDb) -> Result<bool> {
    Ok(db.entity(FIRST)?.is_some())
}

impl Graph {
    /// Deletes the documents that no image names. Where an image of the database could not be read, or the database may be
    /// another one than the store's, nothing is deleted.
    pub(crate) fn discard_documents(&self, _change: &MutexGuard<'_, ()>) -> Result<()> {
        let images = self.images();
        let named = images.documents();
        let stored = self.content().list()?;
        let litter: Vec<_> = stored.iter().filter(|digest| !named.contains(digest)).collect();
        // A change that failed may name them after the next start.
        self.db().settle()?;
        if litter.is_empty() || !knows_all(self.db())? || self.db().entities(IMAGE)?.len() > images.len() {
            return Ok(());
        }
        litter.into_iter().try_for_each(|digest| self.content().delete(digest))
    }
}
