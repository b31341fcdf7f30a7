//! The base device: an empty file system of which every lowest layer is a snapshot.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_linux::dm::SECTOR;
use gantry_linux::fs::{self, Durability};
use gantry_linux::mount::{DeviceMount, attach_all};
use gantry_linux::{ResultExt, disk};
use rustix::fs::Mode;

use super::ids::{BASE, Ids};
use super::pool::{Pool, lacking};
use super::settings::{Kind, Settings, wrong};
use super::space::human;
use crate::Error;
use crate::store::note;

/// As Docker's.
const SIZE: u64 = 10 << 30;
/// The file that says what it is; it is there when the base device is whole.
const NOTE: &str = "base";
/// The directory of a device that is the layer's root.
pub(super) const ROOT: &str = "root";

/// What every device begins as, and how it is mounted.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub kind: Kind,
    pub sectors: u64,
    options: Vec<(String, Option<String>)>,
}

impl Base {
    /// The pool's; made where it is not there, and enlarged where that is asked for.
    pub(super) fn open(home: &Path, pool: &Pool, ids: &Ids, settings: &Settings) -> Result<Self, Error> {
        let base = match Self::read(home, settings)? {
            Some(base) => base,
            None => return Self::make(home, pool, ids, settings),
        };
        if let Some(kind) = settings.kind.filter(|kind| *kind != base.kind) {
            let reason = format!("the layers here have {}: leave it, or choose another data root", base.kind.name());
            return Err(wrong("dm.fs", kind.name(), &reason));
        }
        let size = base.sectors * SECTOR;
        match settings.base_size {
            Some(wanted) if wanted < size => {
                let reason = format!("the base device has {} already, and does not shrink", human(size));
                Err(wrong("dm.basesize", &human(wanted), &reason))
            }
            Some(wanted) if wanted > size => base.enlarge(home, pool, wanted / SECTOR),
            _ => Ok(base),
        }
    }

    /// Whether the file system of a base device that is not there yet could be made.
    pub(super) fn check_program(home: &Path, settings: &Settings) -> Result<(), Error> {
        let (program, package) = maker(settings.kind.unwrap_or(Kind::Ext4));
        if fs::symlink_metadata(home.join(NOTE)).is_ok() || find(program).is_some() {
            return Ok(());
        }
        Err(lacking(home, &format!("{program} is not installed: install it (Debian's package {package})")))
    }

    fn new(kind: Kind, sectors: u64, settings: &Settings) -> Self {
        let flag = |name: &str| (name.to_owned(), None);
        // Space that is freed inside comes back. A copy of a file system has its number; and what is new in a thin device is
        // zero, so that nobody need make it so.
        let mut options = match kind {
            Kind::Ext4 => vec![flag("discard"), flag("noinit_itable")],
            Kind::Xfs => vec![flag("discard"), flag("nouuid")],
        };
        options.extend(settings.mount.iter().cloned());
        Self { kind, sectors, options }
    }

    fn read(home: &Path, settings: &Settings) -> Result<Option<Self>, Error> {
        let Some(text) = note(home, NOTE)? else { return Ok(None) };
        let parsed = text.trim().split_once(' ').and_then(|(kind, sectors)| Kind::of(kind).zip(sectors.parse().ok()));
        let (kind, sectors) = parsed.ok_or_else(|| Error::Damaged {
            layer: home.join(NOTE),
            reason: "it does not say what the base device is".to_owned(),
        })?;
        Ok(Some(Self::new(kind, sectors, settings)))
    }

    fn write(&self, home: &Path) -> Result<(), Error> {
        let text = format!("{} {}\n", self.kind.name(), self.sectors);
        Ok(fs::write_atomic(home.join(NOTE), text.as_bytes(), 0o600, Durability::Disk)?)
    }

    fn make(home: &Path, pool: &Pool, ids: &Ids, settings: &Settings) -> Result<Self, Error> {
        let size = settings.base_size.unwrap_or(SIZE) / settings.block * settings.block;
        let base = Self::new(settings.kind.unwrap_or(Kind::Ext4), size / SECTOR, settings);
        if ids.is_new() {
            pool.check_untouched(home)?;
        }
        ids.take_base()?;
        // What a daemon left that was killed here.
        pool.delete(BASE)?;
        pool.create(BASE)?;
        let made = base.fill(pool, settings).and_then(|()| base.write(home));
        if made.is_err()
            && let Err(error) = pool.delete(BASE)
        {
            tracing::warn!(%error, "a base device that could not be made stays until the next start");
        }
        made.map_err(|error| pool.explain(error))?;
        Ok(base)
    }

    fn fill(&self, pool: &Pool, settings: &Settings) -> Result<(), Error> {
        let thin = pool.thin(BASE, self.sectors);
        let device = pool.control.open_thin(&thin)?;
        self.make_file_system(&device, &settings.mkfs)?;
        let tree = attach_all(&self.mount(pool, BASE, self.sectors, true, false))?;
        let root = crate::tree::open_root(&path_of(&tree))?;
        rustix::fs::mkdirat(&root, ROOT, Mode::from_raw_mode(0o755)).during("make directory", ROOT)?;
        fs::set_mode(path_of(&tree).join(ROOT), 0o755)?;
        Ok(rustix::fs::syncfs(&root).during("sync", "the base device")?)
    }

    fn make_file_system(&self, device: &OwnedFd, further: &[String]) -> Result<(), Error> {
        let (program, _) = maker(self.kind);
        let arguments: &[&str] = match self.kind {
            Kind::Ext4 => &["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"],
            Kind::Xfs => &["-q", "-f", "-K"],
        };
        let device = format!("/proc/{}/fd/{}", std::process::id(), device.as_raw_fd());
        let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
        command.args(arguments).args(further).arg(device);
        let output = command.output().during("start", program)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let why = std::io::Error::other(if said.is_empty() { output.status.to_string() } else { said });
            return Err(gantry_linux::Error::new("make a file system by", program, why).into());
        }
        Ok(())
    }

    fn enlarge(mut self, home: &Path, pool: &Pool, sectors: u64) -> Result<Self, Error> {
        self.sectors = sectors;
        self.grow(pool, BASE, sectors).map_err(|error| pool.explain(error))?;
        self.write(home)?;
        Ok(self)
    }

    /// Makes the file system of a device as large as it: so many sectors.
    pub(super) fn grow(&self, pool: &Pool, id: u32, sectors: u64) -> Result<(), Error> {
        let tree = attach_all(&self.mount(pool, id, sectors, true, false))?;
        let root = crate::tree::open_root(&path_of(&tree))?;
        match self.kind {
            Kind::Ext4 => disk::grow_ext4(&root, sectors * SECTOR)?,
            Kind::Xfs => disk::grow_xfs(&root, sectors * SECTOR)?,
        }
        Ok(rustix::fs::syncfs(&root).during("sync", "an enlarged device")?)
    }

    /// How a device is mounted; `writable` must be the same for all that have it mounted at once.
    pub(super) fn mount(&self, pool: &Pool, id: u32, sectors: u64, writable: bool, read_only: bool) -> DeviceMount {
        let mut options = self.options.clone();
        if !writable {
            // A layer was unmounted before it became one: nothing is to be recovered, and in a full pool it could not be.
            options.push(("norecovery".to_owned(), None));
        }
        DeviceMount {
            thin: pool.thin(id, sectors),
            fstype: self.kind.name().to_owned(),
            options,
            writable,
            directory: ROOT.to_owned(),
            read_only,
        }
    }
}

/// The program that makes a file system, and Debian's package of it.
fn maker(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Ext4 => ("mkfs.ext4", "e2fsprogs"),
        Kind::Xfs => ("mkfs.xfs", "xfsprogs"),
    }
}

/// A mount that is attached nowhere, as a path.
pub(super) fn path_of(tree: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()))
}

/// Daemons are not always given the directories of a superuser's programs.
fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut candidates = directories.map(|directory| directory.join(program));
    candidates.find(|path| fs::metadata(path).is_ok_and(|found| found.is_file()))
}
