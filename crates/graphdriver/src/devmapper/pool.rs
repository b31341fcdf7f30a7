//! The thin pool: made of sparse files, of block devices, or there already.
//!
//! The daemon holds it open, and the kernel takes it away when neither the daemon nor a mount of a layer needs it: also when
//! the daemon is killed nothing stays behind, and a daemon that comes back while containers run finds it.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_linux::dm::{self, Control, Number, SECTOR, Target, Thin};
use gantry_linux::{ResultExt, disk, fs, loops};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::settings::{Settings, Source, wrong};
use super::space::Space;
use crate::Error;

const TARGET: &str = "thin-pool";
/// The files of a pool that lies on files.
const DATA: &str = "data";
const METADATA: &str = "metadata";
/// As large as Docker's, where the disk is.
const DATA_SIZE: u64 = 100 << 30;
const METADATA_SIZE: u64 = 2 << 30;
const LEAST_METADATA: u64 = 16 << 20;
/// How long the kernel may take to let go of a device whose last user is gone. Nothing tells when it is done: it is asked.
const RELEASE: Duration = Duration::from_secs(15);
/// How long a removed layer is waited for that is mounted: a container's mounts go a moment after it.
const UNMOUNT: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(2);

pub(super) struct Pool {
    pub(super) control: Control,
    pub(super) name: String,
    number: Number,
    /// Begins the names of its devices.
    pub(super) prefix: String,
    /// Where it lies on files.
    pub(super) files: Option<PathBuf>,
    pub(super) least_free: u64,
    _held: OwnedFd,
}

impl Pool {
    /// Opens the pool of the driver's home, making it where it is not there.
    pub(super) fn open(control: Control, home: &Path, settings: &Settings) -> Result<Self, Error> {
        let stat = fs::metadata(home)?;
        let of = Number::of(stat.dev());
        let prefix = format!("gantry-{of}-{}", stat.ino());
        let (name, held) = match &settings.source {
            Source::Pool(name) => (name.clone(), existing(&control, name)?),
            source => {
                let name = format!("{prefix}-pool");
                let held = open_own(&control, &name, home, source, settings.block)?;
                (name, held)
            }
        };
        let number = Number::of(rustix::fs::fstat(&held).during("stat", &name)?.st_rdev);
        let files = matches!(settings.source, Source::Files { .. }).then(|| home.to_owned());
        let pool = Self { control, name, number, prefix, files, least_free: settings.least_free, _held: held };
        // Also says what is wrong with it.
        pool.space()?;
        pool.release_unused()?;
        Ok(pool)
    }

    /// A device of the pool as it is called while it is there.
    pub(super) fn thin(&self, id: u32, sectors: u64) -> Thin {
        Thin { name: format!("{}-{id}", self.prefix), pool: self.number, id, sectors }
    }

    /// What a daemon that was killed at the wrong instant left without a user.
    fn release_unused(&self) -> Result<(), Error> {
        let own = format!("{}-", self.prefix);
        for (name, _) in self.control.list()? {
            if name.starts_with(&own) && name != self.name {
                match self.control.remove_when_unused(&name) {
                    Err(error) if error.errno() == Errno::NXIO.raw_os_error() => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn message(&self, text: &str) -> gantry_linux::Result<()> {
        self.control.message(&self.name, text)
    }

    /// Makes an empty device.
    pub(super) fn create(&self, id: u32) -> Result<(), Error> {
        Ok(self.message(&format!("create_thin {id}"))?)
    }

    /// Makes a device that shares everything with another, which nobody writes to meanwhile.
    pub(super) fn snapshot(&self, id: u32, of: u32) -> Result<(), Error> {
        Ok(self.message(&format!("create_snap {id} {of}"))?)
    }

    /// Deletes a device; one that is not there is fine. False when somebody still has it mounted.
    pub(super) fn delete(&self, id: u32) -> Result<bool, Error> {
        let deadline = Instant::now() + RELEASE;
        loop {
            match self.message(&format!("delete {id}")) {
                Ok(()) => return Ok(true),
                Err(error) if error.errno() == Errno::NODATA.raw_os_error() => return Ok(true),
                Err(error) if error.errno() != Errno::BUSY.raw_os_error() => return Err(error.into()),
                Err(_) if Instant::now() > deadline => return Ok(false),
                // Mounted, or the kernel is about to let go of it.
                Err(_) => std::thread::sleep(ASK_AGAIN),
            }
        }
    }

    /// Whether nobody has a device mounted any more: the mounts of a container that has ended go a moment later.
    pub(super) fn is_released(&self, id: u32) -> Result<bool, Error> {
        let deadline = Instant::now() + UNMOUNT;
        let name = self.thin(id, 0).name;
        while self.control.info(&name)?.is_some_and(|info| info.users > 0) {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(ASK_AGAIN);
        }
        Ok(true)
    }

    /// Gives back what only this device has, so that files below the pool shrink.
    pub(super) fn discard(&self, thin: &Thin) -> Result<(), Error> {
        let device = self.control.open_thin(thin)?;
        let number = Number::of(rustix::fs::fstat(&device).during("stat", &thin.name)?.st_rdev);
        Ok(disk::discard(&dm::open_device(number, OFlags::RDWR)?)?)
    }

    /// Those of `devices` that the pool does not have.
    pub(super) fn missing(&self, devices: &[(u32, u64)]) -> Result<Vec<u32>, Error> {
        let name = format!("{}-check", self.prefix);
        match self.control.create(&name) {
            Err(error) if error.errno() != Errno::BUSY.raw_os_error() => return Err(error.into()),
            _ => {}
        }
        let mut missing = Vec::new();
        let checked = devices.iter().try_for_each(|(id, sectors)| {
            // A table names only what there is. It is never made to work.
            match self.control.load(&name, &[self.thin(*id, *sectors).target()], true) {
                Err(error) if error.errno() == Errno::NODATA.raw_os_error() => missing.push(*id),
                other => return other,
            }
            Ok(())
        });
        self.control.remove(&name)?;
        checked?;
        Ok(missing)
    }

    pub(super) fn space(&self) -> Result<Space, Error> {
        let table = self.control.table(&self.name)?;
        let status = self.control.status(&self.name)?;
        let space = table.first().zip(status.first()).and_then(|(table, status)| Space::parse(table, status));
        let mut space = space.ok_or_else(|| Error::NoRoom {
            pool: self.name.clone(),
            reason: "it has failed: stop the daemon, and check its metadata by thin_check".to_owned(),
        })?;
        if let Some(home) = &self.files {
            // A sparse file has no more room than its disk.
            space.free_below = Some(free(home)?.0);
        }
        Ok(space)
    }

    /// Refuses a pool that has what this home knows nothing of.
    pub(super) fn check_untouched(&self, home: &Path) -> Result<(), Error> {
        if self.space()?.untouched {
            return Ok(());
        }
        let reason =
            format!("the pool {} has devices of another use: give it a new pool, which nobody else uses", self.name);
        Err(lacking(home, &reason))
    }

    /// Refuses to make a layer where there is too little room for it.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        match self.space()?.too_full(self.least_free) {
            Some(reason) => Err(Error::NoRoom { pool: self.name.clone(), reason }),
            None => Ok(()),
        }
    }

    /// An error of a write that failed because the pool is full says so.
    pub(super) fn explain(&self, error: Error) -> Error {
        let full = [Errno::IO, Errno::NOSPC, Errno::ROFS].map(Errno::raw_os_error);
        match &error {
            Error::System(source) | Error::Inside { source, .. } if full.contains(&source.errno()) => {}
            _ => return error,
        }
        match self.space().map(|space| space.too_full(0)) {
            Ok(Some(reason)) => Error::NoRoom { pool: self.name.clone(), reason },
            _ => error,
        }
    }

    /// The devices that the pool lies on: metadata, then data.
    pub(super) fn devices(&self) -> Option<(String, String)> {
        let table = self.control.table(&self.name).ok()?;
        let mut words = table.first()?.parameters.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?))
    }

    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        self.files.as_ref().map(|home| home.join(name))
    }

    pub(super) const DATA: &'static str = DATA;
    pub(super) const METADATA: &'static str = METADATA;
}

/// The kernel's device mapper, if it has thin pools.
pub(super) fn device_mapper(home: &Path) -> Result<Control, Error> {
    let control = Control::open().map_err(|error| lacking(home, &error.to_string()))?;
    if !control.has_target(TARGET)? {
        return Err(lacking(home, "the kernel has no thin pools: load its module dm_thin_pool"));
    }
    Ok(control)
}

pub(super) fn lacking(home: &Path, reason: &str) -> Error {
    Error::Unsupported { driver: "devmapper", path: home.to_path_buf(), reason: reason.to_owned() }
}

/// A pool that somebody made.
fn existing(control: &Control, name: &str) -> Result<OwnedFd, Error> {
    let refuse = |reason: &str| wrong("dm.thinpooldev", name, reason);
    let held = control.reopen(name)?.ok_or_else(|| refuse("there is no such device that works"))?;
    if control.table(name)?.first().is_none_or(|target| target.kind != TARGET) {
        return Err(refuse("it is no thin pool"));
    }
    Ok(held)
}

/// The driver's own pool.
fn open_own(control: &Control, name: &str, home: &Path, source: &Source, block: u64) -> Result<OwnedFd, Error> {
    let held = match control.reopen(name)? {
        Some(held) => {
            check_below(control, name, home, source)?;
            held
        }
        None => build(control, name, home, source, block)?,
    };
    control.remove_when_unused(name)?;
    Ok(held)
}

/// What was left running must lie on this home's files, not on those of another that is gone.
fn check_below(control: &Control, name: &str, home: &Path, source: &Source) -> Result<(), Error> {
    if !matches!(source, Source::Files { .. }) {
        return Ok(());
    }
    for file in [METADATA, DATA] {
        let path = home.join(file);
        let shown = control.below(name)?.into_iter().map(|number| loops::shows(number, &path));
        if !shown.collect::<Result<Vec<_>, _>>()?.contains(&true) {
            let reason = format!("its pool {name} is in use and does not lie on {}: stop what uses it", path.display());
            return Err(lacking(home, &reason));
        }
    }
    Ok(())
}

/// The devices below, which are held until the pool holds them.
fn build(control: &Control, name: &str, home: &Path, source: &Source, block: u64) -> Result<OwnedFd, Error> {
    let (metadata, data) = match source {
        Source::Files { data, metadata } => {
            let whole = data.map_or_else(|| Ok::<_, Error>(free(home)?.1.min(DATA_SIZE)), Ok)?;
            let least = metadata.unwrap_or((whole / 50).clamp(LEAST_METADATA, METADATA_SIZE));
            (on_file(&home.join(METADATA), least, 4096)?, on_file(&home.join(DATA), whole, block)?)
        }
        Source::Devices { data, metadata } => (on_device(metadata)?, on_device(data)?),
        Source::Pool(name) => return existing(control, name),
    };
    let sectors = disk::size(&data.1)? / block * block / SECTOR;
    let parameters = format!("{} {} {} 0 1 error_if_no_space", metadata.0, data.0, block / SECTOR);
    let table = Target { start: 0, sectors, kind: TARGET.to_owned(), parameters };
    control.activate(name, &[table]).map_err(|error| match Errno::from_raw_os_error(error.errno()) {
        // What the kernel says of metadata that is none.
        Errno::ILSEQ | Errno::INVAL | Errno::NOTBLK => lacking(
            home,
            &format!(
                "{error}: the metadata device has something else on it, or another block size; clear its first 4 KiB \
                for a new pool, which loses what is in it"
            ),
        ),
        _ => error.into(),
    })
}

/// Waits until a pool of before has let go of what is below it: the kernel takes it away after its last user, and nothing
/// tells when it is done.
fn await_release(path: &Path, in_use: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
    let deadline = Instant::now() + RELEASE;
    while in_use()? {
        if Instant::now() > deadline {
            return Err(gantry_linux::Error::new("use", path.display().to_string(), Errno::BUSY).into());
        }
        std::thread::sleep(ASK_AGAIN);
    }
    Ok(())
}

/// A block device and what keeps it.
type Below = (Number, OwnedFd);

fn on_file(path: &Path, size: u64, multiple: u64) -> Result<Below, Error> {
    let options = OpenOptions::new().read(true).write(true).create(true).mode(0o600).clone();
    let file: File = fs::open_with(path, &options)?;
    let size = (size / multiple * multiple).max(multiple);
    if file.metadata().during("stat", path.display())?.len() < size {
        file.set_len(size).during("enlarge", path.display())?;
        file.sync_all().during("sync", path.display())?;
    }
    await_release(path, || Ok(loops::showing(path)?.is_some()))?;
    let shown = loops::attach(&file, path)?;
    Ok((shown.number, shown.device))
}

fn on_device(path: &Path) -> Result<Below, Error> {
    let device = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let device = device.during("open", path.display())?;
    let stat = rustix::fs::fstat(&device).during("stat", path.display())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
        return Err(wrong("dm.datadev, dm.metadatadev", &path.to_string_lossy(), "it is no block device"));
    }
    let number = Number::of(stat.st_rdev);
    await_release(path, || match dm::open_device(number, OFlags::RDONLY | OFlags::EXCL) {
        Ok(_) => Ok(false),
        Err(error) if error.errno() == Errno::BUSY.raw_os_error() => Ok(true),
        Err(error) => Err(error.into()),
    })?;
    Ok((number, device))
}

/// Bytes that are free on a directory's file system, and all.
fn free(home: &Path) -> Result<(u64, u64), Error> {
    let stat = rustix::fs::statvfs(home).during("look at file system of", home.display())?;
    Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}
