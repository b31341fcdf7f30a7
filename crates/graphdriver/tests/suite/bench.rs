//! A driver to try, mounts of its layers, and archives for it.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_graphdriver::{Change, ChangeKind, Error, GraphDriver, Options};
use gantry_linux::mount::RootMount;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};
use tar::{EntryType, Header};

use super::image::Image;

/// A driver in a place of its own.
pub struct Bench {
    pub driver: Arc<dyn GraphDriver>,
    pub root: tempfile::TempDir,
}

impl Bench {
    pub fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// With further options of the driver.
    pub fn with(name: &str, further: &[&str]) -> Self {
        let root = if name == "btrfs" { on_btrfs() } else { tempfile::tempdir().unwrap() };
        let driver = open(root.path(), name, further).unwrap();
        Self { driver, root }
    }

    /// As the next daemon finds it.
    pub fn again(self, name: &str, further: &[&str]) -> Self {
        let Self { driver, root } = self;
        drop(driver);
        let driver = open(root.path(), name, further).unwrap();
        Self { driver, root }
    }

    pub fn layer(&self, id: &str, parent: Option<&str>, archive: &[u8]) -> Result<u64, Error> {
        self.driver.create(id, parent)?;
        let size = self.driver.apply(id, &mut &*archive)?;
        self.driver.commit(id)?;
        // Each look at a device is four mounts, which take their time in the virtual machine.
        if self.driver.name() != "devmapper" {
            assert_eq!(self.told(id, true), [""; 0], "{id}, just made");
        }
        Ok(size)
    }

    /// What a layer has that its archive does not say.
    pub fn told(&self, id: &str, below_is_whole: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let archive = self.diff(id);
        self.driver.verify(id, &mut archive.as_slice(), below_is_whole, &mut |line| lines.push(line)).unwrap();
        lines
    }

    pub fn mount(&self, id: &str, read_only: bool) -> Mounted {
        Mounted(attach(&self.driver.mount(id, read_only).unwrap()))
    }

    pub fn writable(&self, id: &str, parent: &str) -> Mounted {
        self.driver.create_writable(id, Some(parent), None).unwrap();
        self.mount(id, false)
    }

    pub fn diff(&self, id: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        self.driver.diff(id, &mut archive).unwrap();
        archive
    }

    pub fn changes(&self, id: &str) -> Vec<(String, ChangeKind)> {
        let changes = self.driver.changes(id).unwrap();
        assert!(changes.is_sorted(), "{changes:?}");
        changes.into_iter().map(|Change { path, kind }| (path.display().to_string(), kind)).collect()
    }
}

/// Opens the driver of a module of the suite.
pub fn open(root: &Path, name: &str, further: &[&str]) -> Result<Arc<dyn GraphDriver>, Error> {
    let (driver, options): (_, &[&str]) = match name {
        "devmapper" => (name, &["dm.basesize=256m"]),
        "devmapper_xfs" => ("devmapper", &["dm.basesize=512m", "dm.fs=xfs"]),
        other => (other, &[]),
    };
    let options: Vec<String> = options.iter().chain(further).map(ToString::to_string).collect();
    Ok(gantry_graphdriver::open_with(root, Some(driver), &Options::parse(&options)?)?.0)
}

/// A directory on a btrfs that is this thread's own, and goes with it.
fn on_btrfs() -> tempfile::TempDir {
    thread_local! {
        static IMAGE: std::cell::RefCell<Option<Image>> = const { std::cell::RefCell::new(None) };
    }
    let image = Image::mount(1 << 30, &["mkfs.btrfs", "-q"], "loop").unwrap();
    let root = tempfile::tempdir_in(image.mounted()).unwrap();
    IMAGE.with(|kept| kept.replace(Some(image)));
    root
}

/// A mount that is attached nowhere.
pub struct Mounted(pub OwnedFd);

impl Mounted {
    pub fn at(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub fn attach(root: &RootMount) -> OwnedFd {
    match root {
        RootMount::Mapped { .. } | RootMount::Device(_) | RootMount::Aufs { .. } => {
            gantry_linux::mount::attach(root).unwrap()
        }
        RootMount::Bind { source } => {
            open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).unwrap()
        }
        RootMount::Overlay { lower, upper, options } => {
            let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
            for path in lower {
                fsconfig_set_string(&context, "lowerdir+", path).unwrap();
            }
            if let Some(upper) = upper {
                fsconfig_set_string(&context, "upperdir", &upper.upper).unwrap();
                fsconfig_set_string(&context, "workdir", &upper.work).unwrap();
            }
            for (key, value) in options {
                match value {
                    Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()).unwrap(),
                    None => fsconfig_set_flag(&context, key.as_str()).unwrap(),
                }
            }
            fsconfig_create(&context).unwrap();
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
        }
    }
}

#[derive(Default)]
pub struct Archive(pub Vec<u8>);

impl Archive {
    pub fn entry(mut self, kind: EntryType, name: &str, link: &str, data: &[u8], mode: u32) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(if mode == 0o750 { 77 } else { 0 });
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, "", data.as_bytes(), 0o644)
    }

    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, "", b"", mode)
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"", 0o644)
    }
}

pub fn base() -> Archive {
    Archive::default()
        .dir("./", 0o711)
        .dir("etc", 0o750)
        .file("etc/one", "one")
        .file("etc/two", "two")
        .dir("deep", 0o755)
        .dir("deep/er", 0o755)
        .file("deep/er/file", "deep")
        .entry(EntryType::Symlink, "link", "etc/one", b"", 0o777)
}
