//! Limits of writable layers, on file systems of loop files that have quotas: each is mounted in a mount namespace of the
//! test's own thread, and goes with it.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(clippy::print_stderr, reason = "what is skipped is said loudly")]
#![allow(missing_docs, reason = "tests")]

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
use gantry_linux::quota::{self, Usage};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const MIB: u64 = 1 << 20;

/// A file system, how it is made and mounted.
struct FileSystem {
    name: &'static str,
    mkfs: &'static [&'static str],
    options: &'static str,
}

const BTRFS: FileSystem = FileSystem { name: "btrfs", mkfs: &["mkfs.btrfs", "-q"], options: "loop,commit=1" };
const XFS: FileSystem = FileSystem { name: "xfs", mkfs: &["mkfs.xfs", "-q"], options: "loop,pquota" };
const EXT4: FileSystem =
    FileSystem { name: "ext4", mkfs: &["mkfs.ext4", "-q", "-O", "quota,project"], options: "loop,prjquota" };

fn run(words: &[&OsStr]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{words:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

struct Place {
    _image: tempfile::TempDir,
    mounted: PathBuf,
}

/// Mounts such a file system; none where the machine cannot, which is said loudly, and once.
fn place(file_system: &FileSystem) -> Option<Place> {
    static LACKING: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut lacking = LACKING.lock().unwrap_or_else(PoisonError::into_inner);
    if lacking.contains(&file_system.name) {
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
            lacking.push(file_system.name);
            let error = error.replace(directory.path().to_str().unwrap(), "");
            skip(&format!("limits of writable layers on {} ({}): {error}", file_system.name, file_system.options));
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

fn open(root: &Path, driver: &str, options: &[&str]) -> Result<Arc<dyn GraphDriver>, Error> {
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
fn base(driver: &dyn GraphDriver) {
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

fn root(driver: &dyn GraphDriver, id: &str) -> (OwnedFd, PathBuf) {
    let mount = gantry_linux::mount::attach(&driver.mount(id, false).unwrap()).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    (mount, path)
}

/// Writes up to so many bytes as a container's process does, without the right to go past quotas; returns how many went in
/// and why no more.
fn write(path: &Path, bytes: u64) -> (u64, Option<Errno>) {
    let writer = || {
        let mut held = capabilities(None).unwrap();
        held.effective -= CapabilitySet::SYS_RESOURCE;
        set_capabilities(None, held).unwrap();
        let mut file = fs::File::create(path).map_err(|error| (0, error))?;
        let block = vec![b'x'; 64 << 10];
        for at in (0..bytes).step_by(block.len()) {
            file.write_all(&block).map_err(|error| (at, error))?;
        }
        file.sync_all().map_err(|error| (bytes, error))
    };
    let written = std::thread::scope(|scope| scope.spawn(writer).join().unwrap());
    match written {
        Ok(()) => (bytes, None),
        Err((at, error)) => (at, error.raw_os_error().map(Errno::from_raw_os_error)),
    }
}

fn assert_stops(path: &Path, most: u64) {
    let (written, error) = write(path, 64 * MIB);
    assert!(matches!(error, Some(Errno::DQUOT | Errno::NOSPC)), "{error:?} after {written}");
    assert!((most / 2..=most).contains(&written), "{written} of {most}");
}

fn a_writer_stops_at_its_limit_and_others_go_on(file_system: &FileSystem, name: &str) {
    let Some(place) = place(file_system) else { return };
    let driver = open(&place.mounted, name, &[]).unwrap();
    base(&*driver);
    driver.create_writable("small", Some("base"), Some(4 * MIB)).unwrap();
    driver.create_writable("free", Some("base"), None).unwrap();
    let ((small, at), (free, beside)) = (root(&*driver, "small"), root(&*driver, "free"));
    assert_eq!(write(&at.join("fits"), 2 * MIB), (2 * MIB, None));
    assert_stops(&at.join("more"), 2 * MIB);
    assert_eq!(write(&beside.join("much"), 32 * MIB), (32 * MIB, None));
    fs::remove_file(at.join("more")).unwrap();
    // btrfs gives the space back with the transaction.
    rustix::fs::syncfs(fs::File::open(&at).unwrap()).unwrap();
    assert_eq!(write(&at.join("again"), MIB), (MIB, None));
    drop((small, free));

    // The limit is the layer's, whoever opens the store.
    drop(driver);
    let driver = open(&place.mounted, name, &[]).unwrap();
    let (_small, at) = root(&*driver, "small");
    assert_stops(&at.join("more"), MIB);
}

fn the_project(place: &Place, driver: &str, id: &str) -> u32 {
    let layer = place.mounted.join(driver).join("layers").join(id);
    let number = |part| quota::project(fs::File::open(layer.join(part)).unwrap()).unwrap().unwrap();
    if driver == "vfs" {
        return number("root");
    }
    assert_eq!(number("diff"), number("work"));
    number("diff")
}

fn projects_are_free_when_their_layers_are_gone_and_never_shared(file_system: &FileSystem, name: &str) {
    let Some(place) = place(file_system) else { return };
    let driver = open(&place.mounted, name, &[]).unwrap();
    base(&*driver);
    let beside = Place { _image: tempfile::tempdir().unwrap(), mounted: place.mounted.join("beside") };
    let other = open(&beside.mounted, name, &[]).unwrap();
    let mut numbers = std::collections::BTreeSet::new();
    for id in ["a", "b", "c"] {
        driver.create_writable(id, Some("base"), Some(4 * MIB)).unwrap();
        other.create_writable(id, None, Some(4 * MIB)).unwrap();
        numbers.extend([the_project(&place, name, id), the_project(&beside, name, id)]);
    }
    drop(driver);
    // A daemon that starts anew finds those that are in use.
    let driver = open(&place.mounted, name, &[]).unwrap();
    driver.create_writable("d", Some("base"), Some(4 * MIB)).unwrap();
    numbers.insert(the_project(&place, name, "d"));
    assert_eq!(numbers.len(), 7);
    let home = fs::File::open(&place.mounted).unwrap();
    let number = the_project(&place, name, "a");
    assert!(quota::usage(&home, number).unwrap().limit >= 4 * MIB);
    driver.remove("a").unwrap();
    driver.sweep(false).unwrap();
    assert_eq!(quota::usage(&home, number).unwrap(), Usage::default());
    // What could not be made leaves nothing either.
    assert!(driver.create_writable("x", Some("none"), Some(MIB)).is_err());
    driver.sweep(false).unwrap();
    let unlimited = quota::project(fs::File::open(place.mounted.join(name)).unwrap()).unwrap().unwrap();
    driver.create_writable("plain", Some("base"), Some(0)).unwrap();
    assert_eq!(the_project(&place, name, "plain"), unlimited);
}

fn the_daemons_limit_is_that_of_containers_that_say_none(file_system: &FileSystem, name: &str, option: &str) {
    let Some(place) = place(file_system) else { return };
    let driver = open(&place.mounted, name, &[option]).unwrap();
    driver.create_writable("default", None, None).unwrap();
    driver.create_writable("own", None, Some(0)).unwrap();
    assert_stops(&root(&*driver, "default").1.join("f"), 4 * MIB);
    assert_eq!(write(&root(&*driver, "own").1.join("f"), 16 * MIB), (16 * MIB, None));
}

#[test]
fn quota_groups_go_with_their_subvolumes_and_come_with_the_first_limit() {
    let Some(place) = place(&BTRFS) else { return };
    let driver = open(&place.mounted, "btrfs", &["btrfs.min_space=1m"]).unwrap();
    base(&*driver);
    driver.create_writable("free", Some("base"), None).unwrap();
    let show =
        || run(&["btrfs".as_ref(), "qgroup".as_ref(), "show".as_ref(), "--raw".as_ref(), place.mounted.as_ref()]);
    assert!(show().is_err(), "nobody asked for a limit");
    let error = driver.create_writable("web", Some("base"), Some(1000)).unwrap_err();
    assert!(error.to_string().contains("1000 bytes are less than btrfs.min_space, 1048576"), "{error}");
    assert!(show().is_err(), "and nothing was made for one that was refused");
    let groups = || show().unwrap().lines().filter(|line| line.starts_with("0/")).count();
    driver.create_writable("web", Some("base"), Some(4 * MIB)).unwrap();
    let before = groups();
    for round in 0..3 {
        let id = format!("more-{round}");
        driver.create_writable(&id, Some("base"), Some(4 * MIB)).unwrap();
        driver.remove(&id).unwrap();
    }
    driver.remove("web").unwrap();
    driver.sweep(false).unwrap();
    run(&["btrfs".as_ref(), "subvolume".as_ref(), "sync".as_ref(), place.mounted.as_ref()]).unwrap();
    assert_eq!(groups(), before - 1);
}

#[test]
fn a_file_system_without_project_quotas_is_named_with_what_to_do() {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["overlay", "vfs"] {
        let driver = open(root.path(), name, &[]).unwrap();
        let error = driver.create_writable("web", None, Some(4 * MIB)).unwrap_err();
        assert!(matches!(error, Error::NoLimit { .. }));
        let said = error.to_string();
        for word in [name, "tmpfs", "pquota", "btrfs"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(driver.list().unwrap().is_empty());
        driver.create_writable("web", None, Some(0)).unwrap();
        drop(driver);
        let error = open(root.path(), name, &["size=1g"]).err().unwrap().to_string();
        assert!(error.contains("storage option size=1g") && error.contains("pquota"), "{error}");
    }
}

mod btrfs {
    #[test]
    fn a_writer_stops_at_its_limit_and_others_go_on() {
        super::a_writer_stops_at_its_limit_and_others_go_on(&super::BTRFS, "btrfs");
    }
}

macro_rules! projects {
    ($($module:ident: $file_system:ident $driver:literal $option:literal;)*) => {$(
        mod $module {
            #[test]
            fn a_writer_stops_at_its_limit_and_others_go_on() {
                super::a_writer_stops_at_its_limit_and_others_go_on(&super::$file_system, $driver);
            }

            #[test]
            fn projects_are_free_when_their_layers_are_gone_and_never_shared() {
                super::projects_are_free_when_their_layers_are_gone_and_never_shared(&super::$file_system, $driver);
            }

            #[test]
            fn the_daemons_limit_is_that_of_containers_that_say_none() {
                super::the_daemons_limit_is_that_of_containers_that_say_none(&super::$file_system, $driver, $option);
            }
        }
    )*};
}

projects! {
    overlay_on_xfs: XFS "overlay" "overlay2.size=4m";
    overlay_on_ext4: EXT4 "overlay" "overlay.size=4m";
    vfs_on_xfs: XFS "vfs" "size=4m";
    vfs_on_ext4: EXT4 "vfs" "vfs.size=4m";
}
