//! Loop devices: files as block devices (`linux/loop.h`).
#![allow(unsafe_code, reason = "the kernel's own structures are passed to it")]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::dm::{Number, open_device};
use crate::{Error, Result, ResultExt, fs, node};

/// The driver's number (`LOOP_MAJOR`).
const MAJOR: u32 = 7;
const CONFIGURE: u32 = 0x4C0A;
const GET_STATUS64: u32 = 0x4C05;
const GET_FREE: u32 = 0x4C82;
/// It lets go of the file with its last user.
const AUTOCLEAR: u32 = 4;
/// It keeps no second copy of what it reads and writes, where the file's file system can.
const DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

impl Info {
    const fn new() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// A loop device; it is one as long as anybody has it open, another device or a mount included.
#[derive(Debug)]
pub struct Loop {
    /// Its numbers.
    pub number: Number,
    /// Keeps it.
    pub device: OwnedFd,
}

/// Makes a free loop device show a file, which must be open for writing; `path` is what is said of it to people.
pub fn attach(file: &File, path: &Path) -> Result<Loop> {
    let control = Path::new("/dev/loop-control");
    let control = node::open(control, FileType::CharacterDevice, rustix::fs::makedev(10, 237), OFlags::RDWR)?;
    loop {
        // SAFETY: the order takes no argument.
        let free = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE.into()) };
        let minor = u32::try_from(free)
            .map_err(|_| Error::new("find a free loop device for", path.display().to_string(), last()))?;
        let number = Number { major: MAJOR, minor };
        let device = open_device(number, OFlags::RDWR)?;
        match configure(&device, file, path) {
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            other => return other.during("attach loop device to", path.display()).map(|()| Loop { number, device }),
        }
    }
}

fn configure(device: &OwnedFd, file: &File, path: &Path) -> std::io::Result<()> {
    let mut info = Info { flags: AUTOCLEAR | DIRECT_IO, ..Info::new() };
    let name = path.as_os_str().as_bytes();
    let length = name.len().min(info.file_name.len() - 1);
    info.file_name[..length].copy_from_slice(&name[..length]);
    let fd = file.as_raw_fd().unsigned_abs();
    let mut config = Config { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the order reads this structure, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE.into(), &raw mut config) };
    if result < 0 { Err(last()) } else { Ok(()) }
}

fn last() -> std::io::Error {
    std::io::Error::last_os_error()
}

/// The loop device that shows a file, if any does.
pub fn showing(file: &Path) -> Result<Option<Number>> {
    for name in fs::list("/sys/block")? {
        let minor = name.to_str().and_then(|name| name.strip_prefix("loop")).and_then(|minor| minor.parse().ok());
        let Some(number) = minor.map(|minor| Number { major: MAJOR, minor }) else { continue };
        // One that shows nothing has no such directory.
        if fs::metadata(format!("/sys/block/loop{}/loop", number.minor)).is_ok() && shows(number, file)? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Whether the device of this number is a loop device that shows this file.
pub fn shows(number: Number, file: &Path) -> Result<bool> {
    if number.major != MAJOR {
        return Ok(false);
    }
    let device = open_device(number, OFlags::RDONLY)?;
    let mut info = Info::new();
    // SAFETY: the order writes this structure, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS64.into(), &raw mut info) };
    if result < 0 {
        let error = last();
        // It shows nothing.
        return if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) {
            Ok(false)
        } else {
            Err(error).during("look at loop device", number)
        };
    }
    let found = rustix::fs::openat(CWD, file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::fs::fstat)
        .during("stat", file.display())?;
    Ok(info.inode == found.st_ino && Number::of(info.device) == Number::of(found.st_dev))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare files plainly")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_block_device_as_long_as_somebody_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let Loop { number, device } = attach(&file, &path).unwrap();
        assert_eq!(crate::disk::size(&device).unwrap(), 1 << 20);
        assert!(shows(number, &path).unwrap());
        assert_eq!(showing(&path).unwrap(), Some(number));
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert!(!shows(number, &dir.path().join("other")).unwrap());
        drop(device);
        assert_eq!(showing(&path).unwrap(), None);
    }
}
