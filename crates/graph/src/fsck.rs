//! Checking the store: every byte of every layer and document against its digest, and what is there against what should be.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};

use gantry_api::reference::{Digest, Reference};
use gantry_linux::fs::Durability;

use crate::finding::{Finding, Outcome, Place, Problem, Repair};
use crate::graph::sort_uppermost_first;
use crate::records::{self, IMAGE, IMAGES, ImageRecord, LAYER, SUSPECT, Suspicion, UNPLACED, WRITABLE, WritableRecord};
use crate::registration::Pins;
use crate::{DamagedImage, Error, Graph, Image, Images, Layer, Result, shelf};

/// What a look at a layer told.
enum Look {
    Whole,
    /// Its archive is not the one that was unpacked, or it is and the files are otherwise not as it says.
    Damaged {
        problems: Vec<Problem>,
        has_archive: bool,
    },
    /// The kernel would not have it read: nothing about the layer itself.
    Unread(Error),
    /// Somebody makes it, or another one in its place: nothing.
    Unsettled,
}

/// Paths of one layer that are told.
const LINES: usize = 20;
/// How often a layer that others change is looked at anew.
const LOOKS: usize = 5;

impl Graph {
    /// Reads everything that is stored and reports what is wrong. It disturbs nobody: what is added, replaced or removed
    /// meanwhile is left alone, and so is what is on its way. Damaged layers are suspect from then on, so that a pull or
    /// load of their images brings them anew; nothing else is changed without `repair`.
    ///
    /// With `repair` litter is deleted, and records and documents that the daemon knows are written again. What has to be
    /// fetched is reported as [`Outcome::Found`]: see [`Graph::sources`], [`Graph::is_whole`] and [`Graph::give_up`].
    ///
    /// # Errors
    /// When the database or a directory cannot be read at all; damage is a finding, not an error.
    pub fn fsck(&self, repair: bool, report: &mut dyn FnMut(Finding)) -> Result<()> {
        let mut check = Check { graph: self, repair, report, found: Vec::new() };
        check.database()?;
        let damaged = check.layers();
        check.images(&damaged);
        check.documents();
        check.blobs();
        check.tell();
        let read = check.records();
        check.tell();
        read?;
        let read = check.litter();
        check.tell();
        read
    }
}

impl Graph {
    pub(crate) fn kept(&self) -> MutexGuard<'_, HashSet<String>> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The configuration of an image, what it came as, and the manifest lists that its names say.
pub(crate) fn documents(images: &Images, image: &Image) -> Vec<Digest> {
    let names = images.names(&image.id);
    let named = names.iter().filter_map(Reference::digest);
    let came = crate::origin::documents(&image.origins);
    let mut documents: Vec<Digest> = std::iter::once(&image.id).chain(came).chain(named).cloned().collect();
    documents.sort();
    documents.dedup();
    documents
}

struct Check<'a> {
    graph: &'a Graph,
    repair: bool,
    report: &'a mut dyn FnMut(Finding),
    /// What is not told yet: whoever listens may be slow, and nobody may wait for a lock meanwhile.
    found: Vec<Finding>,
}

impl Check<'_> {
    fn say(&mut self, place: Place, problem: Problem, outcome: Outcome) {
        self.found.push(Finding { place, problem, outcome });
    }

    /// Tells what was found; without a lock.
    fn tell(&mut self) {
        self.found.drain(..).for_each(&mut *self.report);
    }

    /// Runs a repair, if there is to be one. One that fails does not keep the next from being tried.
    fn mend(&self, repair: Repair, work: impl FnOnce() -> Result<()>) -> Outcome {
        if !self.repair {
            return Outcome::Found;
        }
        work().map_or_else(|error| Outcome::Unrepaired(error.to_string()), |()| Outcome::Repaired(repair))
    }

    /// Tells what could not be read although it may be whole: nothing is fetched or removed for that.
    fn unread(&mut self, place: Place, error: &Error) {
        let outcome = if self.repair {
            Outcome::Unrepaired("it may be whole, and was left as it is: check again".to_owned())
        } else {
            Outcome::Found
        };
        self.say(place, Problem::Unreadable(error.to_string()), outcome);
    }

    fn database(&mut self) -> Result<()> {
        if let Err(reason) = self.graph.db().check()? {
            let outcome = if self.repair {
                Outcome::Unrepaired(
                    "restart the daemon: it puts the database aside and takes its last backup".to_owned(),
                )
            } else {
                Outcome::Found
            };
            self.say(Place::Database, Problem::Unreadable(reason), outcome);
        }
        Ok(())
    }

    /// The layers whose files are not what they were, lowest first.
    fn layers(&mut self) -> HashSet<Digest> {
        let mut damaged = HashSet::new();
        // Those and the ones that could not be read: what stands on them is not held against them.
        let mut doubtful = HashSet::new();
        let mut layers = self.graph.inner.layers.all();
        sort_uppermost_first(&mut layers);
        let chains: Vec<Digest> = layers.iter().rev().map(|layer| layer.chain_id.clone()).collect();
        // What is being read must not be collected meanwhile.
        let _pins = Pins::new(self.graph, chains.clone());
        for chain in chains {
            match self.graph.check_layer(&chain, &doubtful) {
                Look::Unsettled => {}
                Look::Unread(error) => {
                    doubtful.insert(chain.clone());
                    self.unread(Place::Layer(chain), &error);
                    self.tell();
                }
                Look::Whole => {
                    if let Err(error) = self.graph.trust(&chain, self.repair) {
                        tracing::warn!(layer = %chain, %error, "the layer is whole, and stays suspect");
                    }
                }
                Look::Damaged { problems, has_archive } => {
                    if let Some(first) = problems.first() {
                        self.graph.suspect(&chain, &first.to_string(), self.repair);
                    }
                    let outcome = if has_archive { self.remake(&chain) } else { Outcome::Found };
                    if outcome == Outcome::Found {
                        damaged.insert(chain.clone());
                        doubtful.insert(chain.clone());
                    }
                    for problem in problems {
                        self.say(Place::Layer(chain.clone()), problem, outcome.clone());
                    }
                    self.tell();
                }
            }
        }
        damaged
    }

    /// Makes a layer anew of what it holds, if there is to be a repair; one that fails leaves it to be fetched.
    fn remake(&self, chain: &Digest) -> Outcome {
        match self.mend(Repair::Remade, || self.graph.remake(chain)) {
            Outcome::Unrepaired(reason) => {
                tracing::warn!(layer = %chain, reason, "a layer cannot be made anew of what it holds");
                Outcome::Found
            }
            other => other,
        }
    }

    /// The images that cannot be whole.
    fn images(&mut self, damaged: &HashSet<Digest>) {
        let images = self.graph.images();
        for image in images.iter() {
            if let Some(layer) = image.layers.iter().find(|layer| damaged.contains(&layer.chain_id)) {
                self.say(Place::Image(image.id.clone()), Problem::StandsOn(layer.chain_id.clone()), Outcome::Found);
            }
        }
        for image in images.damaged() {
            let DamagedImage { id, reason, .. } = &**image;
            self.say(Place::Image(id.clone()), Problem::Unreadable(reason.clone()), Outcome::Found);
        }
    }

    fn documents(&mut self) {
        let images = self.graph.images();
        let mut seen = HashSet::new();
        for image in images.iter() {
            for digest in documents(&images, image) {
                if !seen.insert(digest.clone()) {
                    continue;
                }
                if self.graph.content().read(&digest).is_ok() {
                    continue;
                }
                // It may have gone with its image.
                let _change = self.graph.change();
                if !self.graph.images().documents().contains(&digest) {
                    continue;
                }
                let Err(error) = self.graph.content().read(&digest) else { continue };
                if !is_damage(&error) {
                    self.unread(Place::Document(digest), &error);
                    continue;
                }
                let outcome = if digest == image.id {
                    self.mend(Repair::Rewritten, || self.graph.content().put(&image.raw).map(drop))
                } else {
                    Outcome::Found
                };
                self.say(Place::Document(digest), problem(error), outcome);
            }
        }
    }

    /// The bytes of compressed layers that are kept.
    fn blobs(&mut self) {
        let graph = self.graph;
        let mut kept: Vec<Digest> = graph.inner.layers.all().iter().flat_map(|layer| layer.kept().cloned()).collect();
        kept.sort();
        kept.dedup();
        for digest in kept {
            if graph.content().copy(&digest, &mut io::sink()).is_ok() {
                continue;
            }
            // It may have gone with its layer, or been brought anew. Nobody else may have it: it is read again before it goes.
            let change = graph.change();
            if !graph.inner.layers.keeps(&digest, |_| true) {
                continue;
            }
            match graph.content().copy(&digest, &mut io::sink()) {
                Ok(_) => {}
                Err(error) if is_damage(&error) => {
                    let outcome = self.mend(Repair::Forgotten, || graph.forget_kept(&change, &digest));
                    self.say(Place::Blob(digest), problem(error), outcome);
                }
                Err(error) => self.unread(Place::Blob(digest), &error),
            }
        }
    }

    /// Records and names of the database that lead nowhere or cannot be read.
    fn records(&mut self) -> Result<()> {
        let graph = self.graph;
        let db = graph.db();
        // Memory and database say the same only while nobody changes them.
        let _change = graph.change();
        self.image_records()?;
        self.layer_records()?;
        for entity in db.entities(SUSPECT)? {
            if let Err(error) = records::read::<Suspicion>(&entity) {
                self.purge(entity.id, problem(error));
            }
        }
        for entity in db.entities(WRITABLE)? {
            if let Err(error) = records::read::<WritableRecord>(&entity) {
                self.writable(&entity.id, problem(error));
            }
        }
        for (id, error) in shelf::damaged(db)? {
            self.say(Place::Record(id), problem(error), Outcome::Found);
        }
        for entity in db.entities(UNPLACED)? {
            let id = entity.id.trim_start_matches("unplaced:").to_owned();
            self.say(Place::Lost(id), Problem::Dangling, Outcome::Found);
        }
        for (name, id) in db.children(IMAGES)? {
            if db.entity(&id)?.is_none_or(|entity| entity.kind != IMAGE) {
                let path = crate::join(IMAGES, &name);
                let outcome =
                    self.mend(Repair::Deleted, || db.write(Durability::Disk, |db| db.delete(&path).map(drop)));
                self.say(Place::Name(name), Problem::Dangling, outcome);
            }
        }
        Ok(())
    }

    fn image_records(&mut self) -> Result<()> {
        let db = self.graph.db();
        let images = self.graph.images();
        for entity in db.entities(IMAGE)? {
            let image = entity.id.parse().ok();
            let Some(known) = image.as_ref().and_then(|id| images.get(id)) else {
                if image.is_none() {
                    self.purge(entity.id, Problem::Dangling);
                }
                continue;
            };
            let wrong = match records::read::<ImageRecord>(&entity) {
                Err(error) => problem(error),
                Ok(_) if db.read(|db| Ok(db.edges(&entity.id)? == records::edges(db, known)?))? => continue,
                Ok(_) => Problem::Altered("its edges do not lead to its layers and its parent".to_owned()),
            };
            let outcome =
                self.mend(Repair::Rewritten, || db.write(Durability::Disk, |db| records::put_image(db, known)));
            self.say(Place::Record(entity.id), wrong, outcome);
        }
        Ok(())
    }

    fn layer_records(&mut self) -> Result<()> {
        let db = self.graph.db();
        for entity in db.entities(LAYER)? {
            let Err(error) = records::read::<Layer>(&entity) else { continue };
            let chain = entity.id.strip_prefix("layer:").and_then(|hex| Digest::from_hex(hex).ok());
            let Some(layer) = chain.and_then(|chain| self.graph.inner.layers.get(&chain)) else {
                self.purge(entity.id, problem(error));
                continue;
            };
            let outcome =
                self.mend(Repair::Rewritten, || db.write(Durability::Disk, |db| records::put_layer(db, &layer)));
            self.say(Place::Record(entity.id), problem(error), outcome);
        }
        Ok(())
    }

    fn writable(&mut self, id: &str, problem: Problem) {
        let container = id.trim_start_matches("writable:");
        let known = self.graph.writable().get(container).cloned();
        let outcome = match known {
            Some(record) => self.mend(Repair::Rewritten, || {
                self.graph.db().write(Durability::Process, |db| records::put_writable(db, container, &record))
            }),
            None => Outcome::Found,
        };
        self.say(Place::Record(id.to_owned()), problem, outcome);
    }

    fn purge(&mut self, id: String, problem: Problem) {
        let db = self.graph.db();
        let outcome = self.mend(Repair::Deleted, || db.write(Durability::Disk, |db| db.purge(&id).map(drop)));
        self.say(Place::Record(id), problem, outcome);
    }

    /// Layers and documents that nothing names. What comes becomes a part of the store in one step, under the same lock.
    fn litter(&mut self) -> Result<()> {
        let graph = self.graph;
        let change = graph.change();
        let images = graph.images();
        let writable: HashSet<String> = graph.container_layers().into_iter().collect();
        let kept = graph.kept().clone();
        let mut found = BTreeMap::new();
        for id in graph.driver().list()? {
            if writable.contains(&id) || graph.inner.layers.holds(&id) {
                continue;
            }
            if kept.contains(&id) {
                found.insert(id.clone(), (Place::Lost(id), Outcome::Found));
            } else {
                let outcome = self.mend(Repair::Deleted, || Ok(graph.driver().remove(&id)?));
                found.insert(id.clone(), (Place::Directory(id), outcome));
            }
        }
        let named = images.documents();
        let content = graph.content();
        // Those of a damaged shelf are not known.
        let sure = shelf::damaged(graph.db())?.is_empty();
        let unnamed = |digest: &Digest| sure && !graph.needs(&named, digest);
        for digest in content.list()?.into_iter().filter(unnamed) {
            let outcome = self.mend(Repair::Deleted, || content.delete(&digest));
            found.insert(digest.to_string(), (Place::Document(digest), outcome));
        }
        let is_clean = found.values().all(|(_, outcome)| matches!(outcome, Outcome::Repaired(_)));
        if self.repair && is_clean && sure && !graph.was_rescued() {
            graph.note_beginnings()?;
        }
        drop(change);
        for (place, outcome) in found.into_values() {
            let problem = if matches!(place, Place::Lost(_)) { Problem::Dangling } else { Problem::Unneeded };
            self.say(place, problem, outcome);
        }
        Ok(())
    }
}

/// Whether an error of reading is about what is stored. That there are too many open files, no memory, or a disk that does not
/// answer says nothing of it.
fn is_damage(error: &Error) -> bool {
    use gantry_graphdriver::Error as Driver;
    match error {
        Error::NotFound { .. } | Error::Digest { .. } | Error::Driver(Driver::NotFound(_) | Driver::Damaged { .. }) => {
            true
        }
        // Where the kernel refused nothing, what was read could not be understood: a torn recipe.
        Error::System(source) | Error::Driver(Driver::System(source) | Driver::Inside { source, .. }) => {
            source.is_not_found() || source.errno() == 0
        }
        _ => false,
    }
}

/// What an error of reading says.
fn problem(error: Error) -> Problem {
    match error {
        Error::NotFound { .. } | Error::Driver(gantry_graphdriver::Error::NotFound(_)) => Problem::Missing,
        Error::Digest { found, .. } => Problem::Altered(format!("its digest is {found}")),
        Error::Driver(gantry_graphdriver::Error::Damaged { reason, .. }) => Problem::Altered(reason),
        other => Problem::Unreadable(other.to_string()),
    }
}

impl Graph {
    /// Reads a whole layer; one that somebody replaces meanwhile is read again, and one that somebody makes is not looked at.
    fn check_layer(&self, chain: &Digest, doubtful: &HashSet<Digest>) -> Look {
        for _ in 0..LOOKS {
            let Some(layer) = self.inner.layers.settled(chain) else { break };
            let below_is_whole = !self.below(layer.parent.as_ref()).iter().any(|below| doubtful.contains(below));
            let found = self.read_layer(&layer, below_is_whole);
            if self.inner.layers.settled(chain).is_some_and(|now| Arc::ptr_eq(&now, &layer)) {
                return found;
            }
        }
        Look::Unsettled
    }

    /// A driver's quick look calls a part missing also when it could not open it: its size, which has to be opened, tells that, and
    /// what passes a second look does not see.
    fn look_closely(&self, store_id: &str) -> Result<()> {
        let driver = self.driver();
        if driver.check(store_id).is_ok() {
            return Ok(());
        }
        match driver.size(store_id).map_err(Error::from) {
            Err(error) if !is_damage(&error) => Err(error),
            _ => Ok(driver.check(store_id)?),
        }
    }

    fn read_layer(&self, layer: &Layer, below_is_whole: bool) -> Look {
        let without = |problem| Look::Damaged { problems: vec![problem], has_archive: false };
        let failed = |error: Error| if is_damage(&error) { without(problem(error)) } else { Look::Unread(error) };
        if let Err(error) = self.look_closely(&layer.store_id) {
            return failed(error);
        }
        let mut lines = Vec::new();
        let mut tell = |line: String| lines.push(line);
        let read = match self.verify_layer(layer, below_is_whole, &mut tell) {
            Ok(read) => read,
            Err(error) => return failed(error),
        };
        if layer.archive_size != 0 && layer.archive_size != read {
            return without(Problem::Size { found: read, recorded: layer.archive_size });
        }
        match self.driver().size(&layer.store_id) {
            Ok(found) if found == layer.size => {}
            Ok(found) => return without(Problem::Size { found, recorded: layer.size }),
            Err(error) => return failed(error.into()),
        }
        let more = lines.len().saturating_sub(LINES);
        lines.truncate(LINES);
        if more > 0 {
            lines.push(format!("and {more} more paths are not as they were"));
        }
        match lines.is_empty() {
            true => Look::Whole,
            false => Look::Damaged { problems: lines.into_iter().map(Problem::Altered).collect(), has_archive: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_stored_thing_is_damage() {
        let of = |source: io::Error| gantry_linux::Error::new("read", "recipe", source);
        let refused = [libc::EMFILE, libc::ENOMEM, libc::EACCES, libc::EIO].map(io::Error::from_raw_os_error);
        for source in refused {
            let error = Error::System(of(source));
            assert!(!is_damage(&error), "{error}");
        }
        let stopped = Error::Stream { what: "layer on disk".to_owned(), source: io::ErrorKind::BrokenPipe.into() };
        assert!(!is_damage(&stopped));
        let (torn, gone) = (io::Error::other("torn"), io::Error::from_raw_os_error(libc::ENOENT));
        let driver = gantry_graphdriver::Error::NotFound("layer".to_owned());
        let wrong = Error::Digest { what: "x", wanted: crate::digest_of(b"a"), found: crate::digest_of(b"b") };
        let missing = Error::NotFound { kind: "content", name: "x".to_owned() };
        for error in [Error::System(of(torn)), Error::Driver(of(gone).into()), driver.into(), wrong, missing] {
            assert!(is_damage(&error), "{error}");
        }
    }
}
