//! Mounts, devices and masks against the real kernel: each scene on a thread with a mount namespace of its own.

mod options;
mod targets;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_linux::mount::{RootMount, in_private_namespace};

use super::{mounts, rootfs, sources};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::oci;

/// A root on which mounts are tried, seen by the thread of the scene only.
pub struct Scene {
    root: OwnedFd,
    directory: PathBuf,
}

/// Plays a scene; all it mounts goes with it.
pub fn scene(play: impl FnOnce(&Scene) -> Result<()> + Send) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("root")).unwrap();
    std::fs::create_dir(directory.path().join("host")).unwrap();
    in_private_namespace(|| {
        let source = directory.path().join("root");
        let root = rootfs::mount(&RootMount::Bind { source: source.clone() }, &source)?;
        play(&Scene { root, directory: directory.path().into() })
    })
    .unwrap_or_else(|error: Error| panic!("{error}"));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(directory.path().to_str().unwrap()), "something was mounted for others to see");
}

impl Scene {
    /// A path of the root.
    pub fn inside(&self, path: &str) -> PathBuf {
        self.directory.join("root").join(path)
    }

    /// A path outside of the root.
    pub fn host(&self, path: &str) -> PathBuf {
        self.directory.join("host").join(path)
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn make_directory(&self, path: &Path) {
        std::fs::create_dir_all(path).unwrap();
    }

    /// Mounts what `config.json` would say: destination, type, source, options. Returns the warnings.
    pub fn mount(&self, destination: &str, kind: &str, source: &Path, options: &str) -> Result<Vec<String>> {
        self.mount_all(&[oci::Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: source.to_str().unwrap().into(),
            options: options.split(',').map(str::to_owned).collect(),
            ..oci::Mount::default()
        }])
    }

    pub fn mount_all(&self, given: &[oci::Mount]) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let mounts = oci::convert_mounts(given, &self.directory, &mut warnings)?;
        let config = Config { mounts, ..Config::default() };
        self.mount_config(&config)?;
        Ok(warnings)
    }

    pub fn mount_config(&self, config: &Config) -> Result<Vec<String>> {
        let sources = sources::open_sources(config)?;
        mounts::mount_all(self.root(), config, &mounts::Sources { given: &sources, ..Default::default() }, &[])
    }

    /// Options of the uppermost mount at a path of the root: of the mount, of its propagation, of the file system.
    pub fn shown(&self, path: &str) -> Option<(Vec<String>, String, Vec<String>)> {
        shown(&self.inside(path))
    }
}

/// What mountinfo says of the uppermost mount at exactly this path.
pub fn shown(path: &Path) -> Option<(Vec<String>, String, Vec<String>)> {
    let all = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = all.lines().rfind(|line| line.split(' ').nth(4) == path.to_str())?;
    let (mount, file_system) = line.split_once(" - ").unwrap();
    let fields: Vec<&str> = mount.split(' ').collect();
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    Some((list(fields[5]), fields[6..].join(" "), list(file_system.split(' ').nth(2).unwrap())))
}
