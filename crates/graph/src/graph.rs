//! The image store: opened from the database, read from memory, changed one transaction at a time.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use gantry_api::reference::{Digest, Reference};
use gantry_graphdriver::GraphDriver;
use gantry_linux::fs::{self, Durability};
use gantry_linux::mount::RootMount;

use crate::db::{Rescue, backed_up, end_rescue, open_or_rescue, quarantined};
use crate::images::canonical;
use crate::layers::Layers;
use crate::opening::Opening;
use crate::records::{self, IMAGES, WritableRecord};
use crate::reindex::{place, reindex};
use crate::{Content, Error, GraphDb, Image, Images, Layer, Result, shelf};

/// Images, their layers and the writable layers of containers. A handle: clones are the same store.
///
/// Everything blocks but [`Graph::images`] and what needs no more than it; nothing is held across calls but what
/// [`crate::Registration`] pins.
#[derive(Clone)]
pub struct Graph {
    pub(crate) inner: Arc<Inner>,
    /// Whoever waits by this handle for a layer that somebody else is making may leave.
    pub(crate) left: Arc<AtomicBool>,
}

pub(crate) struct Inner {
    pub db: GraphDb,
    pub content: Content,
    pub driver: Arc<dyn GraphDriver>,
    pub layers: Layers,
    /// One change of images and names at a time.
    changing: Mutex<()>,
    /// Held only to clone or swap the pointer.
    images: RwLock<Arc<Images>>,
    root: PathBuf,
    /// The database was damaged, and is what could be found of it.
    rescued: bool,
    /// Every record was read, and none is old: what nothing names is litter.
    complete: bool,
    /// Directories of the driver whose records were lost with a damaged database.
    pub kept: Mutex<HashSet<String>>,
    /// The writable layers by container.
    pub writable: Mutex<HashMap<String, WritableRecord>>,
}

impl Graph {
    /// Opens the store in the data root and removes what a dead daemon left half made (space comes back with
    /// [`Graph::sweep`]). The database is `gantry.db`, the content store `content/`.
    ///
    /// # Errors
    /// When the directories cannot be used, or a newer version wrote the database. Damage is no error: see
    /// [`Graph::damage`] and [`Graph::quarantined`].
    pub fn open(root: &Path, driver: Arc<dyn GraphDriver>) -> Result<Self> {
        fs::create_dir_all(root)?;
        let (db, rescue) = open_or_rescue(root)?;
        db.write(Durability::Process, |db| db.make_directory(IMAGES))?;
        let switched = shelf::switch(&db, &*driver)?;
        let content = Content::open(&root.join("content"))?.sparing(switched.documents);
        let lost = switched.lost.then_some(Rescue { from_backup: false });
        if let Some(rescue) = rescue.as_ref().or(lost.as_ref()) {
            reindex(&db, &content, &*driver, rescue)?;
        }
        let unplaced = place(&db, &content, &*driver)?;
        let content = content.sparing(unplaced);
        let found = Opening::read(&db, &content, &*driver)?;
        found.remove_orphans(&db, &*driver)?;
        records::complete_edges(&db, found.images.iter())?;
        let layers = Layers::new(Arc::clone(&driver), found.layers.into_values());
        for (chain, reason) in &found.suspects {
            layers.suspect(chain, reason);
        }
        let inner = Inner {
            layers,
            images: RwLock::new(Arc::new(found.images)),
            writable: Mutex::new(found.writable),
            changing: Mutex::new(()),
            root: root.to_path_buf(),
            rescued: rescue.is_some(),
            complete: found.complete && rescue.is_none(),
            kept: Mutex::new(found.kept),
            db,
            content,
            driver,
        };
        let graph = Self { inner: Arc::new(inner), left: Arc::default() };
        if graph.inner.complete {
            graph.collect(&graph.change())?;
            graph.discard_documents(&graph.change())?;
        }
        graph.complete_container_layers();
        Ok(graph)
    }

    /// The database, for the engine's own entities.
    #[must_use]
    pub fn db(&self) -> &GraphDb {
        &self.inner.db
    }

    /// Whether this daemon found the database damaged, so that records may be old or missing. Until the next start nothing is
    /// taken for litter.
    #[must_use]
    pub fn was_rescued(&self) -> bool {
        self.inner.rescued
    }

    /// Whether a file was written after the backup that a rescue took, so that it knows more.
    #[must_use]
    pub fn is_younger_than_the_backup(&self, path: &Path) -> bool {
        let written = fs::metadata(path).ok().and_then(|found| found.modified().ok());
        written.is_some_and(|written| backed_up(&self.inner.root).is_none_or(|backup| written > backup))
    }

    /// Says that everything that could be found again is in the database; before, each start is part of the rescue.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn end_rescue(&self) -> Result<()> {
        if self.inner.rescued { end_rescue(&self.inner.root) } else { Ok(()) }
    }

    /// Replaces the backup of the database, if anything changed since the last one.
    ///
    /// # Errors
    /// As [`GraphDb::backup`].
    pub fn back_up(&self) -> Result<bool> {
        self.inner.db.backup()
    }

    /// What lies in the data root's quarantine, and why.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(PathBuf, String)> {
        quarantined(&self.inner.root)
    }

    /// Manifests and configurations by digest.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.inner.content
    }

    /// The graphdriver.
    #[must_use]
    pub fn driver(&self) -> &Arc<dyn GraphDriver> {
        &self.inner.driver
    }

    /// Everything that is there now. Never waits for the disk or for a change.
    #[must_use]
    pub fn images(&self) -> Arc<Images> {
        Arc::clone(&self.inner.images.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An image by name, `name@digest`, id or the beginning of one.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub fn image(&self, name: &str) -> Result<Arc<Image>> {
        self.images().resolve(name).cloned()
    }

    /// Gives an image a name (tag `latest` when it has none); returns the image that had it before, if another.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when the image is not there.
    pub fn tag(&self, name: &Reference, id: &Digest) -> Result<Option<Digest>> {
        let change = self.change();
        let mut images = (*self.images()).clone();
        let image = images.get(id).ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        let image = Arc::new(Image { last_tagged: now(), ..(**image).clone() });
        let name = canonical(name);
        self.inner.db.write(Durability::Disk, |db| {
            records::put_image(db, &image)?;
            db.replace(&records::name_path(&name), id.as_str())
        })?;
        images.insert(image);
        let before = images.name(name, id.clone()).filter(|before| before != id);
        self.publish(&change, images);
        Ok(before)
    }

    /// How to mount an image's root, read-only.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when it is not there, [`Error::Conflict`] when it has no layers.
    pub fn image_root(&self, id: &Digest) -> Result<RootMount> {
        let images = self.images();
        let image = images.get(id).ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        let top = image.layers.last().ok_or_else(|| Error::Conflict(format!("image {} has no layers", id.short())))?;
        self.sound(Some(&top.chain_id))?;
        Ok(self.inner.driver.mount(&top.store_id, true)?)
    }

    /// A handle of its own for a caller that may leave: what it waits for then is [`Graph::leave`]'s.
    #[must_use]
    pub fn leavable(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), left: Arc::default() }
    }

    /// Ends every wait by this handle, its clones and their registrations for layers that others are making, now and from now on, with
    /// [`crate::Error::Left`].
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.inner.layers.wake();
    }

    /// How many wait at this moment, by whatever handle, for a layer that another pull or load is making.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.layers.waiting()
    }

    /// Where an image's uppermost layer lies, in the words of `docker inspect`; see [`GraphDriver::places`].
    ///
    /// # Errors
    /// The driver's.
    pub fn image_places(&self, image: &Image) -> Result<Vec<(&'static str, String)>> {
        image.layers.last().map_or(Ok(Vec::new()), |top| Ok(self.inner.driver.places(&top.store_id)?))
    }

    /// Whether the layers of one registration may be unpacked in any order and at once.
    #[must_use]
    pub fn unpacks_in_parallel(&self) -> bool {
        self.inner.driver.applies_in_parallel()
    }

    /// Deletes what was removed, and what a failure left. Slow: call it from a background thread after start, after
    /// removals, and after what unpacks layers.
    ///
    /// # Errors
    /// The driver's, and the content store's.
    pub fn sweep(&self) -> Result<()> {
        let change = self.change();
        let collected = self.collect(&change).and_then(|_| self.discard_documents(&change));
        drop(change);
        self.inner.driver.sweep(false)?;
        collected?;
        // Measured here, off every path that somebody waits for, so that nobody waits when it is asked for.
        self.layers_disk_use();
        Ok(())
    }

    /// Bytes on the disk of all layers, of the documents and of the database.
    ///
    /// # Errors
    /// The driver's, and what the file system refuses.
    pub fn disk_use(&self) -> Result<u64> {
        let mut bytes = self.layers_disk_use() + gantry_graphdriver::disk_use(self.inner.content.root())?;
        for part in ["", "-wal", "-shm"] {
            let mut file = self.inner.db.path().as_os_str().to_owned();
            file.push(part);
            match fs::symlink_metadata(&file) {
                Err(error) if error.is_not_found() => {}
                found => bytes += found?.blocks() * 512,
            }
        }
        Ok(bytes)
    }

    fn layers_disk_use(&self) -> u64 {
        let mut bytes = 0;
        for layer in self.inner.layers.all() {
            match self.inner.driver.disk_use(&layer.store_id) {
                // It was removed meanwhile.
                Err(gantry_graphdriver::Error::NotFound(_)) => {}
                // One that cannot be measured keeps no other from being swept or counted.
                Err(error) => tracing::warn!(layer = %layer.chain_id, %error, "what a layer uses is not known"),
                Ok(used) => bytes += used,
            }
        }
        bytes
    }

    /// The right to change images and names.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, _change: &MutexGuard<'_, ()>, images: Images) {
        *self.inner.images.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(images);
    }

    pub(crate) fn writable(&self) -> MutexGuard<'_, HashMap<String, WritableRecord>> {
        self.inner.writable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the layers that no image, container or registration needs; returns their chain ids, uppermost first.
    pub(crate) fn collect(&self, _change: &MutexGuard<'_, ()>) -> Result<Vec<Digest>> {
        let taken = self.take_unneeded(&self.images());
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        // Before the driver forgets them: the database may name less than there is, never more.
        if let Err(error) = self.inner.db.write(Durability::Disk, |db| records::purge_layers(db, &taken)) {
            self.inner.layers.give_back(taken);
            return Err(error);
        }
        Ok(self.discard_layers(taken))
    }

    /// Takes out the layers that none of these images, no container and no registration needs, uppermost first. They are
    /// given back or discarded.
    pub(crate) fn take_unneeded(&self, images: &Images) -> Vec<Arc<Layer>> {
        if !self.inner.complete || images.damaged().any(|image| image.top.is_none()) {
            // Any layer may be that of something whose record was not read.
            return Vec::new();
        }
        let mut kept: HashSet<Digest> =
            images.iter().flat_map(|image| &image.layers).map(|layer| layer.chain_id.clone()).collect();
        let tops = images.damaged().map(|image| image.top.clone());
        for top in tops.chain(self.writable().values().map(|record| record.parent.clone())) {
            let mut at = top;
            while let Some(chain) = at.filter(|chain| kept.insert(chain.clone())) {
                at = self.inner.layers.get(&chain).and_then(|layer| layer.parent.clone());
            }
        }
        let mut taken = self.inner.layers.take_unreferenced(|chain| kept.contains(chain));
        sort_uppermost_first(&mut taken);
        taken
    }
}

pub(crate) fn sort_uppermost_first(layers: &mut [Arc<Layer>]) {
    let parents: HashMap<_, _> = layers.iter().map(|l| (l.chain_id.clone(), l.parent.clone())).collect();
    let depth = |layer: &Arc<Layer>| {
        let mut at = layer.parent.as_ref();
        let mut depth = 0;
        while let Some(parent) = at.and_then(|chain| parents.get(chain)) {
            depth += 1;
            at = parent.as_ref();
        }
        depth
    };
    layers.sort_by_cached_key(|layer| std::cmp::Reverse((depth(layer), layer.chain_id.clone())));
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
