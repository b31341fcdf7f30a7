//! The writable layers of containers.

use std::io::Write;
use std::sync::PoisonError;

use gantry_api::reference::Digest;
use gantry_graphdriver::Change;
use gantry_linux::fs::Durability;
use gantry_linux::mount::{IdMap, RootMount};

use crate::records::{self, WritableRecord};
use crate::{Error, Graph, Result, shelf};

impl Graph {
    /// Makes the writable layer of a container on an image. It does not wait for the disk. `limit` is how many bytes may
    /// be written to it; see [`gantry_graphdriver::GraphDriver::create_writable`].
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], or [`Error::Conflict`] when the container has one.
    pub fn create_container_layer(&self, container: &str, image: &Digest, limit: Option<u64>) -> Result<()> {
        let (record, parent) = self.reserve(container, image)?;
        let made = self.sound(record.parent.as_ref()).and_then(|()| {
            self.inner.driver.create_writable(container, parent.as_deref(), limit)?;
            self.inner.db.write(Durability::Process, |db| records::put_writable(db, container, &record))
        });
        if made.is_err() {
            let damage = self.look_over(container);
            // The first error is the one that matters; the next sweep removes what this cannot, and the next start forgets a
            // record without files.
            if let Err(error) = self.discard_container_layer(container) {
                tracing::warn!(%error, container, "a failed writable layer stays until the next sweep");
            }
            damage?;
        }
        made
    }

    /// Makes whole what a power cut took of young writable layers.
    pub(crate) fn complete_container_layers(&self) {
        let writable = self.writable().clone();
        for (container, record) in writable {
            let parent = record.parent.as_ref().map(|chain| self.inner.layers.get(chain));
            // Without the layers below it there is nothing to complete.
            let Some(parent) = parent.map_or(Some(None), |layer| layer.map(Some)) else { continue };
            let parent = parent.as_ref().map(|layer| layer.store_id.as_str());
            if let Err(error) = self.inner.driver.complete_writable(&container, parent) {
                tracing::warn!(%error, container, "what the container's layer is on top of is lost");
            }
        }
    }

    /// From here on the image's layers stay, whatever happens to the image.
    fn reserve(&self, container: &str, image: &Digest) -> Result<(WritableRecord, Option<String>)> {
        let _change = self.change();
        let images = self.images();
        let image = images.get(image).ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
        let record = WritableRecord { image: image.id.clone(), parent: image.top().cloned() };
        let mut writable = self.writable();
        if writable.contains_key(container) {
            return Err(Error::Conflict(format!("container {container} has a writable layer already")));
        }
        writable.insert(container.to_owned(), record.clone());
        Ok((record, image.layers.last().map(|top| top.store_id.clone())))
    }

    /// Makes it the layer of a container with this mapping of users, before anything is written to it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer.
    pub fn map_container_layer(&self, container: &str, map: &IdMap) -> Result<()> {
        self.check(container)?;
        Ok(self.inner.driver.map_owners(container, map)?)
    }

    pub(crate) fn check(&self, container: &str) -> Result<WritableRecord> {
        if let Some(record) = self.writable().get(container) {
            return Ok(record.clone());
        }
        Err(match shelf::driver_of(&self.inner.db, container)? {
            Some(driver) => Error::Conflict(format!(
                "container {container} was made with the graphdriver {driver}, and the daemon uses {}: start it with \
                 --storage-driver {driver}",
                self.inner.driver.name()
            )),
            None => Error::NotFound { kind: "writable layer of container", name: container.to_owned() },
        })
    }

    /// The containers that have a writable layer.
    #[must_use]
    pub fn container_layers(&self) -> Vec<String> {
        self.writable().keys().cloned().collect()
    }

    /// Takes up the writable layer of a container whose record of it was damaged or lost; false when it has none on the disk.
    ///
    /// # Errors
    /// The database's.
    pub fn adopt_container_layer(&self, container: &str, image: &Digest) -> Result<bool> {
        if self.writable().contains_key(container) {
            return Ok(true);
        }
        if !self.inner.driver.exists(container) {
            return Ok(false);
        }
        let parent = self.images().get(image).and_then(|image| image.top().cloned());
        let record = WritableRecord { image: image.clone(), parent };
        self.inner.db.write(Durability::Process, |db| {
            records::put_writable(db, container, &record)?;
            db.purge(&records::kept_id(container)).map(drop)
        })?;
        self.writable().insert(container.to_owned(), record);
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
        Ok(true)
    }

    /// The directories of the graphdriver whose records were lost with a damaged database.
    #[must_use]
    pub fn lost_layers(&self) -> Vec<String> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How to mount a container's root. Only one writable mount of it may be alive at a time.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer.
    pub fn container_root(&self, container: &str, read_only: bool) -> Result<RootMount> {
        let record = self.check(container)?;
        self.sound(record.parent.as_ref())?;
        Ok(self.inner.driver.mount(container, read_only)?)
    }

    /// Where a container's own layer lies, as [`Graph::image_places`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer.
    pub fn container_places(&self, container: &str) -> Result<Vec<(&'static str, String)>> {
        self.check(container)?;
        Ok(self.inner.driver.places(container)?)
    }

    /// What the container changed, sorted by path.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer.
    pub fn container_changes(&self, container: &str) -> Result<Vec<Change>> {
        self.check(container)?;
        Ok(self.inner.driver.changes(container)?)
    }

    /// Writes what the container changed, as a layer archive.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer.
    pub fn container_diff(&self, container: &str, archive: &mut dyn Write) -> Result<()> {
        self.check(container)?;
        Ok(self.inner.driver.diff(container, archive)?)
    }

    /// Bytes of the container's own layer, and of its whole root.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer.
    pub fn container_size(&self, container: &str) -> Result<(u64, u64)> {
        let record = self.check(container)?;
        let own = self.inner.driver.size(container)?;
        let mut total = own;
        let mut at = record.parent;
        while let Some(layer) = at.and_then(|chain| self.inner.layers.get(&chain)) {
            total += layer.size;
            at = layer.parent.clone();
        }
        Ok((own, total))
    }

    /// Bytes on the disk of the container's own layer.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no writable layer.
    pub fn container_disk_use(&self, container: &str) -> Result<u64> {
        self.check(container)?;
        Ok(self.inner.driver.disk_use(container)?)
    }

    /// Removes the writable layer: gone at once, its space comes back with the next [`Graph::sweep`]. None there is no
    /// error. Nothing of it may be mounted any more.
    ///
    /// # Errors
    /// The driver's and the database's.
    pub fn remove_container_layer(&self, container: &str) -> Result<()> {
        // Before the driver forgets it: the database may name less than there is, never more.
        let id = records::writable_id(container);
        self.inner.db.write_on_full_disk(Durability::Process, |db| db.purge(&id))?;
        self.discard_container_layer(container)
    }

    /// Removes the files, and what is known of them here.
    fn discard_container_layer(&self, container: &str) -> Result<()> {
        let record = self.writable().remove(container);
        self.inner.driver.remove(container)?;
        let Some(record) = record else { return Ok(()) };
        if self.images().get(&record.image).is_none() {
            // It outlived its image: its layers may go now.
            self.collect(&self.change())?;
        }
        Ok(())
    }
}
