//! Directory trees by descriptor: opening inside a root, metadata, a sorted walk, and looking through stacked layers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use gantry_linux::{Result, ResultExt};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, openat,
    openat2, statat,
};
use rustix::io::Errno;

use crate::levels::Levels;

/// Marks a directory that overlayfs does not merge with what is below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// Marks a directory of a draft that its archive implied and did not describe.
pub(crate) const IMPLIED: &str = "trusted.gantry.implied";
/// The kernel's bound for the names of a file's attributes, and for the value of one.
const ATTRIBUTES: usize = 64 << 10;
/// The longest path that a layer may have.
const PATH_LIMIT: usize = 4096;

pub(crate) fn show(path: &[u8]) -> impl std::fmt::Display + '_ {
    Path::new(OsStr::from_bytes(path)).display()
}

/// Opens a directory of ours, for use as a base.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during("open", path.display())
}

/// Opens a directory by its path inside a root: symbolic links are resolved as if the root were `/`.
pub(crate) fn open_inside(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&root, at(path), flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere raced with a link that has `..` in it: the kernel wants to be asked again.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// The path for an `…at` call; the root itself is `.`.
pub(crate) fn at(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// What a name is, a symbolic link itself.
pub(crate) fn stat(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Stat> {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn is_dir(stat: &Stat) -> bool {
    file_type(stat) == FileType::Directory
}

/// Whether it is overlayfs's whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Opens a directory entry for reading, not following a link.
pub(crate) fn open_dir(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(dir, at(name), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The magic path of `name` in `dir`, for calls that exist only with a path; the last name is not followed by them.
pub(crate) fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), at(name)].concat()
}

/// All extended attributes of an entry, sorted, but those of the kernel's or our own book-keeping. Without a name it is what
/// `dir` itself is open on, of whatever kind.
pub(crate) fn xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let itself = name.is_empty();
    let mut path = proc_path(dir, name);
    if itself {
        path.truncate(path.len() - 2);
    }
    // Most have none.
    let mut list = vec![0_u8; 512];
    let length = loop {
        let listed = match itself {
            true => rustix::fs::listxattr(path.as_slice(), list.as_mut_slice()),
            false => rustix::fs::llistxattr(path.as_slice(), list.as_mut_slice()),
        };
        match listed {
            Ok(length) => break length,
            Err(Errno::OPNOTSUPP) => break 0,
            Err(Errno::RANGE) if list.len() < ATTRIBUTES => list.resize(ATTRIBUTES, 0),
            Err(error) => return Err(error).during("list extended attributes of", show(name)),
        }
    };
    let mut found = Vec::new();
    for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        if is_private(key) {
            continue;
        }
        let mut value = vec![0_u8; ATTRIBUTES];
        let length = match itself {
            true => rustix::fs::getxattr(path.as_slice(), key, value.as_mut_slice()),
            false => rustix::fs::lgetxattr(path.as_slice(), key, value.as_mut_slice()),
        };
        let length = match length {
            // The kernel takes empty file capabilities and never gives them back.
            Err(Errno::INVAL) if key == b"security.capability" => continue,
            other => other.during("read extended attribute of", show(name))?,
        };
        value.truncate(length);
        value.shrink_to_fit();
        found.push((key.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether an extended attribute belongs to overlayfs or to us, and never to an image.
pub(crate) fn is_private(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"trusted.gantry.")
}

/// Whether two entries count as the same: kind, owner, mode and extended attributes, and but for directories device number,
/// size and time as well.
pub(crate) fn same(old: (BorrowedFd<'_>, &[u8], &Stat), new: (BorrowedFd<'_>, &[u8], &Stat)) -> Result<bool> {
    let (before, after) = (old.2, new.2);
    if (before.st_mode, before.st_uid, before.st_gid) != (after.st_mode, after.st_uid, after.st_gid) {
        return Ok(false);
    }
    if !is_dir(before) {
        let key = |stat: &Stat| (stat.st_rdev, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        if key(before) != key(after) {
            return Ok(false);
        }
    }
    Ok(xattrs(old.0, old.1)? == xattrs(new.0, new.1)?)
}

/// The inode of a file with several names. Whiteouts share one, which means nothing.
pub(crate) fn shared_inode(stat: &Stat) -> Option<u64> {
    (stat.st_nlink > 1 && !is_dir(stat) && !is_whiteout(stat)).then_some(stat.st_ino)
}

pub(crate) fn set_xattr(dir: BorrowedFd<'_>, name: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
    let path = proc_path(dir, name);
    match rustix::fs::lsetxattr(path.as_slice(), key, value, XattrFlags::empty()) {
        // Attributes of users are a nicety that not every file system (or link, or device) takes.
        Err(Errno::OPNOTSUPP | Errno::PERM) if key.starts_with(b"user.") => Ok(()),
        other => other.during("set extended attribute of", show(name)),
    }
}

pub(crate) fn is_opaque(dir: impl AsFd) -> bool {
    let mut value = [0_u8; 4];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE, value.as_mut_slice()), Ok(1) if value[0] == b'y')
}

pub(crate) fn set_opaque(dir: impl AsFd) -> Result<()> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty()).during("mark opaque", "directory")
}

pub(crate) fn clear_opaque(dir: impl AsFd) -> Result<()> {
    rustix::fs::fremovexattr(dir, OPAQUE).during("unmark opaque", "directory")
}

pub(crate) fn is_implied(dir: impl AsFd) -> bool {
    let mut value = [0_u8; 4];
    rustix::fs::fgetxattr(dir, IMPLIED, value.as_mut_slice()).is_ok()
}

pub(crate) fn set_implied(dir: impl AsFd) -> Result<()> {
    rustix::fs::fsetxattr(dir, IMPLIED, b"1", XattrFlags::empty()).during("mark implied", "directory")
}

pub(crate) fn clear_implied(dir: impl AsFd) -> Result<()> {
    match rustix::fs::fremovexattr(dir, IMPLIED) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(error) => Err(error).during("unmark implied", "directory"),
    }
}

pub(crate) fn times(seconds: i64, nanoseconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    times(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// Gives the entry `to` the owner, extended attributes, mode and time of `from`, in the order that keeps them all.
pub(crate) fn copy_metadata(from: (BorrowedFd<'_>, &[u8]), stat: &Stat, to: (BorrowedFd<'_>, &[u8])) -> Result<()> {
    let shown = || show(to.1).to_string();
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to.0, at(to.1), Some(uid), Some(gid), nofollow).during("chown", shown())?;
    for (key, value) in xattrs(from.0, from.1)? {
        set_xattr(to.0, to.1, &key, &value)?;
    }
    if file_type(stat) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to.0, at(to.1), mode, AtFlags::empty()).during("chmod", shown())?;
    }
    rustix::fs::utimensat(to.0, at(to.1), &times_of(stat), nofollow).during("set times of", shown())
}

/// A step of a [`Walk`].
pub(crate) enum Step {
    /// An entry; a directory is entered next.
    Entry { dir: Arc<OwnedFd>, name: Vec<u8>, path: Vec<u8>, stat: Stat },
    /// All entries of the directory `path` were seen.
    Leave { path: Vec<u8> },
}

/// A walk through a tree: sorted, a directory before its entries, links not followed. Depth is bounded by the length of
/// a path, so a tree that a container made absurdly deep is an error, not an exhausted stack.
pub(crate) struct Walk {
    levels: Levels,
    path: Vec<u8>,
    /// The directory that the next step enters.
    pending: Option<Vec<u8>>,
}

impl Walk {
    /// A walk of everything in `root`, which is itself not a step.
    pub(crate) fn new(root: OwnedFd) -> Result<Self> {
        let mut levels = Levels::default();
        levels.enter(root).during("list", "layer")?;
        Ok(Self { levels, path: Vec::new(), pending: None })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Step>> {
        if let Some(name) = self.pending.take() {
            let Some(dir) = self.levels.directory() else { return Ok(None) };
            let opened = open_dir(dir, &name).during("open", show(&self.path))?;
            self.levels.enter(opened).during("list", show(&self.path))?;
        } else {
            // The path of the last step, if it was not a directory that was entered.
            self.path.truncate(self.path_of_level());
        }
        let base = self.path.len();
        let Some(dir) = self.levels.directory().map(Arc::clone) else { return Ok(None) };
        let Some(name) = self.levels.name() else {
            let left = self.levels.leave().during("go back from", show(&self.path))?;
            return Ok(left.then(|| Step::Leave { path: self.path.clone() }));
        };
        if base > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        if self.path.len() > PATH_LIMIT {
            return Err(Errno::NAMETOOLONG).during("walk", show(&self.path[..80]));
        }
        let stat = stat(&dir, &name).during("stat", show(&self.path))?;
        if is_dir(&stat) {
            self.pending = Some(name.clone());
        }
        Ok(Some(Step::Entry { dir, name, path: self.path.clone(), stat }))
    }

    /// How much of `path` names the directory on top of the stack.
    fn path_of_level(&self) -> usize {
        let depth = self.levels.depth().saturating_sub(1);
        let mut slashes = self.path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        match depth {
            0 => 0,
            depth => slashes.nth(depth - 1).map_or(self.path.len(), |(index, _)| index),
        }
    }
}

/// Finds a path in stacked layers in overlayfs's form, uppermost first, as a mount of them would show it.
/// Returns an `O_PATH` descriptor of its directory's entry and what it is.
pub(crate) fn look_through(layers: &[OwnedFd], path: &[u8]) -> Result<Option<(OwnedFd, Stat)>> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for layer in layers {
        match openat2(layer, at(path), flags, Mode::empty(), beneath) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found).during("stat", show(path))?;
                return Ok(if is_whiteout(&stat) { None } else { Some((found, stat)) });
            }
            // A file, a link or a whiteout is where a directory would have to be: it hides what is below.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(Errno::NOENT) => {
                if hides_below(layer, path)? {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error).during("open", show(path)),
        }
    }
    Ok(None)
}

/// Whether one of the directories above `path` is opaque in this layer.
fn hides_below(layer: &OwnedFd, path: &[u8]) -> Result<bool> {
    let mut dir = layer.try_clone().during("duplicate", "descriptor")?;
    for name in path.split(|byte| *byte == b'/') {
        dir = match open_dir(&dir, name) {
            Ok(next) => next,
            Err(_) => return Ok(false),
        };
        if is_opaque(&dir) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names that a directory shows in stacked layers, uppermost first, sorted.
pub(crate) fn names_through(layers: &[OwnedFd], path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut seen = BTreeMap::new();
    for layer in layers {
        let dir = match openat2(layer, at(path), flags, Mode::empty(), beneath) {
            Ok(dir) => dir,
            Err(Errno::NOENT) if !hides_below(layer, path)? => continue,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => break,
            Err(error) => return Err(error).during("open", show(path)),
        };
        for name in names(&dir).during("list", show(path))? {
            if let Entry::Vacant(new) = seen.entry(name) {
                let there = !is_whiteout(&stat(&dir, new.key()).during("stat", show(new.key()))?);
                new.insert(there);
            }
        }
        // This directory itself, or one above it.
        if is_opaque(&dir) || hides_below(layer, path)? {
            break;
        }
    }
    Ok(seen.into_iter().filter_map(|(name, there)| there.then_some(name)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{Mode, OFlags, XattrFlags, open, setxattr};

    use super::*;

    #[test]
    fn empty_file_capabilities_which_the_kernel_takes_and_never_gives_back_are_none() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        gantry_linux::fs::write(&file, "").unwrap();
        setxattr(&file, "security.capability", b"", XattrFlags::empty()).unwrap();
        setxattr(&file, "trusted.seen", b"1", XattrFlags::empty()).unwrap();
        let dir = open(root.path(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(xattrs(dir.as_fd(), b"file").unwrap(), [(b"trusted.seen".to_vec(), b"1".to_vec())]);
    }
}
