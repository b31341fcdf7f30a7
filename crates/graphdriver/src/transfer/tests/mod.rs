//! Transfers on the real kernel: round trips, names, and containers that fight back.
#![allow(clippy::disallowed_methods, reason = "tests prepare files plainly")]

mod attack;
mod hostile;
mod round;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use tar::{EntryType, Header};

use super::{Error, Options};

/// A root, and a directory beside it that must never be read or written.
struct Place {
    dir: tempfile::TempDir,
    root: OwnedFd,
}

const CANARY: &str = "the host's secret";

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/f"), CANARY).unwrap();
        let root = crate::tree::open_root(&dir.path().join("root")).unwrap();
        Self { dir, root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn pack(&self, path: &str, name: &str) -> Result<Vec<u8>, Error> {
        let mut archive = Vec::new();
        super::pack(self.root.as_fd(), path.as_bytes(), name.as_bytes(), &mut archive, None)?;
        Ok(archive)
    }

    fn unpack(&self, directory: &str, archive: &[u8]) -> Result<u64, Error> {
        self.unpack_with(directory, archive, Options::default())
    }

    fn unpack_with(&self, directory: &str, mut archive: &[u8], options: Options) -> Result<u64, Error> {
        super::unpack(self.root.as_fd(), directory.as_bytes(), &mut archive, options)
    }

    /// That nothing of the outside changed.
    fn check_canary(&self) {
        use std::os::unix::fs::MetadataExt;
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["f"]);
        assert_eq!(fs::read_to_string(self.outside().join("f")).unwrap(), CANARY);
        for (path, mode) in [(self.outside(), 0o755), (self.outside().join("f"), 0o644)] {
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.nlink() > 2), (mode, 0, false), "{path:?}");
        }
    }
}

/// An archive of raw entries: type, name, link target, content; everything with mode 0777 and owner 1234:1234.
fn archive(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link, content) in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o777);
        header.set_uid(1234);
        header.set_gid(1234);
        header.set_mtime(1000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// The names in an archive.
fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    archive.entries().unwrap().map(|e| String::from_utf8_lossy(&e.unwrap().path_bytes()).into_owned()).collect()
}
