//! Unpacking a layer archive into a draft, by descriptors, with the archive as an enemy.
//!
//! A parent directory is opened with the draft's root as `/` (`RESOLVE_IN_ROOT`): a symbolic link that the archive
//! itself brought is followed there, as Docker does in its chroot, and can lead nowhere else. The last name is never
//! followed: what is in the way of an entry is moved away first. Nobody else writes to a draft.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use gantry_linux::{ResultExt, fs};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;

use super::entry::{Entries, Entry, Kind};
use super::name::{clean, refuse, split};
use super::recipe::{DISPLACED, Recorder};
use super::spool::{Later, Spool, replay};
use super::{AUFS, OPAQUE, WHITEOUT};
use crate::Error;
use crate::tree::{self, Step, Walk, at, open_inside, show};

/// Unpacks into `draft/diff` and writes down how the archive was made; returns the bytes of file content.
/// [`super::finish`] does what the layers below are needed for.
pub(crate) fn apply(draft: &Path, input: &mut dyn Read) -> Result<u64, Error> {
    let spool = draft.join("later");
    let mut extraction = Extraction {
        root: tree::open_root(&draft.join("diff"))?,
        displaced: tree::open_root(&draft.join(DISPLACED))?,
        grave: tree::open_root(&draft.join("grave"))?,
        later: Spool::append(&spool)?,
        parent: None,
        content: 0,
    };
    let mut entries = Entries::new(input, Recorder::begin(draft)?);
    while let Some(entry) = entries.next()? {
        extraction.entry(entry, &mut entries)?;
    }
    let Extraction { root, later, content, .. } = extraction;
    later.finish()?;
    replay(&spool, |later| match later {
        Later::Time { path, mtime } => set_time(&root, &path, mtime),
        _ => Ok(()),
    })?;
    Ok(content)
}

struct Extraction {
    root: OwnedFd,
    /// Where files go that are in the way, by inode: their content is a part of the archive.
    displaced: OwnedFd,
    /// Where directories go that are in the way; they are deleted with the draft's litter.
    grave: OwnedFd,
    later: Spool,
    /// The directory of the last entry: most entries have the one before's.
    parent: Option<(Vec<u8>, OwnedFd)>,
    content: u64,
}

impl Extraction {
    fn entry(&mut self, entry: Entry, entries: &mut Entries<'_>) -> Result<(), Error> {
        let path = clean(&entry.path)?;
        let (directory, name) = split(&path);
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(AUFS) && part != OPAQUE) {
            return Ok(());
        }
        if directory.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(refuse(&path, "it is inside a whiteout"));
        }
        if name == OPAQUE {
            return self.opaque(directory);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(refuse(&path, "a whiteout of nothing"));
            }
            return self.whiteout(directory, hidden);
        }
        match &entry.kind {
            Kind::Directory => self.directory(&path, &entry),
            _ if path.is_empty() => Err(refuse(b"/", "the root of a layer is a directory")),
            // Overlayfs's own whiteout: it hides what is below in either spelling.
            Kind::Character(0, 0) => self.whiteout(directory, name),
            Kind::Link(target) => self.link(&path, &clean(target)?),
            _ => self.other(&path, &entry, entries),
        }
    }

    /// The directory `path`, made where it is not there.
    fn open_parent(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        if let Some((have, fd)) = &self.parent
            && have == path
        {
            return Ok(fd.try_clone().during("duplicate", "descriptor")?);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match open_inside(&self.root, path, flags) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(path)?,
            Err(error) => return Err(cannot_enter(path, error)),
        };
        self.parent = Some((path.to_vec(), opened.try_clone().during("duplicate", "descriptor")?));
        Ok(opened)
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut above = open_inside(&self.root, b"", flags).during("open", "layer")?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            above = match open_inside(&self.root, prefix, flags) {
                Ok(opened) => opened,
                Err(Errno::NOENT) => self.make_implied(&above, prefix, false)?,
                Err(Errno::NOTDIR) => {
                    let name = split(prefix).1;
                    match tree::stat(&above, name) {
                        Ok(stat) if tree::is_whiteout(&stat) => {
                            rustix::fs::unlinkat(&above, name, AtFlags::empty()).during("remove", show(prefix))?;
                            self.make_implied(&above, prefix, true)?
                        }
                        _ => return Err(cannot_enter(path, Errno::NOTDIR)),
                    }
                }
                Err(error) => return Err(cannot_enter(path, error)),
            };
        }
        Ok(above)
    }

    fn make_implied(&mut self, above: &OwnedFd, path: &[u8], opaque: bool) -> Result<OwnedFd, Error> {
        let name = split(path).1;
        match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755)) {
            // Nothing is there and yet the name is taken: a link to nowhere.
            Err(Errno::EXIST) => return Err(refuse(path, "a directory is wanted where a dangling link is")),
            other => other.during("make directory", show(path))?,
        }
        let made = tree::open_dir(above, name).during("open", show(path))?;
        tree::set_implied(&made)?;
        if opaque {
            tree::set_opaque(&made)?;
        }
        self.later.push(&Later::Implied { path: path.to_vec() })?;
        Ok(made)
    }

    fn directory(&mut self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        let (above, name) = split(path);
        let opened = if path.is_empty() {
            tree::open_dir(&self.root, b"").during("open", "layer")?
        } else {
            let parent = self.open_parent(above)?;
            let was_whiteout = match tree::stat(&parent, name) {
                Ok(stat) if tree::is_dir(&stat) => false,
                Ok(stat) => {
                    self.displace(&parent, name)?;
                    rustix::fs::mkdirat(&parent, name, Mode::RWXU).during("make directory", show(path))?;
                    tree::is_whiteout(&stat)
                }
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&parent, name, Mode::RWXU).during("make directory", show(path))?;
                    false
                }
                Err(error) => return Err(error).during("stat", show(path)).map_err(Error::from),
            };
            let opened = tree::open_dir(&parent, name).during("open", show(path))?;
            if was_whiteout {
                tree::set_opaque(&opened)?;
            }
            opened
        };
        tree::clear_implied(&opened)?;
        metadata(&opened, b"", entry, false)?;
        self.later.push(&Later::Time { path: path.to_vec(), mtime: entry.mtime })
    }

    fn opaque(&mut self, directory: &[u8]) -> Result<(), Error> {
        let parent = self.open_parent(directory)?;
        let opened = tree::open_dir(&parent, b"").during("open", show(directory))?;
        Ok(tree::set_opaque(opened)?)
    }

    /// Hides what lower layers have by this name. What this archive itself has there stays.
    fn whiteout(&mut self, directory: &[u8], name: &[u8]) -> Result<(), Error> {
        let parent = self.open_parent(directory)?;
        match tree::stat(&parent, name) {
            Ok(stat) if tree::is_dir(&stat) => {
                let own = tree::open_dir(&parent, name).during("open", show(name))?;
                Ok(tree::set_opaque(own)?)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => Ok(make_whiteout(&parent, name)?),
            Err(error) => Err(error).during("stat", show(name)).map_err(Error::from),
        }
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let (directory, name) = split(path);
        let (target_directory, target_name) = split(target);
        if target.is_empty() {
            return Err(refuse(path, "a hard link to the root"));
        }
        let parent = self.open_parent(directory)?;
        let source = open_inside(&self.root, target_directory, OFlags::PATH | OFlags::DIRECTORY);
        let found = match &source {
            Ok(source) => tree::stat(source, target_name),
            Err(error) => Err(*error),
        };
        let (source, stat) = match (source, found) {
            (Ok(source), Ok(stat)) => (source, stat),
            (_, Err(Errno::NOENT | Errno::NOTDIR)) => {
                self.displace(&parent, name)?;
                return self.later.push(&Later::Link { path: path.to_vec(), target: target.to_vec() });
            }
            (_, Err(error)) | (Err(error), _) => return Err(cannot_enter(target, error)),
        };
        if tree::is_dir(&stat) || tree::is_whiteout(&stat) {
            return Err(refuse(path, "a hard link to what cannot have one"));
        }
        if let Ok(own) = tree::stat(&parent, name)
            && (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        self.displace(&parent, name)?;
        Ok(rustix::fs::linkat(&source, target_name, &parent, name, AtFlags::empty()).during("link", show(path))?)
    }

    fn other(&mut self, path: &[u8], entry: &Entry, entries: &mut Entries<'_>) -> Result<(), Error> {
        let (directory, name) = split(path);
        let parent = self.open_parent(directory)?;
        if entry.kind == Kind::File {
            return self.file(&parent, path, entry, entries);
        }
        self.displace(&parent, name)?;
        let node = |kind, device| {
            rustix::fs::mknodat(&parent, name, kind, Mode::RUSR, device).during("make device", show(name))
        };
        match &entry.kind {
            Kind::Symlink(target) if target.is_empty() || target.contains(&0) || target.len() > 4095 => {
                return Err(refuse(name, "a symbolic link to no path"));
            }
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), &parent, name).during("symlink", show(name))?;
            }
            Kind::Character(major, minor) => node(FileType::CharacterDevice, makedev(*major, *minor))?,
            Kind::Block(major, minor) => node(FileType::BlockDevice, makedev(*major, *minor))?,
            _ => node(FileType::Fifo, 0)?,
        }
        let link = matches!(entry.kind, Kind::Symlink(_));
        Ok(metadata(&parent, name, entry, link)?)
    }

    fn file(&mut self, parent: &OwnedFd, path: &[u8], entry: &Entry, entries: &mut Entries<'_>) -> Result<(), Error> {
        let name = split(path).1;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        let made = match make() {
            Err(Errno::EXIST) => {
                self.displace(parent, name)?;
                make()
            }
            other => other,
        };
        let mut file = File::from(made.during("create", show(name))?);
        let place = self.without_links(parent, path)?;
        entries.copy_data(&mut file, entry.size, &place)?;
        drop(file);
        self.content += entry.size;
        Ok(metadata(parent, name, entry, false)?)
    }

    /// The path by which a file of this directory is found even when the symbolic links on its way are replaced later.
    fn without_links(&self, parent: &OwnedFd, path: &[u8]) -> Result<Vec<u8>, Error> {
        let real = |fd: &OwnedFd| match rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()) {
            Ok(real) => Ok(real.into_bytes()),
            Err(error) => Err(cannot_enter(path, error)),
        };
        let (root, parent) = (real(&self.root)?, real(parent)?);
        let inside = parent.strip_prefix(root.as_slice()).unwrap_or_default();
        Ok([inside, b"/", split(path).1].concat().split_off(1))
    }

    /// Takes away what is in the way.
    fn displace(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Error> {
        let stat = match tree::stat(parent, name) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.during("stat", show(name))?,
        };
        match tree::file_type(&stat) {
            FileType::Directory => {
                let grave = fs::unique();
                rustix::fs::renameat(parent, name, &self.grave, grave.as_str()).during("move away", show(name))?;
                let mut walk = Walk::new(tree::open_dir(&self.grave, grave.as_bytes()).during("open", show(name))?)?;
                while let Some(step) = walk.next()? {
                    if let Step::Entry { dir, name, stat, .. } = step
                        && tree::file_type(&stat) == FileType::RegularFile
                    {
                        self.keep(&dir, &name, &stat)?;
                    }
                }
            }
            FileType::RegularFile => self.keep(parent, name, &stat)?,
            _ => rustix::fs::unlinkat(parent, name, AtFlags::empty()).during("remove", show(name))?,
        }
        // It may have been a directory, or a link to one, on the way to the remembered parent.
        self.parent = None;
        Ok(())
    }

    fn keep(&self, parent: impl AsFd, name: &[u8], stat: &rustix::fs::Stat) -> Result<(), Error> {
        let inode = stat.st_ino.to_string();
        Ok(rustix::fs::renameat(parent, name, &self.displaced, inode.as_str()).during("move away", show(name))?)
    }
}

/// Makes overlayfs's whiteout.
pub(super) fn make_whiteout(parent: &OwnedFd, name: &[u8]) -> gantry_linux::Result<()> {
    rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0).during("make whiteout", show(name))
}

/// Owner first (it clears capabilities and set-user-id), time last.
fn metadata(parent: &OwnedFd, name: &[u8], entry: &Entry, link: bool) -> gantry_linux::Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(parent, at(name), Some(uid), Some(gid), nofollow).during("chown", show(name))?;
    for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_wanted(key)) {
        tree::set_xattr(parent.as_fd(), name, key, value)?;
    }
    if !link {
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(parent, at(name), mode, AtFlags::empty()).during("chmod", show(name))?;
    }
    let times = tree::times(entry.mtime.0, i64::from(entry.mtime.1));
    rustix::fs::utimensat(parent, at(name), &times, nofollow).during("set times of", show(name))
}

/// Labels of the host's security module (`security.selinux` …) and overlayfs's own are not an image's to set.
pub(crate) fn is_wanted(key: &[u8]) -> bool {
    let known = key == b"security.capability"
        || [&b"user."[..], b"trusted.", b"system.posix_acl_"].iter().any(|prefix| key.starts_with(prefix));
    known && !tree::is_private(key)
}

fn set_time(root: &OwnedFd, path: &[u8], mtime: (i64, u32)) -> Result<(), Error> {
    match open_inside(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        Ok(dir) => {
            let times = tree::times(mtime.0, i64::from(mtime.1));
            Ok(rustix::fs::futimens(dir, &times).during("set times of", show(path))?)
        }
        // A later entry of the archive replaced it.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(error) => Err(error).during("open", show(path)).map_err(Error::from),
    }
}

fn cannot_enter(path: &[u8], error: Errno) -> Error {
    match error {
        Errno::NOTDIR => refuse(path, "a directory above it is none"),
        Errno::LOOP => refuse(path, "symbolic links above it make a loop"),
        Errno::NAMETOOLONG => refuse(path, "the path is too long"),
        Errno::XDEV => refuse(path, "it leads out of the layer"),
        error => gantry_linux::Error::new("open", show(path).to_string(), error).into(),
    }
}
