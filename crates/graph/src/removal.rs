//! Removing names and images, by Docker's rules.

use std::sync::{Arc, MutexGuard};

use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs::Durability;

use crate::images::canonical;
use crate::origin::documents;
use crate::records;
use crate::{Error, Graph, Image, Images, Result};

/// One step of a removal: what `docker rmi` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name went; as people write it.
    Untagged(String),
    /// An image or a layer (by chain id) went.
    Deleted(Digest),
}

/// A container that uses an image, as the engine knows it.
#[derive(Debug, Clone)]
pub struct Use {
    /// The image.
    pub image: Digest,
    /// The container's id.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

impl Graph {
    /// `docker rmi`. By a name: the name goes, and the image with its last name. By an id: all its names and the image,
    /// if they are of one repository or `force`. An image that others were made on top of stays, without the name. With
    /// `prune` the nameless images that it was made on top of go with it. `users` are the containers there are: a running one keeps the image
    /// whatever `force` says, a stopped one unless `force` (its layers stay as long as it needs them).
    ///
    /// # Errors
    /// [`Error::Conflict`] in Docker's words, [`Error::NoSuchImage`], [`Error::Ambiguous`].
    pub fn remove_image(&self, name: &str, force: bool, prune: bool, users: &[Use]) -> Result<Vec<Removed>> {
        let change = self.change();
        let images = self.images();
        let image = match images.resolve(name) {
            Err(Error::DamagedImage { .. }) => return self.remove_damaged(&change, name, users),
            found => found?,
        };
        let names = images.names(&image.id);
        let by_name = Reference::parse(name).ok().map(|name| canonical(&name)).filter(|name| names.contains(name));
        let gone = match &by_name {
            Some(name) => {
                let gone = names_to_drop(name, &names);
                if gone.len() == names.len() && !force {
                    check_name(name, image, users)?;
                }
                gone
            }
            None => {
                check_children(&images, image)?;
                check_id(image, &names, force, users)?;
                names.clone()
            }
        };
        // A forced removal by name leaves an image that a running container uses without a name.
        let needed = images.has_children(&image.id) || used_by(image, users, false).is_some();
        let keep_image = gone.len() < names.len() || (by_name.is_some() && needed);
        let mut removed: Vec<_> = gone.iter().map(|name| Removed::Untagged(name.familiar())).collect();
        let mut next = (*images).clone();
        gone.iter().for_each(|name| next.unname(name));
        let mut dropped = Vec::new();
        if !keep_image {
            next.remove(&image.id);
            dropped.push(Arc::clone(image));
            dropped.extend(if prune { drop_parents(&mut next, image, users) } else { Vec::new() });
        }
        let layers = if dropped.is_empty() { Vec::new() } else { self.take_unneeded(&next) };
        let written = self.inner.db.write_on_full_disk(Durability::Disk, |db| {
            gone.iter().try_for_each(|name| db.delete(&records::name_path(name)).map(drop))?;
            dropped.iter().try_for_each(|image| db.purge(image.id.as_str()).map(drop))?;
            records::purge_layers(db, &layers)
        });
        if let Err(error) = written {
            self.inner.layers.give_back(layers);
            return Err(error);
        }
        self.publish(&change, next);
        removed.extend(dropped.iter().map(|image| Removed::Deleted(image.id.clone())));
        removed.extend(self.discard_layers(layers).into_iter().map(Removed::Deleted));
        for image in dropped {
            // The image is gone whatever becomes of its documents.
            self.drop_documents(std::iter::once(&image.id).chain(documents(&image.origins)));
        }
        gone.iter().try_for_each(|name| self.drop_document(name.digest()))?;
        Ok(removed)
    }

    /// Removes an image that cannot be read, by a name or its id: what it was made of is not known, so it has no rules.
    fn remove_damaged(&self, change: &MutexGuard<'_, ()>, name: &str, users: &[Use]) -> Result<Vec<Removed>> {
        let images = self.images();
        let image = images.resolve_damaged(name).ok_or_else(|| Error::NoSuchImage(name.to_owned()))?;
        let names = images.names(&image.id);
        let by_name = Reference::parse(name).ok().map(|name| canonical(&name)).filter(|name| names.contains(name));
        let gone = by_name.map_or_else(|| names.clone(), |name| names_to_drop(&name, &names));
        let whole = gone.len() == names.len();
        if whole && let Some(user) = users.iter().find(|user| user.image == image.id) {
            let (id, container) = (image.id.short(), short(&user.container));
            let why = format!("image is being used by container {container}, and pulling it repairs it");
            return Err(Error::Conflict(format!("conflict: unable to delete {id} (cannot be forced) - {why}")));
        }
        let mut next = (*images).clone();
        gone.iter().for_each(|name| next.unname(name));
        if whole {
            next.remove(&image.id);
        }
        self.inner.db.write(Durability::Disk, |db| {
            gone.iter().try_for_each(|name| db.delete(&records::name_path(name)).map(drop))?;
            if whole { db.purge(image.id.as_str()).map(drop) } else { Ok(()) }
        })?;
        self.publish(change, next);
        let mut removed: Vec<_> = gone.iter().map(|name| Removed::Untagged(name.familiar())).collect();
        if whole {
            removed.push(Removed::Deleted(image.id.clone()));
            removed.extend(self.collect(change)?.into_iter().map(Removed::Deleted));
            self.inner.content.delete(&image.id)?;
            self.drop_documents(documents(&image.origins));
        }
        gone.iter().try_for_each(|name| self.drop_document(name.digest()))?;
        Ok(removed)
    }

    /// The images without a name.
    #[must_use]
    pub fn dangling(&self) -> Vec<Digest> {
        let images = self.images();
        let named: std::collections::HashSet<_> = images.all_names().map(|(_, id)| id).collect();
        images.iter().map(|image| &image.id).filter(|id| !named.contains(id)).cloned().collect()
    }

    /// Deletes those documents that no image has any more. What they belonged to is gone whatever becomes of them.
    pub(crate) fn drop_documents<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        for digest in digests {
            if let Err(error) = self.drop_document(Some(digest)) {
                tracing::warn!(%error, document = %digest, "a document stays until the next start");
            }
        }
    }

    /// Deletes a document that no image has any more, or will have.
    pub(crate) fn drop_document(&self, digest: Option<&Digest>) -> Result<()> {
        match digest.filter(|digest| !self.needs(&self.images().documents(), digest)) {
            Some(digest) => self.inner.content.delete(digest),
            None => Ok(()),
        }
    }
}

/// Takes out the images that `image` was made on top of, as far as nothing names or uses them.
fn drop_parents(images: &mut Images, image: &Image, users: &[Use]) -> Vec<Arc<Image>> {
    let mut dropped = Vec::new();
    let mut at = image.parent.clone();
    while let Some(parent) = at.and_then(|id| images.get(&id).cloned()) {
        let kept = !images.names(&parent.id).is_empty() || images.has_children(&parent.id);
        if kept || used_by(&parent, users, true).is_some() {
            break;
        }
        images.remove(&parent.id);
        at = parent.parent.clone();
        dropped.push(parent);
    }
    dropped
}

fn check_children(images: &Images, image: &Image) -> Result<()> {
    if images.has_children(&image.id) {
        let id = image.id.short();
        let why = "image has dependent child images";
        return Err(Error::Conflict(format!("conflict: unable to delete {id} (cannot be forced) - {why}")));
    }
    Ok(())
}

/// The name itself; and when no tag of its repository is left then, the digests that it was pulled by.
fn names_to_drop(name: &Reference, names: &[Reference]) -> Vec<Reference> {
    let repository = name.repository();
    let same = |other: &&Reference| other.repository() == repository;
    let tag_stays = names.iter().filter(same).any(|other| other != name && other.tag().is_some());
    let mut gone = vec![name.clone()];
    if name.tag().is_some() && !tag_stays {
        gone.extend(names.iter().filter(same).filter(|other| *other != name).cloned());
    }
    gone
}

fn used_by<'a>(image: &Image, users: &'a [Use], any: bool) -> Option<&'a Use> {
    let mut users = users.iter().filter(|user| user.image == image.id && (any || user.running));
    let first = users.next()?;
    // A running one is the harder reason.
    Some(if first.running { first } else { users.find(|user| user.running).unwrap_or(first) })
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn check_name(name: &Reference, image: &Image, users: &[Use]) -> Result<()> {
    match used_by(image, users, true) {
        Some(user) => Err(Error::Conflict(format!(
            "conflict: unable to remove repository reference {:?} (must force) - container {} is using its referenced \
             image {}",
            name.familiar(),
            short(&user.container),
            image.id.short()
        ))),
        None => Ok(()),
    }
}

fn check_id(image: &Image, names: &[Reference], force: bool, users: &[Use]) -> Result<()> {
    let id = image.id.short();
    let refuse =
        |how: &str, why: String| Err(Error::Conflict(format!("conflict: unable to delete {id} ({how}) - {why}")));
    if let Some(user) = used_by(image, users, !force) {
        let container = short(&user.container);
        return if user.running {
            refuse("cannot be forced", format!("image is being used by running container {container}"))
        } else {
            refuse("must be forced", format!("image is being used by stopped container {container}"))
        };
    }
    let repositories: std::collections::BTreeSet<_> = names.iter().map(Reference::repository).collect();
    let tags = names.iter().filter(|name| name.tag().is_some()).count();
    if !force && (repositories.len() > 1 || tags > 1) {
        return refuse("must be forced", "image is referenced in multiple repositories".to_owned());
    }
    Ok(())
}
