//! Device mapper: block devices that are tables of targets, by the ioctl interface of `/dev/mapper/control`
//! (`linux/dm-ioctl.h`). No process is started, and no udev is needed: nodes that nobody has made are made.
//!
//! A device is named. What holds one open keeps it: [`Control::remove_when_unused`] has the kernel take it away with the
//! last descriptor or mount, whoever has that, and also when the caller is dead by then.

mod order;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::order::{Command, Order};
use crate::{Error, Result, fs, node};

/// Bytes of a sector, whatever the device's own are.
pub const SECTOR: u64 = 512;

/// How often a device is made again that others let go of at the same moment.
const ATTEMPTS: usize = 100;

const READ_ONLY: u32 = 1;
const SUSPEND: u32 = 1 << 1;
const STATUS_TABLE: u32 = 1 << 4;
const ACTIVE_PRESENT: u32 = 1 << 5;
const NO_FLUSH: u32 = 1 << 11;
const DEFERRED_REMOVE: u32 = 1 << 17;

/// A block device's numbers, as tables name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Number {
    /// The driver's.
    pub major: u32,
    /// The device's.
    pub minor: u32,
}

impl Number {
    /// Of `st_rdev`.
    #[must_use]
    pub fn of(device: u64) -> Self {
        Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) }
    }

    fn device(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}", self.major, self.minor)
    }
}

/// A piece of a table, or of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its first sector.
    pub start: u64,
    /// How many there are.
    pub sectors: u64,
    /// `thin`, `thin-pool`, `linear` …
    pub kind: String,
    /// Its parameters, or its status.
    pub parameters: String,
}

/// What is known of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its numbers.
    pub number: Number,
    /// How many have it open: mounts, descriptors, other devices.
    pub users: i32,
    /// Whether it has a table that works.
    pub active: bool,
}

/// A device of a thin pool, to be made when it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thin {
    /// What the device is called while it is there.
    pub name: String,
    /// The pool.
    pub pool: Number,
    /// Its number in the pool.
    pub id: u32,
    /// Its size.
    pub sectors: u64,
}

/// The door to the device mapper.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Opens it.
    ///
    /// # Errors
    /// `ENOENT` or `ENODEV` where the kernel has no device mapper.
    pub fn open() -> Result<Self> {
        let path = PathBuf::from("/dev/mapper/control");
        // The kernel makes the node itself where /dev is its own.
        let opened = match node::open(&path, FileType::CharacterDevice, misc("device-mapper")?, OFlags::RDWR) {
            Err(error) if error.errno() == Errno::NXIO.raw_os_error() => Err(no_device_mapper()),
            other => other,
        };
        Ok(Self(opened?))
    }

    /// The version of the interface: kernels raise the second number.
    pub fn version(&self) -> Result<(u32, u32, u32)> {
        Ok(self.run(Command::Version, Order::new("read version of", "the device mapper"))?.version())
    }

    /// Whether the kernel has this target; its module is loaded where that is possible.
    pub fn has_target(&self, kind: &str) -> Result<bool> {
        match self.run(Command::TargetVersion, Order::new("look for device mapper target", kind).named(kind)) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Errno::INVAL.raw_os_error() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a device without a table.
    ///
    /// # Errors
    /// `EBUSY` when there is one of that name.
    pub fn create(&self, name: &str) -> Result<Number> {
        Ok(self.run(Command::Create, Order::new("make device", name).named(name))?.number())
    }

    /// Removes a device that nobody has open.
    ///
    /// # Errors
    /// `EBUSY` when somebody has, `ENXIO` when there is none.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.run(Command::Remove, Order::new("remove device", name).named(name)).map(drop)
    }

    /// Removes a device as soon as nobody has it open any more; at once when nobody has now.
    ///
    /// # Errors
    /// `ENXIO` when there is none.
    pub fn remove_when_unused(&self, name: &str) -> Result<()> {
        let order = Order::new("remove device", name).named(name).flags(DEFERRED_REMOVE);
        self.run(Command::Remove, order).map(drop)
    }

    /// Gives a device a table that works from the next [`Control::resume`] on.
    pub fn load(&self, name: &str, table: &[Target], read_only: bool) -> Result<()> {
        let flags = if read_only { READ_ONLY } else { 0 };
        self.run(Command::Load, Order::new("load table of device", name).named(name).flags(flags).table(table))
            .map(drop)
    }

    /// Lets it work, with the table that was loaded last.
    pub fn resume(&self, name: &str) -> Result<()> {
        self.run(Command::Suspend, Order::new("resume device", name).named(name)).map(drop)
    }

    /// Has everything that was begun written, its file system included, and holds what comes until it is resumed.
    pub fn suspend(&self, name: &str) -> Result<()> {
        self.run(Command::Suspend, Order::new("suspend device", name).named(name).flags(SUSPEND)).map(drop)
    }

    /// What is known of a device; `None` when there is none of that name.
    pub fn info(&self, name: &str) -> Result<Option<Info>> {
        match self.run(Command::Status, Order::new("look at device", name).named(name)) {
            Ok(answer) => Ok(Some(Info {
                number: answer.number(),
                users: answer.users(),
                active: answer.has_flag(ACTIVE_PRESENT),
            })),
            Err(error) if error.errno() == Errno::NXIO.raw_os_error() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The table that works.
    pub fn table(&self, name: &str) -> Result<Vec<Target>> {
        let order = Order::new("read table of device", name).named(name).flags(STATUS_TABLE);
        Ok(self.run(Command::TableStatus, order)?.targets())
    }

    /// What the targets say of themselves, without having anything written for it.
    pub fn status(&self, name: &str) -> Result<Vec<Target>> {
        let order = Order::new("read status of device", name).named(name).flags(NO_FLUSH);
        Ok(self.run(Command::TableStatus, order)?.targets())
    }

    /// The devices that it lies on.
    pub fn below(&self, name: &str) -> Result<Vec<Number>> {
        Ok(self.run(Command::Dependencies, Order::new("read devices below", name).named(name))?.dependencies())
    }

    /// Every device that there is.
    pub fn list(&self) -> Result<Vec<(String, Number)>> {
        Ok(self.run(Command::List, Order::new("list devices of", "the device mapper"))?.names())
    }

    /// Tells the first target of a device something.
    pub fn message(&self, name: &str, text: &str) -> Result<()> {
        let order = Order::new("tell device", format!("{name}: {text}")).named(name).message(text);
        self.run(Command::Message, order).map(drop)
    }

    /// Opens a device, making it first where it is not there. Whoever does the same at once gets the same device.
    ///
    /// # Errors
    /// `ENXIO` when others kept taking it away.
    pub fn activate(&self, name: &str, table: &[Target]) -> Result<OwnedFd> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let made = match self.create(name) {
                Ok(_) => true,
                Err(error) if error.errno() == Errno::BUSY.raw_os_error() => false,
                Err(error) => return Err(error),
            };
            match self.complete(name, table, made) {
                // It was on its way out: then the name is free now.
                Err(error) if !made && attempts < ATTEMPTS && error.errno() == Errno::NXIO.raw_os_error() => {}
                Err(error) => {
                    if made && let Err(left) = self.remove(name) {
                        let why = std::io::Error::other(format!("{error}; and it stays: {left}"));
                        return Err(Error::new("make device", name, why));
                    }
                    return Err(error);
                }
                Ok(device) => return Ok(device),
            }
        }
    }

    /// Opens a device that is there and works; `None` when there is none.
    pub fn reopen(&self, name: &str) -> Result<Option<OwnedFd>> {
        match self.info(name)? {
            Some(Info { active: true, .. }) => {}
            _ => return Ok(None),
        }
        match self.complete(name, &[], false) {
            Err(error) if error.errno() == Errno::NXIO.raw_os_error() => Ok(None),
            other => other.map(Some),
        }
    }

    fn complete(&self, name: &str, table: &[Target], made: bool) -> Result<OwnedFd> {
        let gone = || Error::new("open device", name, Errno::NXIO);
        if made || !self.info(name)?.ok_or_else(gone)?.active {
            self.load(name, table, false)?;
            self.resume(name)?;
        }
        let number = self.info(name)?.ok_or_else(gone)?.number;
        let device = open_device(number, OFlags::RDONLY)?;
        // Open it stays; and it may have been another's of the same number a moment ago.
        match self.info(name)? {
            Some(info) if info.number == number => Ok(device),
            _ => Err(gone()),
        }
    }

    /// [`Control::activate`] for a device of a pool, which goes when nobody has it open or mounted any more.
    ///
    /// # Errors
    /// As [`Control::activate`].
    pub fn open_thin(&self, thin: &Thin) -> Result<OwnedFd> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let device = self.activate(&thin.name, &[thin.target()])?;
            match self.remove_when_unused(&thin.name) {
                // Who had it before has let go of it between the two.
                Err(error) if attempts < ATTEMPTS && error.errno() == Errno::NXIO.raw_os_error() => {}
                other => return other.map(|()| device),
            }
        }
    }

    fn run(&self, command: Command, order: Order) -> Result<order::Answer> {
        order.run(&self.0, command)
    }
}

impl Thin {
    /// Its table.
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            start: 0,
            sectors: self.sectors,
            kind: "thin".to_owned(),
            parameters: format!("{} {}", self.pool, self.id),
        }
    }
}

/// Opens a block device by its number.
///
/// # Errors
/// `ENXIO` when there is none.
pub fn open_device(number: Number, flags: OFlags) -> Result<OwnedFd> {
    let path = match fs::read_link(format!("/sys/dev/block/{number}")) {
        Ok(link) => PathBuf::from("/dev").join(link.file_name().unwrap_or_default()),
        Err(_) => PathBuf::from("/dev").join(format!("dm-{}", number.minor)),
    };
    node::open(&path, FileType::BlockDevice, number.device(), flags)
}

fn no_device_mapper() -> Error {
    Error::new("open", "/dev/mapper/control (the kernel has no device mapper: load its module dm_mod)", Errno::NODEV)
}

/// The number of a miscellaneous device.
fn misc(name: &str) -> Result<u64> {
    const MAJOR: u32 = 10;
    let text = fs::read_to_string("/proc/misc")?;
    let minor = text.lines().filter_map(|line| line.trim().split_once(' ')).find(|(_, found)| *found == name);
    let minor = minor.and_then(|(minor, _)| minor.parse().ok()).ok_or_else(no_device_mapper)?;
    Ok(rustix::fs::makedev(MAJOR, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_made_looked_at_and_gone_with_its_last_user() {
        let has = fs::read_to_string("/proc/misc").unwrap().contains("device-mapper");
        let control = match Control::open() {
            Ok(control) => control,
            // Said aloud by the suite of the graphdriver.
            Err(error) => return assert!(!has && error.errno() == libc::ENODEV, "{error}"),
        };
        assert_eq!(control.version().unwrap().0, 4);
        assert!(control.has_target("error").unwrap() && !control.has_target("no-such-target").unwrap());
        let name = format!("gantry-test-{}", fs::unique());
        let target = Target { start: 0, sectors: 2048, kind: "error".to_owned(), parameters: String::new() };
        let device = control.activate(&name, std::slice::from_ref(&target)).unwrap();
        let again = control.activate(&name, std::slice::from_ref(&target)).unwrap();
        let info = control.info(&name).unwrap().unwrap();
        assert_eq!((info.users, info.active), (2, true));
        assert_eq!(control.table(&name).unwrap(), [target]);
        assert_eq!(control.below(&name).unwrap(), []);
        assert!(control.list().unwrap().contains(&(name.clone(), info.number)));
        control.suspend(&name).unwrap();
        control.resume(&name).unwrap();
        assert_eq!(control.remove(&name).unwrap_err().errno(), libc::EBUSY);
        drop(again);
        drop(device);
        control.remove(&name).unwrap();
        assert_eq!(control.info(&name).unwrap(), None);
    }
}
