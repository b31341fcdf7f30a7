//! The image store: opened from the database, read from memory, changed one transaction at a time.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use gantry_api::reference::{Digest, Reference};
use gantry_graphdriver::GraphDriver;
use gantry_linux::fs::{self, Durability};
use gantry_linux::mount::RootMount;

use crate::images::canonical;
use crate::layers::Layers;
use crate::litter;
use crate::records::{self, IMAGE, IMAGES, ImageRecord, LAYER, WRITABLE, WritableRecord};
use crate::{Content, Error, GraphDb, Image, ImageConfig, Images, Layer, Result, shelf};

/// Images, their layers and the writable layers of containers. A handle: clones are the same store.
///
/// Everything blocks but [`Graph::images`] and what needs no more than it; nothing is held across calls but what
/// [`crate::Registration`] pins.
#[derive(Clone)]
pub struct Graph {
    pub(crate) inner: Arc<Inner>,
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
    /// The writable layers by container.
    pub writable: Mutex<HashMap<String, WritableRecord>>,
}

impl Graph {
    /// Opens the store in the data root and removes what a dead daemon left half made (space comes back with
    /// [`Graph::sweep`]). The database is `gantry.db`, the content store `content/`.
    ///
    /// # Errors
    /// When the database or the directories cannot be used. A damaged image is left out with a warning: pulling it
    /// again repairs it.
    pub fn open(root: &Path, driver: Arc<dyn GraphDriver>) -> Result<Self> {
        fs::create_dir_all(root)?;
        let db = GraphDb::open(root.join("gantry.db"))?;
        db.write(Durability::Process, |db| db.make_directory(IMAGES))?;
        let elsewhere = shelf::switch(&db, driver.name())?;
        let content = Content::open(&root.join("content"))?.sparing(elsewhere);
        let stored = driver.list()?.into_iter().collect::<HashSet<_>>();
        litter::note_new_stores(&db, driver.name(), &stored, &content)?;
        let layers = load_layers(&db, &stored)?;
        let images = load_images(&db, &content, &layers)?;
        let writable = load_writable(&db, &stored)?;
        remove_orphans(&db, &*driver, &stored, &layers, &writable)?;
        let inner = Inner {
            layers: Layers::new(Arc::clone(&driver), layers.into_values()),
            images: RwLock::new(Arc::new(images)),
            writable: Mutex::new(writable),
            changing: Mutex::new(()),
            db,
            content,
            driver,
        };
        let graph = Self { inner: Arc::new(inner) };
        graph.collect(&graph.change())?;
        graph.discard_documents(&graph.change())?;
        graph.complete_container_layers();
        Ok(graph)
    }

    /// The database, for the engine's own entities.
    #[must_use]
    pub fn db(&self) -> &GraphDb {
        &self.inner.db
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
        Ok(self.inner.driver.mount(&top.store_id, true)?)
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
        self.layers_disk_use().map(drop)
    }

    /// Bytes on the disk of all layers, of the documents and of the database.
    ///
    /// # Errors
    /// The driver's, and what the file system refuses.
    pub fn disk_use(&self) -> Result<u64> {
        let mut bytes = self.layers_disk_use()? + gantry_graphdriver::disk_use(self.inner.content.root())?;
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

    fn layers_disk_use(&self) -> Result<u64> {
        let mut bytes = 0;
        for layer in self.inner.layers.all() {
            match self.inner.driver.disk_use(&layer.store_id) {
                // It was removed meanwhile.
                Err(gantry_graphdriver::Error::NotFound(_)) => {}
                used => bytes += used?,
            }
        }
        Ok(bytes)
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
        Ok(self.inner.layers.discard_all(taken))
    }

    /// Takes out the layers that none of these images, no container and no registration needs, uppermost first. They are
    /// given back or discarded.
    pub(crate) fn take_unneeded(&self, images: &Images) -> Vec<Arc<Layer>> {
        let mut kept: HashSet<Digest> =
            images.iter().flat_map(|image| &image.layers).map(|layer| layer.chain_id.clone()).collect();
        for record in self.writable().values() {
            let mut at = record.parent.clone();
            while let Some(chain) = at.filter(|chain| kept.insert(chain.clone())) {
                at = self.inner.layers.get(&chain).and_then(|layer| layer.parent.clone());
            }
        }
        let mut taken = self.inner.layers.take_unreferenced(|chain| kept.contains(chain));
        sort_uppermost_first(&mut taken);
        taken
    }
}

fn sort_uppermost_first(layers: &mut [Arc<Layer>]) {
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

/// The layers whose files are there.
fn load_layers(db: &GraphDb, stored: &HashSet<String>) -> Result<HashMap<Digest, Arc<Layer>>> {
    let mut layers = HashMap::new();
    for entity in db.entities(LAYER)? {
        let layer: Layer = records::read(&entity)?;
        if stored.contains(&layer.store_id) {
            layers.insert(layer.chain_id.clone(), Arc::new(layer));
        } else {
            tracing::warn!(layer = %layer.chain_id, "the files of a layer are missing; pull its images again");
        }
    }
    Ok(layers)
}

fn load_images(db: &GraphDb, content: &Content, layers: &HashMap<Digest, Arc<Layer>>) -> Result<Images> {
    let mut images = Images::default();
    for entity in db.entities(IMAGE)? {
        match load_image(&entity.id, records::read(&entity)?, content, layers) {
            Ok(image) => images.insert(Arc::new(image)),
            Err(error) => tracing::warn!(image = entity.id, %error, "an image is damaged; pull it again"),
        }
    }
    for (name, id) in db.children(IMAGES)? {
        if let (Ok(name), Ok(id)) = (Reference::parse(&name), id.parse())
            && images.get(&id).is_some()
        {
            images.name(name, id);
        }
    }
    Ok(images)
}

fn load_image(id: &str, record: ImageRecord, content: &Content, layers: &HashMap<Digest, Arc<Layer>>) -> Result<Image> {
    let id: Digest = id.parse().map_err(|error| Error::invalid("image id", error))?;
    let raw = content.read(&id)?;
    let config = ImageConfig::parse(&raw)?;
    let missing = |chain: &Digest| Error::NotFound { kind: "layer", name: chain.to_string() };
    let layers = config.chain_ids().into_iter().map(|chain| layers.get(&chain).cloned().ok_or_else(|| missing(&chain)));
    let layers = layers.collect::<Result<_>>()?;
    let ImageRecord { manifest, parent, last_tagged } = record;
    Ok(Image { id, config, raw: raw.into(), layers, manifest, parent, last_tagged })
}

fn load_writable(db: &GraphDb, stored: &HashSet<String>) -> Result<HashMap<String, WritableRecord>> {
    let mut writable = HashMap::new();
    for entity in db.entities(WRITABLE)? {
        let container = entity.id.trim_start_matches("writable:").to_owned();
        if stored.contains(&container) {
            writable.insert(container, records::read(&entity)?);
        } else {
            // Its removal was interrupted after the files went.
            db.write(Durability::Process, |db| db.purge(&entity.id))?;
        }
    }
    Ok(writable)
}

/// Removes layers that no commit reached. Where the database knows nothing at all, and did not see the store's beginning, the
/// one that did was lost: then nothing is touched.
fn remove_orphans(
    db: &GraphDb,
    driver: &dyn GraphDriver,
    stored: &HashSet<String>,
    layers: &HashMap<Digest, Arc<Layer>>,
    writable: &HashMap<String, WritableRecord>,
) -> Result<()> {
    let known: HashSet<&str> = layers.values().map(|layer| layer.store_id.as_str()).collect();
    let orphans = stored.iter().filter(|id| !known.contains(id.as_str()) && !writable.contains_key(*id));
    let orphans: Vec<_> = orphans.collect();
    let nothing = db.entities(IMAGE)?.is_empty() && known.is_empty() && writable.is_empty();
    if !orphans.is_empty() && nothing && !litter::knows_all(db, driver.name())? {
        tracing::warn!(layers = orphans.len(), "the database names no layer, but there are some; they are left alone");
        return Ok(());
    }
    for id in orphans {
        driver.remove(id)?;
    }
    Ok(())
}
