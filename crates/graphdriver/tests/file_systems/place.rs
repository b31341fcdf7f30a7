//! File systems of loop files: each is mounted in a mount namespace of the test's own thread, and goes with it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_graphdriver::{Error, GraphDriver, Options, open_with};
use gantry_linux::process::{CloneFlags, unshare};

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

pub fn run(words: &[&OsStr]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{words:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// Where one is mounted.
pub struct Place {
    pub _image: tempfile::TempDir,
    pub mounted: PathBuf,
}

/// Mounts such a file system; none where the machine cannot, which is said loudly, and once.
pub fn place(file_system: &FileSystem) -> Option<Place> {
    static LACKING: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut lacking = LACKING.lock().unwrap_or_else(PoisonError::into_inner);
    if lacking.contains(&file_system.options) {
        return None;
    }
    unshare(CloneFlags::NEWNS).unwrap();
    run(&["mount", "--make-rprivate", "/"].map(OsStr::new)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (image, mounted) = (directory.path().join("image"), directory.path().join("mounted"));
    fs::File::create(&image).unwrap().set_len(512 * MIB).unwrap();
    fs::create_dir(&mounted).unwrap();
    let made = run(&file_system.mkfs.iter().map(OsStr::new).chain([image.as_os_str()]).collect::<Vec<_>>());
    let mount = [OsStr::new("mount"), "-o".as_ref(), file_system.options.as_ref(), image.as_ref(), mounted.as_ref()];
    match made.and_then(|_| run(&mount)) {
        Ok(_) => Some(Place { _image: directory, mounted }),
        Err(error) => {
            lacking.push(file_system.options);
            let error = error.replace(directory.path().to_str().unwrap(), "");
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
