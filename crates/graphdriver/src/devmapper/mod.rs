//! The devmapper driver: a layer is a device of a thin pool with a file system, a snapshot of its parent's, made in constant
//! time and sharing every block.
//!
//! `layers/<id>` holds what must be known without the device: `device` (its number), `parent`, `size`, `owners`. In the
//! file system `root` is the tree, and `own-<id>` what the layer has beside it: its recipe, and what a draft is unpacked
//! into. Those of the layers below are there too, and nobody looks.
//!
//! Devices are there only while somebody has them mounted ([`gantry_linux::dm`]). A draft's directory says its device's
//! number before the pool has it, and is gone only after it ([`ids`]), so nothing that is killed leaves a device behind.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_linux::dm::SECTOR;
use gantry_linux::mount::{IdMap, RootMount, attach_all};
use gantry_linux::{ResultExt, fs};
use rustix::io::Errno;

use self::base::{Base, ROOT, path_of};
use self::ids::{BASE, Device, Ids};
use self::pool::Pool;
use self::settings::Settings;
use self::space::human;
use crate::archive::recipe::DISPLACED;
use crate::fixtures::Difference;
use crate::overlay::{prepare_draft, undo_draft};
use crate::store::{REPLACED, Store, delete, note, noted_size};
use crate::verify::{Form, Place, verify};
use crate::whole::{changed_bytes, compare, merge, write_diff};
use crate::{Change, Error, GraphDriver, Options, Replaced, archive, owners, tree};

mod base;
mod ids;
mod pool;
mod settings;
mod space;
mod status;

struct DeviceMapper {
    store: Store,
    pool: Pool,
    base: Base,
    ids: Ids,
    discard: bool,
    /// Devices of layers that the pool did not have when the driver opened.
    missing: Vec<u32>,
    sweeping: Mutex<()>,
}

/// Opens the driver in its directory: its pool, its base device; and removes what a dead daemon began.
pub(crate) fn open(root: &Path, options: &Options) -> Result<Arc<dyn GraphDriver>, Error> {
    let settings = Settings::parse(options)?;
    // Before anything is written: where it cannot work nothing is left behind.
    let control = pool::device_mapper(root)?;
    Base::check_program(root, &settings)?;
    let store = Store::open(root)?;
    let pool = Pool::open(control, store.root(), &settings)?;
    let mut used = Vec::new();
    let mut of_layers = Vec::new();
    for part in ["layers", "drafts", "trash", REPLACED] {
        for name in fs::list(store.root().join(part))? {
            let directory = store.root().join(part).join(name);
            match Device::read(&directory) {
                Ok(Some(device)) => {
                    used.push(device.id);
                    if part == "layers" {
                        of_layers.push((device, directory));
                    }
                }
                Ok(None) => {}
                // Its own layer alone is lost: whoever wants to mount it is told.
                Err(error @ Error::Damaged { .. }) => tracing::warn!(%error, "a layer's device is not known"),
                // It may be there, and whatever device nobody is known to have is deleted.
                Err(error) => return Err(error),
            }
        }
    }
    let ids = Ids::open(store.root(), used)?;
    for id in ids.forgotten() {
        pool.delete(id)?;
    }
    let wanted: Vec<_> = of_layers.iter().map(|(device, _)| (device.id, device.sectors)).collect();
    let missing = pool.missing(&wanted)?;
    for (device, directory) in of_layers.iter().filter(|(device, _)| missing.contains(&device.id)) {
        tracing::error!(layer = %directory.display(), device = device.id, "the pool does not have this layer's device");
    }
    let base = Base::open(store.root(), &pool, &ids, &settings)?;
    let discard = settings.discard.unwrap_or(pool.files.is_some());
    let driver = DeviceMapper { store, pool, base, ids, discard, missing, sweeping: Mutex::new(()) };
    Ok(Arc::new(driver))
}

/// A device to be made of another.
struct Snapshot {
    /// `None` is the base device.
    below: Option<Device>,
    /// How large that is.
    had: u64,
    /// How large this one will be.
    sectors: u64,
    writable: bool,
}

/// A device's file system, mounted where nobody else sees it, until this is dropped.
struct Inside {
    tree: OwnedFd,
    /// Held from the first moment: it is told of every write that fails later.
    root: OwnedFd,
}

impl Inside {
    fn root(&self) -> PathBuf {
        path_of(&self.tree).join(ROOT)
    }

    /// What a layer has beside its tree.
    fn own(&self, id: &str) -> PathBuf {
        path_of(&self.tree).join(format!("own-{id}"))
    }

    /// Waits for the disk; what could not be written is an error only here.
    fn sync(&self, id: &str) -> Result<(), Error> {
        Ok(rustix::fs::syncfs(&self.root).during("sync file system of layer", id)?)
    }
}

impl DeviceMapper {
    /// The device of a layer's or draft's directory.
    fn device(&self, directory: &Path) -> Result<Device, Error> {
        let damaged = |reason: &str| Error::Damaged { layer: directory.to_owned(), reason: reason.to_owned() };
        let device = Device::read(directory)?.ok_or_else(|| damaged("it does not say which device it has"))?;
        if self.missing.contains(&device.id) {
            return Err(damaged("the pool does not have its device"));
        }
        Ok(device)
    }

    /// Mounts it. A container's device is always mounted for writing, because it may be mounted so already; another only as a draft.
    fn enter(&self, directory: &Path, draft: bool) -> Result<Inside, Error> {
        let device = self.device(directory)?;
        let mount = self.base.mount(&self.pool, device.id, device.sectors, draft || device.writable, false);
        let tree = attach_all(&mount).map_err(|error| match Errno::from_raw_os_error(error.errno()) {
            Errno::NODATA => {
                Error::Damaged { layer: directory.to_owned(), reason: "the pool has lost its device".to_owned() }
            }
            Errno::UCLEAN => Error::Damaged { layer: directory.to_owned(), reason: error.to_string() },
            _ => self.pool.explain(error.into()),
        })?;
        let root = tree::open_root(&path_of(&tree))?;
        Ok(Inside { tree, root })
    }

    /// A draft whose device is a snapshot of the parent's. A writable one has at least the bytes that are given.
    fn begin(&self, id: &str, parent: Option<&str>, writable: Option<u64>) -> Result<PathBuf, Error> {
        self.pool.check_room()?;
        let below = parent.map(|parent| self.device(&self.store.layer(parent)?)).transpose()?;
        let had = below.map_or(self.base.sectors, |below| below.sectors);
        let sectors = match writable {
            None => had,
            // That of today's base device.
            Some(0) => had.max(self.base.sectors),
            Some(limit) if limit / SECTOR < had => {
                let reason = format!(
                    "its file system begins with {}, and does not shrink: give a larger size, or dm.basesize for a new store",
                    human(had * SECTOR)
                );
                return Err(Error::NoLimit { driver: "devmapper", path: self.store.root().to_owned(), reason });
            }
            Some(limit) => limit / SECTOR,
        };
        let draft = self.store.begin(id)?;
        let snapshot = Snapshot { below, had, sectors, writable: writable.is_some() };
        undo_draft(&self.store, &draft, self.fill(&draft, parent, &snapshot))?;
        Ok(draft)
    }

    fn fill(&self, draft: &Path, parent: Option<&str>, snapshot: &Snapshot) -> Result<(), Error> {
        if let Some(parent) = parent {
            fs::write(draft.join("parent"), parent)?;
        }
        let Snapshot { below, had, sectors, writable } = *snapshot;
        let device = Device { id: self.ids.take()?, sectors, writable };
        if let Err(error) = device.write(draft) {
            // Nobody would know it.
            self.ids.give_back(device.id);
            return Err(error);
        }
        // What is below is a layer of an image: nobody writes to it.
        self.pool.snapshot(device.id, below.map_or(BASE, |below| below.id))?;
        if sectors > had {
            self.base.grow(&self.pool, device.id, sectors).map_err(|error| self.pool.explain(error))?;
        }
        Ok(())
    }

    /// Does something with a draft, and has it on the device's disk.
    fn in_draft<T>(&self, id: &str, work: impl FnOnce(&Inside, &Path) -> Result<T, Error>) -> Result<T, Error> {
        let draft = self.store.draft(id)?;
        let inside = self.enter(&draft, true)?;
        let done = self.prepare(&inside, id).and_then(|()| work(&inside, &draft));
        // A full pool shows itself as a failed write.
        done.and_then(|value| inside.sync(id).map(|()| value)).map_err(|error| self.pool.explain(error))
    }

    fn prepare(&self, inside: &Inside, id: &str) -> Result<(), Error> {
        let own = inside.own(id);
        if fs::symlink_metadata(own.join("diff")).is_ok() {
            return Ok(());
        }
        fs::create_dir_mode(&own, 0o700)?;
        prepare_draft(&own, None)
    }

    /// Makes a draft all that the layer `id` is, on the disk.
    fn complete(&self, name: &str, id: &str) -> Result<(), Error> {
        let draft = self.store.draft(name)?;
        let device = self.device(&draft)?;
        let held = self.pool.control.open_thin(&self.pool.thin(device.id, device.sectors))?;
        let committed = self.in_draft(name, |inside, draft| {
            let (own, root) = (inside.own(name), inside.root());
            // The snapshot is the layer below, until something is merged into it.
            let below = note(draft, "parent")?.map(|_| root.clone());
            archive::finish(&own, below.as_slice()).map_err(|error| error.inside(draft))?;
            merge(&own.join("diff"), &root, &own.join("grave"))?;
            for name in ["diff", "grave", "later"] {
                self.store.discard(&own.join(name))?;
            }
            if fs::list(own.join(DISPLACED))?.is_empty() {
                fs::remove_dir(own.join(DISPLACED))?;
            }
            if noted_size(draft)?.is_none() {
                fs::write(draft.join("size"), "0")?;
            }
            if name == id { Ok(()) } else { Ok(fs::rename(&own, inside.own(id))?) }
        });
        // It is unmounted, and that has to be on the disk too: a layer is mounted without recovery.
        let flushed = rustix::fs::fsync(&held).during("flush device of layer", name);
        let committed = committed.and_then(|()| flushed.map_err(|error| self.pool.explain(error.into())));
        drop(held);
        // Half merged it is nothing that could be tried again.
        undo_draft(&self.store, &draft, committed)
    }

    /// The layer below, mounted.
    fn below(&self, directory: &Path) -> Result<Option<Inside>, Error> {
        let parent = note(directory, "parent")?;
        parent.map(|parent| self.enter(&self.store.layer(&parent)?, false)).transpose()
    }

    /// Deletes the device of what was removed. Its number is free when its note is gone as well, not before.
    fn delete(&self, directory: &Path) -> Result<Deleted, Error> {
        let device = match Device::read(directory) {
            Ok(Some(device)) => device,
            // Written before the device was made: there is none, or the next start finds it.
            Ok(None) | Err(Error::Damaged { .. }) => return Ok(Deleted::Gone(None)),
            Err(error) => return Err(error),
        };
        if !self.pool.is_released(device.id)? {
            return Ok(Deleted::Mounted);
        }
        if self.discard && !self.missing.contains(&device.id) {
            match self.pool.discard(&self.pool.thin(device.id, device.sectors)) {
                // It was never made, or it lies on something that forgets nothing.
                Err(Error::System(error)) if is_nothing_to_discard(&error) => {}
                other => other?,
            }
        }
        if !self.pool.delete(device.id)? {
            return Ok(Deleted::Mounted);
        }
        // The number of one that was missing stays known as such.
        Ok(Deleted::Gone(Some(device.id).filter(|id| !self.missing.contains(id))))
    }
}

/// What came of deleting a device.
enum Deleted {
    /// Somebody still has it mounted.
    Mounted,
    /// It is not there; the number is free when nothing on the disk names it any more.
    Gone(Option<u32>),
}

fn is_nothing_to_discard(error: &gantry_linux::Error) -> bool {
    [Errno::NODATA, Errno::OPNOTSUPP].contains(&Errno::from_raw_os_error(error.errno()))
}

impl GraphDriver for DeviceMapper {
    fn name(&self) -> &'static str {
        "devmapper"
    }

    fn status(&self) -> Vec<(String, String)> {
        status::lines(&self.pool, &self.base)
    }

    /// A snapshot can only be taken of what is there.
    fn applies_in_parallel(&self) -> bool {
        false
    }

    fn create(&self, id: &str, parent: Option<&str>) -> Result<(), Error> {
        self.begin(id, parent, None).map(drop)
    }

    fn apply(&self, id: &str, archive: &mut dyn Read) -> Result<u64, Error> {
        self.in_draft(id, |inside, draft| {
            let content = archive::apply(&inside.own(id), archive, &|_| {}).map_err(|error| error.inside(draft))?;
            let before = noted_size(draft)?.unwrap_or(0);
            fs::write(draft.join("size"), (before + content).to_string())?;
            Ok(content)
        })
    }

    fn commit(&self, id: &str) -> Result<(), Error> {
        self.complete(id, id)?;
        self.store.publish(id, true)
    }

    /// Nobody has the device of an image's layer mounted but for a moment: containers have their own, which stay as they are.
    fn replace(&self, draft: &str, id: &str) -> Result<(), Error> {
        self.complete(draft, id)?;
        self.store.replace(draft, id)?;
        let mut replaced = self.store.replaced()?.into_iter().filter(|replaced| replaced.id == id);
        replaced.try_for_each(|replaced| self.store.release(&replaced))
    }

    fn replaced(&self) -> Result<Vec<Replaced>, Error> {
        self.store.replaced()
    }

    fn release(&self, replaced: &Replaced) -> Result<(), Error> {
        self.store.release(replaced)
    }

    /// A container has a file system of its own: the limit is its size, and that of the base device where none is given.
    fn create_writable(&self, id: &str, parent: Option<&str>, limit: Option<u64>) -> Result<(), Error> {
        let draft = self.begin(id, parent, Some(limit.unwrap_or(0)))?;
        undo_draft(&self.store, &draft, self.store.publish(id, false))
    }

    fn map_owners(&self, id: &str, map: &IdMap) -> Result<(), Error> {
        owners::write(&self.store.layer(id)?, map)
    }

    fn mount(&self, id: &str, read_only: bool) -> Result<RootMount, Error> {
        let layer = self.store.layer(id)?;
        let device = self.device(&layer)?;
        let read_only = read_only || !device.writable;
        let mount = self.base.mount(&self.pool, device.id, device.sectors, device.writable, read_only);
        owners::mapped(&layer, RootMount::Device(Box::new(mount)))
    }

    fn places(&self, id: &str) -> Result<Vec<(&'static str, String)>, Error> {
        let device = self.device(&self.store.layer(id)?)?;
        Ok(vec![
            ("DeviceId", device.id.to_string()),
            ("DeviceName", self.pool.thin(device.id, device.sectors).name),
            ("DeviceSize", (device.sectors * SECTOR).to_string()),
        ])
    }

    fn exists(&self, id: &str) -> bool {
        self.store.exists(id)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        self.store.list()
    }

    fn changes(&self, id: &str) -> Result<Vec<Change>, Error> {
        let layer = self.store.layer(id)?;
        let (below, inside) = (self.below(&layer)?, self.enter(&layer, false)?);
        let writable = self.device(&layer)?.writable;
        let found = compare(below.as_ref().map(Inside::root).as_deref(), &inside.root(), writable)?;
        Ok(found.iter().map(Difference::change).collect())
    }

    fn diff(&self, id: &str, archive: &mut dyn Write) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        let (below, inside) = (self.below(&layer)?, self.enter(&layer, false)?);
        let below = below.as_ref().map(Inside::root);
        let writable = self.device(&layer)?.writable;
        write_diff(&inside.own(id), &inside.root(), below.as_deref(), writable, archive)
    }

    fn verify(
        &self,
        id: &str,
        archive: &mut dyn Read,
        below_is_whole: bool,
        report: &mut dyn FnMut(String),
    ) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        let (below, inside) = (self.below(&layer)?, self.enter(&layer, false)?);
        let below = below.as_ref().map(Inside::root);
        let place = Place { root: &inside.root(), below: below.as_slice(), form: Form::Whole { copied: false } };
        verify(&place, archive, below_is_whole, report).map_err(|error| error.inside(&layer))
    }

    fn size(&self, id: &str) -> Result<u64, Error> {
        let layer = self.store.layer(id)?;
        if let Some(size) = noted_size(&layer)? {
            return Ok(size);
        }
        let (below, inside) = (self.below(&layer)?, self.enter(&layer, false)?);
        changed_bytes(&inside.root(), below.as_ref().map(Inside::root).as_deref())
    }

    fn remove(&self, id: &str) -> Result<(), Error> {
        self.store.remove(id)
    }

    fn sweep(&self, drafts: bool) -> Result<(), Error> {
        let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        if drafts {
            // What fails is tried again at once.
            self.store.discard_drafts()?;
        }
        let mut first = self.store.discard_left();
        for name in fs::list(self.store.trash())? {
            let removed = self.store.trash().join(name);
            // What somebody has mounted, or what fails, waits for the next time, and keeps nothing else.
            match self.delete(&removed) {
                Ok(Deleted::Gone(id)) => match delete(&removed) {
                    Ok(()) => id.into_iter().for_each(|id| self.ids.give_back(id)),
                    Err(error) => first = first.and(Err(error)),
                },
                Ok(Deleted::Mounted) => tracing::debug!(path = %removed.display(), "a removed layer is still mounted"),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }
}
