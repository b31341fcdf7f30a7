//! Damage that was noticed: layers that are suspect until they are brought again, and images that cannot be read.

use std::collections::HashSet;
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs::Durability;

use crate::{Error, Graph, Result, records};

impl Graph {
    /// Takes a quick look at a layer; one that lacks a part is suspect from then on.
    pub(crate) fn look_at(&self, chain: &Digest) {
        let layers = &self.inner.layers;
        if let Some(layer) = layers.settled(chain)
            && let Err(error) = self.inner.driver.check(&layer.store_id)
            // It may have been removed or replaced between the two.
            && layers.settled(chain).is_some_and(|now| Arc::ptr_eq(&now, &layer))
        {
            self.suspect(chain, &error.to_string(), true);
        }
    }

    /// Has a layer fetched again by the next pull or load that needs it; with `lasting` also after a restart.
    pub(crate) fn suspect(&self, chain: &Digest, reason: &str, lasting: bool) {
        if self.inner.layers.suspect(chain, reason) {
            tracing::warn!(layer = %chain, reason, "a layer is damaged: pull or load its images again");
        }
        // Also what was known here already, and not in the database.
        if lasting
            && self.inner.layers.suspicion(chain).is_some()
            && let Err(error) = self.note_suspect(chain, reason)
        {
            tracing::warn!(layer = %chain, %error, "that a layer is damaged is forgotten with the next start");
        }
    }

    fn note_suspect(&self, chain: &Digest, reason: &str) -> Result<()> {
        if self.inner.db.entity(&records::suspect_id(chain))?.is_some() {
            return Ok(());
        }
        self.inner.db.write(Durability::Process, |db| records::put_suspect(db, chain, reason))
    }

    /// A layer was read whole and is what it should be.
    pub(crate) fn trust(&self, chain: &Digest, lasting: bool) -> Result<()> {
        if self.inner.layers.trust(chain) && lasting {
            self.inner.db.write(Durability::Process, |db| db.purge(&records::suspect_id(chain)))?;
        }
        Ok(())
    }

    /// Fails when a layer, or one below it, is suspect and lacks a part.
    pub(crate) fn sound(&self, top: Option<&Digest>) -> Result<()> {
        let suspects = self.inner.layers.suspects();
        if suspects.is_empty() {
            return Ok(());
        }
        for chain in self.below(top) {
            if let Some(reason) = suspects.get(&chain)
                && let Some(layer) = self.inner.layers.get(&chain)
                && self.inner.driver.check(&layer.store_id).is_err()
            {
                return Err(Error::DamagedLayer { layer: chain, reason: reason.clone() });
            }
        }
        Ok(())
    }

    /// A layer and everything below it, uppermost first.
    pub(crate) fn below(&self, top: Option<&Digest>) -> Vec<Digest> {
        let mut chains = Vec::new();
        let mut at = top.cloned();
        while let Some(chain) = at {
            at = self.inner.layers.get(&chain).and_then(|layer| layer.parent.clone());
            chains.push(chain);
        }
        chains
    }

    /// Takes a quick look at every layer that a container stands on, after its start failed.
    ///
    /// # Errors
    /// [`Error::DamagedLayer`] when one lacks a part; it is suspect from then on.
    pub fn look_over(&self, container: &str) -> Result<()> {
        let record = self.check(container)?;
        self.below(record.parent.as_ref()).iter().for_each(|chain| self.look_at(chain));
        self.sound(record.parent.as_ref())
    }

    /// Gives the damaged layers that were replaced to the next [`Graph::sweep`], but for those that one of the containers that
    /// `running` tells has mounted. It is asked when it is known what was replaced: who starts later has the good ones.
    ///
    /// # Errors
    /// The driver's, and that of `running`.
    pub fn release_replaced<E: From<Error>>(
        &self,
        running: impl FnOnce() -> std::result::Result<Vec<String>, E>,
    ) -> std::result::Result<(), E> {
        let driver = |error: gantry_graphdriver::Error| Error::from(error);
        let replaced = self.driver().replaced().map_err(driver)?;
        if replaced.is_empty() {
            return Ok(());
        }
        let running = running()?;
        let tops = running.iter().filter_map(|container| self.check(container).ok()?.parent);
        let chains: HashSet<Digest> = tops.flat_map(|top| self.below(Some(&top))).collect();
        let mounted = chains.iter().filter_map(|chain| self.inner.layers.get(chain));
        let mounted: HashSet<String> = mounted.map(|layer| layer.store_id.clone()).collect();
        let mut free = replaced.iter().filter(|replaced| !mounted.contains(&replaced.id));
        Ok(free.try_for_each(|replaced| self.driver().release(replaced)).map_err(driver)?)
    }

    /// What is damaged, as far as is known without reading everything: a line each, with what to do.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        let images = self.images();
        let suspects = self.inner.layers.suspects();
        let mut lines = Vec::new();
        for image in images.iter() {
            let damaged = image.layers.iter().find(|layer| suspects.contains_key(&layer.chain_id));
            if let Some(layer) = damaged {
                let reason = &suspects[&layer.chain_id];
                lines.push((image.id.clone(), format!("its layer {} is damaged: {reason}", layer.chain_id)));
            }
        }
        lines.extend(images.damaged().map(|image| (image.id.clone(), image.reason.clone())));
        let line = |(id, reason): (Digest, String)| {
            let names: Vec<_> = images.names(&id).iter().map(Reference::familiar).collect();
            let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            format!(
                "image {id}{names} is damaged: {reason}: pull or load it again, or run `gantry system fsck --repair`"
            )
        };
        lines.into_iter().map(line).collect()
    }
}
