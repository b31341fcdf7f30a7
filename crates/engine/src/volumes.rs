//! Named volumes: a directory each below the data root, its description in the database.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_api::volume::{Volume, VolumeCreate};
use gantry_graph::{Durability, Graph};
use gantry_linux::fs;
use jiff::Timestamp;
use tracing::warn;

use crate::error::{Error, Result};

const KIND: &str = "volume";
/// Below the root: the data of removed volumes. No name of a volume begins with a dot.
const REMOVED: &str = ".removed";

/// All volumes.
pub struct Volumes {
    root: PathBuf,
    graph: Graph,
    known: Mutex<BTreeMap<String, Arc<Volume>>>,
}

impl Volumes {
    /// Loads them.
    ///
    /// # Errors
    /// When directory or database cannot be read.
    pub fn open(root: PathBuf, graph: Graph) -> Result<Self> {
        fs::create_dir_mode(&root, 0o701)?;
        let mut known = BTreeMap::new();
        for entity in graph.db().entities(KIND)? {
            match serde_json::from_str::<Volume>(&entity.properties) {
                Ok(volume) => {
                    known.insert(volume.name.clone(), Arc::new(volume));
                }
                Err(error) => warn!("the description of {} cannot be read and was left alone: {error}", entity.id),
            }
        }
        let volumes = Self { root, graph, known: Mutex::new(known) };
        if volumes.graph.was_rescued() {
            volumes.find()?;
        }
        Ok(volumes)
    }

    /// Describes the volumes anew whose descriptions were lost with a damaged database; their labels are gone.
    fn find(&self) -> Result<()> {
        for name in fs::list(&self.root)?.iter().filter_map(|name| name.to_str()) {
            if crate::names::is_valid(name) && fs::metadata(self.root.join(name).join("_data")).is_ok() {
                let mut known = self.lock();
                if !known.contains_key(name) {
                    self.enter(&mut known, name, BTreeMap::new())?;
                }
            }
        }
        Ok(())
    }

    /// Every volume, by name.
    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.lock().values().cloned().collect()
    }

    /// A volume by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<Arc<Volume>> {
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// Makes a volume, or returns the one of that name; the second value says whether it is new.
    ///
    /// # Errors
    /// A bad name, a driver that does not exist, options that the local driver does not take.
    pub fn create(&self, request: &VolumeCreate) -> Result<(Arc<Volume>, bool)> {
        if !matches!(request.driver.as_str(), "" | "local") {
            let driver = &request.driver;
            return Err(Error::not_found(format!(
                "create {}: error looking up volume plugin {driver}: plugin {driver:?} not found",
                request.name
            )));
        }
        if request.driver_opts.as_ref().is_some_and(|options| !options.is_empty()) {
            return Err(Error::not_implemented("options of the local volume driver are not supported yet"));
        }
        let name = if request.name.is_empty() { crate::names::random_id()? } else { request.name.clone() };
        if !crate::names::is_valid(&name) {
            return Err(Error::invalid(format!(
                "create {name}: {name:?} includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        let mut known = self.lock();
        if let Some(volume) = known.get(&name) {
            return Ok((Arc::clone(volume), false));
        }
        fs::create_dir_mode(self.root.join(&name), 0o701)?;
        fs::create_dir_mode(self.root.join(&name).join("_data"), 0o755)?;
        let volume = self.enter(&mut known, &name, request.labels.clone().unwrap_or_default())?;
        Ok((volume, true))
    }

    /// Describes the volume of that name, whose directory is there.
    fn enter(
        &self,
        known: &mut BTreeMap<String, Arc<Volume>>,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Arc<Volume>> {
        let volume = Arc::new(Volume {
            created_at: Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| Timestamp::now()).to_string(),
            driver: "local".into(),
            labels: Some(labels),
            mountpoint: self.root.join(name).join("_data").to_string_lossy().into_owned(),
            name: name.to_owned(),
            options: None,
            scope: "local".into(),
            usage_data: None,
        });
        let document = serde_json::to_string(&*volume).map_err(|e| Error::system(e.to_string()))?;
        self.graph.db().write(Durability::Process, |tx| tx.put_entity(&entity_id(name), KIND, &document))?;
        known.insert(name.to_owned(), Arc::clone(&volume));
        Ok(volume)
    }

    /// Removes a volume: gone at once, its data deleted by the next [`Volumes::sweep`]. That nobody uses it is the
    /// caller's to check.
    ///
    /// # Errors
    /// When it is not there or its description cannot be removed; its data is then untouched.
    pub fn remove(&self, name: &str) -> Result<()> {
        let mut known = self.lock();
        if !known.contains_key(name) {
            return Err(Error::not_found(format!("get {name}: no such volume")));
        }
        // Aside first: a volume of that name made later must never find the old data.
        let aside = self.root.join(REMOVED);
        fs::create_dir_mode(&aside, 0o700)?;
        fs::rename(self.root.join(name), aside.join(format!("{name}.{}", fs::unique())))?;
        self.graph.db().write(Durability::Process, |tx| tx.purge(&entity_id(name)))?;
        known.remove(name);
        Ok(())
    }

    /// Deletes the data of removed volumes.
    ///
    /// # Errors
    /// The first that cannot be deleted; the others are.
    pub fn sweep(&self) -> gantry_linux::Result<()> {
        fs::remove_children(self.root.join(REMOVED))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Volume>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entity_id(name: &str) -> String {
    format!("volume:{name}")
}
