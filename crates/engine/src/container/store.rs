//! The store of containers: memory for readers, the GraphDB for the next daemon. Names are edges below `/containers`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use gantry_graph::{Durability, Entity, Graph};

use super::links::{self, Links};
use super::{Container, Record, copy};
use crate::error::{Error, Result};
use crate::exec::ExecInstance;
use crate::spec::shared_modes;

/// Kind of the containers' entities.
const KIND: &str = "container";
/// The entity below which container names are edges.
pub(super) const NAMES: &str = "containers";

/// All containers.
pub struct Store {
    graph: Graph,
    data_root: PathBuf,
    index: RwLock<Index>,
    /// Records that cannot be read: why, by the container's id. What these containers have is left alone.
    unreadable: RwLock<BTreeMap<String, String>>,
}

#[derive(Default)]
pub(super) struct Index {
    pub(super) by_id: BTreeMap<String, Arc<Container>>,
    pub(super) by_name: HashMap<String, String>,
    pub(super) links: Links,
    /// Exec → container.
    execs: HashMap<String, String>,
}

impl Store {
    /// Loads every container. A record that cannot be read is taken from its copy, and so are records that a damaged database
    /// lost; what has no copy is in [`Store::unreadable`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn load(graph: Graph, data_root: &Path) -> Result<Self> {
        graph.db().write(Durability::Process, |tx| tx.make_directory(&format!("/{NAMES}")))?;
        let store =
            Self { graph, data_root: data_root.to_path_buf(), index: RwLock::default(), unreadable: RwLock::default() };
        let rescued = store.graph.was_rescued();
        let elsewhere = if rescued { store.graph.container_layers_elsewhere()? } else { HashSet::new() };
        let is_gone = |id: &str| {
            let directory = data_root.join("containers").join(id);
            rescued
                && !elsewhere.contains(id)
                && !store.graph.driver().exists(id)
                && gantry_linux::fs::symlink_metadata(directory).is_err()
        };
        // A backup does not know what was started since it was made, nor what network that was given.
        let younger = |id: &str| rescued && store.graph.is_younger_than_the_backup(&copy::path(id, data_root));
        for Entity { id, properties, .. } in store.graph.db().entities(KIND)? {
            if is_gone(&id) {
                // It was removed since the backup was made, and its name is free.
                tracing::warn!("container {id} of the database's backup has no files any more and was forgotten");
                store.graph.db().write(Durability::Process, |tx| tx.purge(&id))?;
                continue;
            }
            match Record::read(properties.as_bytes()) {
                Ok(record) => match younger(&id).then(|| copy::read(&id, data_root)).flatten() {
                    Some(record) => store.restore(record)?,
                    None => store.enter(record),
                },
                Err(error) => match copy::read(&id, data_root) {
                    Some(record) => store.restore(record)?,
                    None => {
                        store.unreadable_mut().insert(id, error.to_string());
                    }
                },
            }
        }
        let mut found = Vec::new();
        if rescued {
            for record in copy::all(data_root) {
                let lost = !store.read().by_id.contains_key(&record.id);
                if lost && store.graph.driver().exists(&record.id) {
                    found.push(record.id.clone());
                    store.restore(record)?;
                }
            }
        }
        for id in &found {
            if let Err(error) = store.link_again(id) {
                tracing::warn!("the links of container {id} could not be written again: {error}");
            }
        }
        store.load_links()?;
        for container in store.all() {
            store.identify_modes(&container);
            let record = container.record();
            if let Ok(image) = record.image_id.parse() {
                store.graph.adopt_container_layer(&record.id, &image)?;
            }
        }
        Ok(store)
    }

    /// Puts a container's id into a mode for what it was called there.
    ///
    /// # Errors
    /// A container that is not there.
    pub fn identify(&self, mode: &mut String) -> Result<()> {
        if let Some(other) = mode.strip_prefix("container:") {
            *mode = format!("container:{}", self.get(other)?.id());
        }
        Ok(())
    }

    /// Understands the modes of a record of when they kept names; those of containers that are gone stay.
    fn identify_modes(&self, container: &Container) {
        let mut record = Record::clone(&container.record());
        let mut changed = false;
        for mode in shared_modes(&mut record.host_config) {
            // Only whole names: the beginning of an id would be kept for one that it was never said of.
            let name = mode.strip_prefix("container:").map(|name| name.trim_start_matches('/'));
            let Some(id) = name.and_then(|name| self.read().by_name.get(name).cloned()) else { continue };
            *mode = format!("container:{id}");
            changed = true;
        }
        if changed && let Err(error) = self.save(container, record.clone()) {
            // The next start tries again.
            tracing::warn!("whose namespaces container {} shares could not be written by id: {error}", record.id);
            container.publish(record);
        }
    }

    fn load_links(&self) -> Result<()> {
        let ids: Vec<String> = self.read().by_id.keys().cloned().collect();
        let links: Links = self.graph.db().read(|db| {
            let of = |id: String| db.edges(&id).map(|edges| (id, edges));
            ids.into_iter().map(of).collect()
        })?;
        self.write().links = links.into_iter().filter(|(_, links)| !links.is_empty()).collect();
        Ok(())
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    fn enter(&self, record: Record) {
        let mut index = self.write();
        index.by_name.insert(record.name.clone(), record.id.clone());
        index.by_id.insert(record.id.clone(), Arc::new(Container::new(record)));
    }

    /// Enters a container from the copy of its record.
    fn restore(&self, mut record: Record) -> Result<()> {
        tracing::warn!("the record of container {} was taken from its copy, as of its last start", record.id);
        if self.read().by_name.contains_key(&record.name) {
            record.name = format!("{}-{}", record.name, record.short_id());
        }
        let document = to_json(&record)?;
        self.graph.db().write(Durability::Process, |tx| {
            tx.put_entity(&record.id, KIND, &document)?;
            tx.replace(&format!("/{NAMES}/{}", record.name), &record.id)
        })?;
        self.enter(record);
        Ok(())
    }

    /// The containers whose records cannot be read, and why.
    #[must_use]
    pub fn unreadable(&self) -> BTreeMap<String, String> {
        self.unreadable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unreadable_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, String>> {
        self.unreadable.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a container whose record cannot be read.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn forget(&self, id: &str) -> Result<()> {
        self.graph.db().write(Durability::Process, |tx| tx.purge(id))?;
        self.unreadable_mut().remove(id);
        Ok(())
    }

    /// Writes the copy of a container's record beside its log.
    pub fn copy(&self, record: &Record) {
        copy::write(record, &self.data_root);
    }

    /// Every container, in the order of ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    /// Finds by id, name (with or without slash) or unique beginning of an id.
    ///
    /// # Errors
    /// Docker's `No such container`; when a beginning is not unique.
    pub fn get(&self, name: &str) -> Result<Arc<Container>> {
        self.get_among(name, |_| true)
    }

    /// The same among those that are `there`: the others neither answer nor make a beginning ambiguous.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_among(&self, name: &str, there: impl Fn(&Container) -> bool) -> Result<Arc<Container>> {
        let gone = || Error::not_found(format!("No such container: {name}"));
        let index = self.read();
        let plain = name.strip_prefix('/').unwrap_or(name);
        let named = || index.by_name.get(plain).and_then(|id| index.by_id.get(id));
        if let Some(found) = index.by_id.get(plain).or_else(named) {
            return if there(found) { Ok(Arc::clone(found)) } else { Err(gone()) };
        }
        if plain.contains('/') {
            drop(index);
            return self.by_link(plain).filter(|found| there(found)).ok_or_else(gone);
        }
        if !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_hexdigit()) {
            let begin = index.by_id.range(plain.to_owned()..).take_while(|(id, _)| id.starts_with(plain));
            let mut matching = begin.filter(|(_, container)| there(container));
            if let Some((_, found)) = matching.next() {
                if matching.next().is_some() {
                    return Err(Error::invalid(format!(
                        "multiple IDs found with provided prefix: {plain}: give more of its digits"
                    )));
                }
                return Ok(Arc::clone(found));
            }
        }
        Err(gone())
    }

    /// The exec `id` and its container.
    #[must_use]
    pub fn exec(&self, id: &str) -> Option<(Arc<Container>, Arc<ExecInstance>)> {
        let index = self.read();
        let container = Arc::clone(index.by_id.get(index.execs.get(id)?)?);
        drop(index);
        container.exec(id).map(|exec| (container, exec))
    }

    /// Adds an exec to a container, and forgets those of it that ended long ago.
    pub fn add_exec(&self, container: &Container, exec: ExecInstance) {
        let forgotten = container.forget_execs(false);
        let mut index = self.write();
        for id in forgotten {
            index.execs.remove(&id);
        }
        index.execs.insert(exec.id.clone(), container.id().to_owned());
        container.add_exec(Arc::new(exec));
    }

    /// Forgets every exec of a container.
    pub fn clear_execs(&self, container: &Container) {
        let forgotten = container.forget_execs(true);
        let mut index = self.write();
        for id in forgotten {
            index.execs.remove(&id);
        }
    }

    /// Takes a name for a container that is being made.
    ///
    /// # Errors
    /// When the name is in use, with Docker's words.
    pub fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut index = self.write();
        if let Some(holder) = index.by_name.get(name) {
            return Err(name_in_use(name, holder));
        }
        index.by_name.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Gives a reserved name back.
    pub fn release(&self, name: &str) {
        self.write().by_name.remove(name);
    }

    /// Adds a new container, whose name was reserved, and its links: alias → the linked container's id.
    ///
    /// # Errors
    /// When the database cannot be written; when a linked container is gone.
    pub fn add(&self, record: Record, links: BTreeMap<String, String>) -> Result<()> {
        let (id, name) = (record.id.clone(), record.name.clone());
        let document = to_json(&record)?;
        self.graph.db().write(Durability::Process, |tx| {
            tx.put_entity(&id, KIND, &document)?;
            tx.set(&format!("/{NAMES}/{name}"), &id)?;
            links::write(tx, &name, &links)
        })?;
        self.copy(&record);
        let mut index = self.write();
        if !links.is_empty() {
            index.links.insert(id.clone(), links);
        }
        index.by_id.insert(id, Arc::new(Container::new(record)));
        Ok(())
    }

    /// Writes a changed record and makes it what readers see; the name stays.
    ///
    /// # Errors
    /// When the database cannot be written; readers then see the old record.
    pub fn save(&self, container: &Container, record: Record) -> Result<()> {
        if !self.read().by_id.contains_key(&record.id) {
            return Err(Error::not_found(format!("No such container: {}", record.id)));
        }
        let document = to_json(&record)?;
        self.graph.db().write(Durability::Process, |tx| tx.put_entity(&record.id, KIND, &document))?;
        container.publish(record);
        Ok(())
    }

    /// Gives a container another name, in one step.
    ///
    /// # Errors
    /// When the name is in use.
    pub fn rename(&self, container: &Container, new: &str) -> Result<()> {
        let record = container.record();
        if !self.read().by_id.contains_key(&record.id) {
            return Err(Error::not_found(format!("No such container: {}", record.id)));
        }
        self.reserve(new, &record.id)?;
        let old = record.name.clone();
        let renamed = Record { name: new.to_owned(), ..Record::clone(&record) };
        let written = to_json(&renamed).and_then(|document| {
            Ok(self.graph.db().write(Durability::Process, |tx| {
                tx.rename(&format!("/{NAMES}/{old}"), &format!("/{NAMES}/{new}"))?;
                tx.put_entity(&renamed.id, KIND, &document)
            })?)
        });
        if let Err(error) = written {
            self.release(new);
            return Err(error);
        }
        self.copy(&renamed);
        container.publish(renamed);
        self.release(&old);
        Ok(())
    }

    /// Forgets a container and frees its name.
    ///
    /// # Errors
    /// When the database cannot be written; the container is then still there.
    pub fn remove(&self, container: &Container) -> Result<()> {
        self.clear_execs(container);
        self.graph.db().write(Durability::Process, |tx| tx.purge(container.id()))?;
        let mut index = self.write();
        index.by_id.remove(container.id());
        index.by_name.remove(&container.record().name);
        index.links.remove(container.id());
        index.links.values_mut().for_each(|links| links.retain(|_, child| child != container.id()));
        Ok(())
    }

    pub(super) fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_json(record: &Record) -> Result<String> {
    serde_json::to_string(record).map_err(|e| Error::system(format!("write record of {}: {e}", record.id)))
}

fn name_in_use(name: &str, holder: &str) -> Error {
    Error::conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or \
         rename) that container to be able to reuse that name."
    ))
}
