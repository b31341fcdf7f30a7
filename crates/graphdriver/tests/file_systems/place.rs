//! The file systems that can more than others.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_graphdriver::{Error, GraphDriver, Options, open_with};

use crate::image::Image;

pub const MIB: u64 = 1 << 20;

/// A file system, how it is made and mounted.
pub struct FileSystem {
    name: &'static str,
    mkfs: &'static [&'static str],
    options: &'static str,
}

pub const BTRFS: FileSystem = FileSystem { name: "btrfs", mkfs: &["mkfs.btrfs", "-q"], options: "loop,commit=1" };
pub const XFS: FileSystem = FileSystem { name: "xfs", mkfs: &["mkfs.xfs", "-q"], options: "loop" };
pub const XFS_QUOTA: FileSystem = FileSystem { options: "loop,pquota", ..XFS };
pub const EXT4_QUOTA: FileSystem =
    FileSystem { name: "ext4", mkfs: &["mkfs.ext4", "-q", "-O", "quota,project"], options: "loop,prjquota" };

/// Mounts such a file system; none where the machine cannot, which is said loudly, and once.
pub fn place(file_system: &FileSystem) -> Option<Image> {
    static LACKING: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut lacking = LACKING.lock().unwrap_or_else(PoisonError::into_inner);
    if lacking.contains(&file_system.options) {
        return None;
    }
    match Image::mount(512 * MIB, file_system.mkfs, file_system.options) {
        Ok(image) => Some(image),
        Err(error) => {
            lacking.push(file_system.options);
            skip(&format!("graphdrivers on {} ({}): {error}", file_system.name, file_system.options));
            None
        }
    }
}

fn skip(what: &str) {
    let line = format!("SKIPPED: {}", what.replace('\n', " "));
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
        let mut list = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        list.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

pub fn open(root: &Path, driver: &str, options: &[&str]) -> Result<Arc<dyn GraphDriver>, Error> {
    let options: Vec<_> = options.iter().map(ToString::to_string).collect();
    let options = Options::parse(&options).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match open_with(root, Some(driver), &options) {
            // A process that another test is starting has the store's lock until it executes its program.
            Err(Error::InUse(_)) if Instant::now() < end => std::thread::yield_now(),
            other => return other.map(|(driver, _)| driver),
        }
    }
}

/// A layer of 8 MiB that writable ones are made on.
pub fn base(driver: &dyn GraphDriver) {
    let mut header = tar::Header::new_gnu();
    header.set_path("base").unwrap();
    header.set_mode(0o644);
    header.set_size(8 * MIB);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.resize(512 + 8 * usize::try_from(MIB).unwrap(), b'b');
    driver.create("base", None).unwrap();
    driver.apply("base", &mut &*archive).unwrap();
    driver.commit("base").unwrap();
}

pub fn root(driver: &dyn GraphDriver, id: &str) -> (OwnedFd, PathBuf) {
    let mount = gantry_linux::mount::attach(&driver.mount(id, false).unwrap()).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    (mount, path)
}
