//! A tar stream from a container to local files. Nothing in it is trusted: every name is resolved beneath the
//! destination's descriptor without following links, and only what was asked for is taken.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

/// What to extract, and how.
struct Unpack<'a> {
    /// The name of the topmost entry in the stream; nothing when the stream has what is inside a directory.
    source: Option<&'a str>,
    /// The name that it gets.
    name: Option<&'a str>,
    /// Keep owners, and the bits that run a program as its owner.
    archive: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Bytes of files.
    pub bytes: u64,
    /// Device nodes that were left out: they are made in archive mode only.
    pub devices: Vec<PathBuf>,
}

/// Extracts the stream.
///
/// # Errors
/// What could not be made, with its path; names that lead outside.
pub fn unpack(
    stream: impl Read,
    source: Option<&str>,
    name: Option<&str>,
    directory: &Path,
    archive: bool,
) -> io::Result<Unpacked> {
    let job = Unpack { source, name, archive };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| named(directory, error))?;
    let mut tar = Archive::new(stream);
    let mut times = Vec::new();
    let mut done = Unpacked::default();
    for entry in tar.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(path) = job.target(&path)? else { continue };
        if matches!(entry.header().entry_type(), EntryType::Block | EntryType::Char) && !archive {
            done.devices.push(path);
            continue;
        }
        done.bytes += job.entry(&root, &path, &mut entry, &mut times).map_err(|error| told(&path, &error))?;
    }
    // Innermost first: making an entry changes its directory's time.
    for (path, time) in times.into_iter().rev() {
        let parent = beneath(&root, path.parent().unwrap_or(Path::new(""))).map_err(|error| named(&path, error))?;
        let name = path.file_name().unwrap_or(OsStr::new("."));
        rustix::fs::utimensat(parent, name, &time, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| named(&path, error))?;
    }
    Ok(done)
}

fn named(path: &Path, error: Errno) -> io::Error {
    told(path, &error.into())
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {}", path.display(), crate::failure::reason(error)))
}

/// A directory below the root, reached without any link.
fn beneath(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

impl Unpack<'_> {
    /// The path below the destination of an entry with that name; nothing for the source directory itself when only
    /// what is in it was asked for.
    fn target(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let hostile =
            || io::Error::other(format!("the archive has an entry outside of what was asked for: {}", path.display()));
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => parts.push(name),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(hostile()),
            }
        }
        let inner: &[&OsStr] = match self.source {
            None => &parts,
            Some(source) => match parts.split_first() {
                Some((first, inner)) if *first == source => inner,
                _ => return Err(hostile()),
            },
        };
        let target: PathBuf = self.name.map(OsStr::new).into_iter().chain(inner.iter().copied()).collect();
        Ok((!target.as_os_str().is_empty()).then_some(target))
    }

    fn entry<R: Read>(
        &self,
        root: &OwnedFd,
        path: &Path,
        entry: &mut Entry<'_, R>,
        times: &mut Vec<(PathBuf, Timestamps)>,
    ) -> io::Result<u64> {
        let name = path.file_name().ok_or_else(|| io::Error::other("an entry without a name"))?;
        let parent = beneath(root, path.parent().unwrap_or(Path::new(""))).map_err(|error| match error {
            Errno::LOOP => io::Error::other("its directory is a symbolic link, which is not followed"),
            error => error.into(),
        })?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(0);
        }
        let there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .ok()
            .map(|stat| FileType::from_raw_mode(stat.st_mode));
        match (kind == EntryType::Directory, there) {
            (true, Some(FileType::Directory)) | (_, None) => {}
            (false, Some(FileType::Directory)) => {
                return Err(io::Error::other("cannot overwrite directory with non-directory"));
            }
            (true, Some(_)) => return Err(io::Error::other("cannot overwrite non-directory with directory")),
            (false, Some(_)) => rustix::fs::unlinkat(&parent, name, AtFlags::empty())?,
        }
        let mode = entry.header().mode()? & if self.archive { 0o7777 } else { 0o1777 };
        let time = timestamps(entry.header().mtime()?);
        if kind == EntryType::Link {
            self.hard_link(root, &parent, name, entry)?;
            return Ok(0);
        }
        if kind == EntryType::Directory {
            if there.is_none() {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
            }
            times.push((path.to_owned(), time.clone()));
        }
        let size = make(&parent, name, entry)?;
        self.finish(&parent, name, kind, mode, entry, &time)?;
        Ok(size)
    }

    /// Owner, then mode (which changing the owner may clear), then time.
    fn finish<R: Read>(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        kind: EntryType,
        mode: u32,
        entry: &Entry<'_, R>,
        time: &Timestamps,
    ) -> io::Result<()> {
        if self.archive {
            let number =
                |id: u64| u32::try_from(id).map_err(|_| io::Error::other("an owner that is no number of 32 bits"));
            let owner = rustix::process::Uid::from_raw(number(entry.header().uid()?)?);
            let group = rustix::process::Gid::from_raw(number(entry.header().gid()?)?);
            rustix::fs::chownat(parent, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind != EntryType::Symlink {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, time, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn hard_link<R: Read>(
        &self,
        root: &OwnedFd,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry<'_, R>,
    ) -> io::Result<()> {
        let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
        let target = self.target(&target)?.ok_or_else(|| io::Error::other("a hard link to nothing"))?;
        let directory = beneath(root, target.parent().unwrap_or(Path::new("")))?;
        let file = target.file_name().ok_or_else(|| io::Error::other("a hard link to nothing"))?;
        Ok(rustix::fs::linkat(directory, file, parent, name, AtFlags::empty())?)
    }
}

/// Makes what is no directory, readable by nobody else until it is whole; returns the bytes of a file.
fn make<R: Read>(parent: &OwnedFd, name: &OsStr, entry: &mut Entry<'_, R>) -> io::Result<u64> {
    let hidden = Mode::from_raw_mode(0o600);
    match entry.header().entry_type() {
        EntryType::Directory => {}
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
            rustix::fs::symlinkat(target.as_ref(), parent, name)?;
        }
        EntryType::Fifo => rustix::fs::mknodat(parent, name, FileType::Fifo, hidden, 0)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(parent, name, flags, hidden)?;
            return io::copy(entry, &mut std::fs::File::from(file));
        }
        kind @ (EntryType::Block | EntryType::Char) => {
            let kind = if kind == EntryType::Block { FileType::BlockDevice } else { FileType::CharacterDevice };
            let (major, minor) = (entry.header().device_major()?, entry.header().device_minor()?);
            let device = rustix::fs::makedev(major.unwrap_or(0), minor.unwrap_or(0));
            rustix::fs::mknodat(parent, name, kind, hidden, device)?;
        }
        other => return Err(io::Error::other(format!("unknown kind of entry {other:?}"))),
    }
    Ok(0)
}

fn timestamps(seconds: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, Header};

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o4644 });
            header.set_entry_type(*kind);
            header.set_mtime(1000);
            let raw = header.as_gnu_mut().unwrap();
            raw.name[..name.len()].copy_from_slice(name.as_bytes());
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if link {
                raw.linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_size(if link { 0 } else { content.len() as u64 });
            header.set_cksum();
            builder.append(&header, if link { "".as_bytes() } else { content.as_bytes() }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn extract(entries: &[(&str, EntryType, &str)], name: &str) -> (tempfile::TempDir, io::Result<Unpacked>) {
        let directory = tempfile::tempdir().unwrap();
        let result = unpack(archive(entries).as_slice(), Some("s"), Some(name), directory.path(), false);
        (directory, result)
    }

    #[test]
    fn a_tree_arrives_under_its_new_name_without_set_user_bits() {
        use std::os::unix::fs::MetadataExt as _;
        let tree = [
            ("s/", EntryType::Directory, ""),
            ("s/f", EntryType::Regular, "hello"),
            ("s/l", EntryType::Symlink, "/etc/passwd"),
            ("s/h", EntryType::Link, "s/f"),
        ];
        let (directory, result) = extract(&tree, "new");
        assert_eq!(result.unwrap().bytes, 5);
        let new = directory.path().join("new");
        assert_eq!(std::fs::read(new.join("h")).unwrap(), b"hello");
        assert_eq!(std::fs::read_link(new.join("l")).unwrap(), Path::new("/etc/passwd"));
        let file = std::fs::metadata(new.join("f")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.mtime(), file.nlink()), (0o644, 1000, 2));
        assert_eq!(std::fs::metadata(&new).unwrap().mtime(), 1000);
    }

    #[test]
    fn nothing_is_written_outside_of_what_was_asked_for() {
        for entries in [
            vec![("s/../../evil", EntryType::Regular, "x")],
            vec![("evil", EntryType::Regular, "x")],
            vec![("/evil", EntryType::Regular, "x")],
            vec![("s", EntryType::Symlink, ".."), ("s/evil", EntryType::Regular, "x")],
            vec![
                ("s/", EntryType::Directory, ""),
                ("s/l", EntryType::Symlink, "/tmp"),
                ("s/l/evil", EntryType::Regular, "x"),
            ],
            vec![("s/", EntryType::Directory, ""), ("s/h", EntryType::Link, "../../etc/passwd")],
            vec![("s/", EntryType::Directory, ""), ("s/h", EntryType::Link, "/etc/passwd")],
        ] {
            let (directory, result) = extract(&entries, "new");
            assert!(result.is_err(), "{entries:?}");
            assert!(!directory.path().join("evil").exists() && !Path::new("/tmp/evil").exists());
            assert!(!directory.path().parent().unwrap().join("evil").exists());
        }
    }

    #[test]
    fn a_directory_is_not_replaced_by_a_file() {
        let (directory, _) = extract(&[("s/", EntryType::Directory, "")], "new");
        let file = archive(&[("s", EntryType::Regular, "x")]);
        let error = unpack(file.as_slice(), Some("s"), Some("new"), directory.path(), false).unwrap_err();
        assert!(error.to_string().contains("cannot overwrite directory"), "{error}");
    }

    #[test]
    fn what_was_packed_is_unpacked_the_same() {
        let from = tempfile::tempdir().unwrap();
        std::fs::create_dir(from.path().join("d")).unwrap();
        std::fs::write(from.path().join("d").join("x".repeat(150)), "long name").unwrap();
        std::os::unix::fs::symlink("nowhere", from.path().join("l")).unwrap();
        let mut tar = Vec::new();
        super::super::pack(from.path(), None, &mut tar).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(tar.as_slice(), None, None, to.path(), false).unwrap();
        assert_eq!(std::fs::read(to.path().join("d").join("x".repeat(150))).unwrap(), b"long name");
        assert_eq!(std::fs::read_link(to.path().join("l")).unwrap(), Path::new("nowhere"));
    }
}
