//! Repairing what a check found: where it can be fetched again, whether it is whole by now, and giving it up.

use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs::Durability;

use crate::finding::{Outcome, Place, Repair};
use crate::fsck::documents;
use crate::layers::Plan;
use crate::records::{self, Unplaced};
use crate::registration::Pins;
use crate::{Error, Graph, Image, Layer, Removed, Result, Use, origin, shelf};

impl Graph {
    /// The images that a damaged thing is a part of, with the names under which a registry has them.
    #[must_use]
    pub fn sources(&self, place: &Place) -> Vec<(Digest, Vec<Reference>)> {
        let images = self.images();
        let has = |image: &Image| match place {
            Place::Image(id) => image.id == *id,
            Place::Layer(chain) => image.layers.iter().any(|layer| layer.chain_id == *chain),
            Place::Document(digest) => documents(&images, image).contains(digest),
            _ => false,
        };
        let concerned = images.iter().filter(|image| has(image)).map(|image| image.id.clone());
        let damaged = images.damaged().filter(|image| matches!(place, Place::Image(id) if *id == image.id));
        let concerned = concerned.chain(damaged.map(|image| image.id.clone()));
        let names = |id: &Digest| images.names(id).into_iter().filter(|name| name.digest().is_some()).collect();
        concerned.map(|id| (id.clone(), names(&id))).collect()
    }

    /// Whether a thing that was found damaged is whole, or gone, now.
    #[must_use]
    pub fn is_whole(&self, place: &Place) -> bool {
        let images = self.images();
        let sound = |layer: &Arc<Layer>| self.inner.layers.suspicion(&layer.chain_id).is_none();
        match place {
            Place::Layer(chain) => self.inner.layers.suspicion(chain).is_none(),
            Place::Image(id) => images.get(id).map_or(!images.is_known(id), |image| image.layers.iter().all(sound)),
            Place::Document(digest) => !images.documents().contains(digest) || self.content().read(digest).is_ok(),
            _ => false,
        }
    }

    /// Makes a suspect layer anew of its own archive, which is right although the files are not as it says.
    pub(crate) fn remake(&self, chain: &Digest) -> Result<()> {
        let layers = &self.inner.layers;
        let missing = || Error::NotFound { kind: "layer", name: chain.to_string() };
        let _pins = Pins::new(self, vec![chain.clone()]);
        let layer = layers.get(chain).ok_or_else(missing)?;
        let plan = Plan { chain_id: chain.clone(), diff_id: layer.diff_id.clone(), parent: layer.parent.clone() };
        self.with_archive(&layer.store_id, |archive| layers.unpack(&plan, archive, &self.left))?;
        layers.commit(std::slice::from_ref(&plan), &self.left)?;
        self.inner.db.write(Durability::Process, |db| db.purge(&records::suspect_id(chain)).map(drop))
    }

    /// Removes the images that a damaged thing is a part of, where nothing uses them. An attestation goes alone: its image runs
    /// without it.
    ///
    /// # Errors
    /// The database's and the driver's.
    pub fn give_up(&self, place: &Place, users: &[Use]) -> Result<Outcome> {
        if let Place::Lost(id) = place {
            return self.give_up_lost(id);
        }
        if let Place::Document(digest) = place
            && self.forget_attached(digest)?
        {
            return Ok(Outcome::Repaired(Repair::Removed(Vec::new())));
        }
        let mut names = Vec::new();
        let sources = self.sources(place);
        // By force even the image of a container goes that does not run.
        if let Some(user) = users.iter().find(|user| sources.iter().any(|(id, _)| *id == user.image)) {
            let container = user.container.get(..12).unwrap_or(&user.container);
            return Ok(Outcome::Unrepaired(format!("kept: container {container} uses it: remove that first")));
        }
        let mut kept = Vec::new();
        for (id, _) in sources {
            match self.remove_image(id.as_str(), true, false, users) {
                Ok(removed) => names.extend(removed.into_iter().filter_map(|step| match step {
                    Removed::Untagged(name) => Some(name),
                    Removed::Deleted(_) => None,
                })),
                Err(error) => kept.push(error.to_string()),
            }
        }
        if self.is_whole(place) {
            return Ok(Outcome::Repaired(Repair::Removed(names)));
        }
        if kept.is_empty() {
            kept.push("a container stands on it".to_owned());
        }
        let removed = if names.is_empty() { String::new() } else { format!("; removed: {}", names.join(", ")) };
        Ok(Outcome::Unrepaired(format!("kept: {}{removed}", kept.join("; "))))
    }

    /// Removes what a damaged database forgot. The database first: it may name less than there is, never more.
    fn give_up_lost(&self, id: &str) -> Result<Outcome> {
        let _change = self.change();
        if let Ok(image) = id.parse::<Digest>() {
            let record = records::unplaced_id(&image);
            let unplaced = self.inner.db.entity(&record)?.map(|entity| records::read::<Unplaced>(&entity));
            self.inner.db.write(Durability::Process, |db| db.purge(&record))?;
            // The next start deletes what a damaged record does not tell.
            let documents = unplaced.and_then(Result::ok).map(|unplaced| unplaced.documents).unwrap_or_default();
            let elsewhere = shelf::documents(self.db())?;
            let spared = documents.iter().filter(|digest| !elsewhere.contains(digest));
            spared.for_each(|digest| self.content().spare_no_more(digest));
            self.drop_documents(&documents);
        } else {
            self.inner.db.write(Durability::Process, |db| db.purge(&records::kept_id(id)))?;
            self.inner.driver.remove(id)?;
            self.kept().remove(id);
        }
        Ok(Outcome::Repaired(Repair::Deleted))
    }

    /// Has the images that a document says something about no more know of it; false where it is more than that to one.
    fn forget_attached(&self, digest: &Digest) -> Result<bool> {
        let change = self.change();
        let mut images = (*self.images()).clone();
        let (mut without, mut is_more) = (Vec::new(), false);
        for image in self.images().iter().filter(|image| documents(&images, image).contains(digest)) {
            let mut image = Image::clone(image);
            for origin in &mut image.origins {
                origin.attached.retain(|attached| attached.digest != *digest);
            }
            is_more |= image.id == *digest || origin::documents(&image.origins).any(|document| document == digest);
            is_more |= images.names(&image.id).iter().any(|name| name.digest() == Some(digest));
            without.push(Arc::new(image));
        }
        if is_more || without.is_empty() {
            return Ok(false);
        }
        self.inner
            .db
            .write(Durability::Disk, |db| without.iter().try_for_each(|image| records::put_image(db, image)))?;
        without.into_iter().for_each(|image| images.insert(image));
        self.publish(&change, images);
        self.drop_document(Some(digest))?;
        Ok(true)
    }
}
