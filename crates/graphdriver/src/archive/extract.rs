//! Unpacking a layer archive into a draft, by descriptors, with the archive as an enemy.
//!
//! A parent directory is opened with the draft's root as `/` (`RESOLVE_IN_ROOT`): a symbolic link that the archive
//! itself brought is followed there, as Docker does in its chroot, and can lead nowhere else. The last name is never
//! followed: what is in the way of an entry is moved away first. Nobody else writes to a draft.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use gantry_linux::{ResultExt, fs};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;

use super::entry::{BUFFER, Direct, Entries, Entry, Kind};
use super::fill::{self, Filler, Fresh};
use super::name::{clean, refuse, split};
use super::recipe::{DISPLACED, Recorder, Which};
use super::spool::{Later, Spool, replay};
use super::{AUFS, OPAQUE, WHITEOUT};
use crate::Error;
use crate::tree::{self, Step, Walk, at, open_inside, show};
use crate::writeback::FILE;

/// Bytes of a file that somebody else may make.
const SMALL: u64 = 64 << 10;
/// Bytes of a file that is not worth it to hand it over.
const LARGE: u64 = 256 << 10;
/// Names of one directory that are remembered.
const NAMES: usize = 50_000;

/// Unpacks into `draft/diff` and writes down how the archive was made; returns the bytes of file content. `wrote` is told how much
/// was written. [`super::finish`] does what the layers below are needed for.
pub(crate) fn apply(draft: &Path, input: &mut dyn Read, wrote: &(dyn Fn(u64) + Sync)) -> Result<u64, Error> {
    let spool = draft.join("later");
    let root = tree::open_root(&draft.join("diff"))?;
    let displaced = tree::open_root(&draft.join(DISPLACED))?;
    let grave = tree::open_root(&draft.join("grave"))?;
    let later = Spool::append(&spool)?;
    let recorder = Recorder::begin(draft)?;
    let place = place_of(&root, b"")?;
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (root, content) = std::thread::scope(|scope| {
        let filler = Filler::start(scope, wrote);
        let mut extraction = Extraction {
            root,
            place,
            displaced,
            grave,
            later,
            parent: None,
            names: None,
            hasher: RandomState::new(),
            filler,
            own,
            wrote,
            buffer: vec![0; BUFFER],
            content: 0,
        };
        let mut entries = Entries::new(input, recorder);
        let walked = extraction.all(&mut entries);
        let Extraction { root, later, filler, content, .. } = extraction;
        let inodes = walked.and(filler.finish())?;
        know(&mut entries, inodes);
        entries.finish()?;
        later.finish().map(|()| (root, content))
    })?;
    replay(&spool, |later| match later {
        Later::Time { path, mtime } => set_time(&root, &path, mtime),
        _ => Ok(()),
    })?;
    Ok(content)
}

/// Has the recipe say which inodes the files have that were made.
fn know(entries: &mut Entries<'_>, inodes: impl IntoIterator<Item = (u64, u64)>) {
    if let Some(recorder) = entries.recorder() {
        inodes.into_iter().for_each(|(ticket, inode)| recorder.know(ticket, inode));
    }
}

struct Extraction<'a> {
    root: OwnedFd,
    /// Where the root is on this machine.
    place: Vec<u8>,
    /// Where files go that are in the way, by inode: their content is a part of the archive.
    displaced: OwnedFd,
    /// Where directories go that are in the way; they are deleted with the draft's litter.
    grave: OwnedFd,
    later: Spool,
    /// The directory of the last entry: most entries have the one before's.
    parent: Option<(Vec<u8>, Parent)>,
    /// The names in that directory, hashed, if it was new when it became the last one's: no other name is taken.
    names: Option<HashSet<u64>>,
    hasher: RandomState,
    filler: Filler,
    /// Who makes what is made.
    own: (u32, u32),
    /// Is told how much was written.
    wrote: &'a dyn Fn(u64),
    buffer: Vec<u8>,
    content: u64,
}

/// A directory that something is made in.
#[derive(Clone)]
struct Parent {
    fd: Arc<OwnedFd>,
    /// The path by which it is found even when the symbolic links on the way to it are replaced later.
    place: Vec<u8>,
    /// What is made in it belongs to its own group.
    gives_group: bool,
}

impl Extraction<'_> {
    fn all(&mut self, entries: &mut Entries<'_>) -> Result<(), Error> {
        while let Some(entry) = entries.next()? {
            self.entry(entry, entries)?;
            know(entries, self.filler.inodes());
            if entries.recorder().is_some_and(|recorder| recorder.is_full()) {
                self.filler.settle()?;
                know(entries, self.filler.inodes());
            }
        }
        Ok(())
    }

    /// Something is about to be made at a place; a file of that name that is being made must be there before. True where nothing
    /// can be in the way.
    fn take(&mut self, parent: &Parent, name: &[u8]) -> Result<bool, Error> {
        let number = self.hasher.hash_one((&parent.place, name));
        if self.filler.makes(number) {
            self.filler.settle()?;
        }
        if self.names.as_ref().is_some_and(|names| names.len() >= NAMES) {
            self.names = None;
        }
        Ok(self.names.as_mut().is_some_and(|names| names.insert(number)))
    }

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
        if entry.kind == Kind::File && !path.is_empty() {
            return self.file(&path, entry, entries);
        }
        match &entry.kind {
            Kind::Directory => self.directory(&path, &entry),
            _ if path.is_empty() => Err(refuse(b"/", "the root of a layer is a directory")),
            // Overlayfs's own whiteout: it hides what is below in either spelling.
            Kind::Character(0, 0) => self.whiteout(directory, name),
            Kind::Link(target) => self.link(&path, &clean(target)?),
            _ => self.other(&path, &entry),
        }
    }

    /// The directory `path`, made where it is not there.
    fn open_parent(&mut self, path: &[u8]) -> Result<Parent, Error> {
        if let Some((have, parent)) = &self.parent
            && have == path
        {
            return Ok(parent.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match open_inside(&self.root, path, flags) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                // A file that is being made may be on the way.
                self.filler.settle()?;
                self.make_parents(path)?
            }
            Err(error) => return Err(cannot_enter(path, error)),
        };
        let stat = rustix::fs::fstat(&opened).during("stat", show(path))?;
        let place = place_of(&opened, path)?;
        let inside = place.strip_prefix(self.place.as_slice()).unwrap_or_default();
        let place = inside.strip_prefix(b"/").unwrap_or(inside).to_vec();
        let parent = Parent { fd: Arc::new(opened), place, gives_group: stat.st_mode & 0o2000 != 0 };
        self.enter(path, parent.clone(), None)?;
        Ok(parent)
    }

    /// What comes next is in this directory.
    fn enter(&mut self, path: &[u8], parent: Parent, names: Option<HashSet<u64>>) -> Result<(), Error> {
        self.parent = Some((path.to_vec(), parent));
        self.names = names;
        self.filler.turn()
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
        let (opened, place, is_new) = if path.is_empty() {
            (tree::open_dir(&self.root, b"").during("open", "layer")?, Vec::new(), false)
        } else {
            self.make_directory(path)?
        };
        if !is_new {
            tree::clear_implied(&opened)?;
        }
        let made = rustix::fs::fstat(&opened).during("stat", show(path))?;
        if (made.st_uid, made.st_gid) != (entry.uid, entry.gid) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(&opened, Some(uid), Some(gid)).during("chown", show(path))?;
        }
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_wanted(key)) {
            tree::set_xattr(opened.as_fd(), b"", key, value)?;
        }
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(entry.mode)).during("chmod", show(path))?;
        self.later.push(&Later::Time { path: path.to_vec(), mtime: entry.mtime })?;
        // What comes next is mostly in it.
        let gives_group = entry.mode & 0o2000 != 0;
        let parent = Parent { fd: Arc::new(opened), place, gives_group };
        self.enter(path, parent, is_new.then(HashSet::new))
    }

    /// The directory, its place, and whether it was not there before.
    fn make_directory(&mut self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>, bool), Error> {
        let (above, name) = split(path);
        let parent = self.open_parent(above)?;
        self.take(&parent, name)?;
        let make = || rustix::fs::mkdirat(&parent.fd, name, Mode::RWXU);
        let (mut is_new, mut was_whiteout) = (true, false);
        match make() {
            Err(Errno::EXIST) => {
                let stat = tree::stat(&parent.fd, name).during("stat", show(path))?;
                is_new = !tree::is_dir(&stat);
                if is_new {
                    was_whiteout = tree::is_whiteout(&stat);
                    self.displace(&parent.fd, name)?;
                    make().during("make directory", show(path))?;
                }
            }
            other => other.during("make directory", show(path))?,
        }
        let opened = tree::open_dir(&parent.fd, name).during("open", show(path))?;
        if was_whiteout {
            tree::set_opaque(&opened)?;
        }
        Ok((opened, join(&parent.place, name), is_new))
    }

    fn opaque(&mut self, directory: &[u8]) -> Result<(), Error> {
        let parent = self.open_parent(directory)?.fd;
        let opened = tree::open_dir(&parent, b"").during("open", show(directory))?;
        Ok(tree::set_opaque(opened)?)
    }

    /// Hides what lower layers have by this name. What this archive itself has there stays.
    fn whiteout(&mut self, directory: &[u8], name: &[u8]) -> Result<(), Error> {
        let parent = self.open_parent(directory)?;
        self.take(&parent, name)?;
        let parent = parent.fd;
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
        self.take(&parent, name)?;
        // The target may be a file that is being made.
        self.filler.settle()?;
        let parent = parent.fd;
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

    /// What is neither a file nor a directory nor a hard link.
    fn other(&mut self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        let (directory, name) = split(path);
        let parent = self.open_parent(directory)?;
        self.take(&parent, name)?;
        if let Kind::Symlink(target) = &entry.kind {
            return self.symlink(&parent, name, target, entry);
        }
        let parent = parent.fd;
        self.displace(&parent, name)?;
        let node = |kind, device| {
            rustix::fs::mknodat(&parent, name, kind, Mode::RUSR, device).during("make device", show(name))
        };
        match &entry.kind {
            Kind::Character(major, minor) => node(FileType::CharacterDevice, makedev(*major, *minor))?,
            Kind::Block(major, minor) => node(FileType::BlockDevice, makedev(*major, *minor))?,
            _ => node(FileType::Fifo, 0)?,
        }
        Ok(metadata(&parent, name, entry, true)?)
    }

    fn symlink(&mut self, parent: &Parent, name: &[u8], target: &[u8], entry: &Entry) -> Result<(), Error> {
        if target.is_empty() || target.contains(&0) || target.len() > 4095 {
            return Err(refuse(name, "a symbolic link to no path"));
        }
        let make = || rustix::fs::symlinkat(target, &parent.fd, name);
        let made = match make() {
            Err(Errno::EXIST) => {
                self.displace(&parent.fd, name)?;
                make()
            }
            other => other,
        };
        made.during("symlink", show(name))?;
        let is_right = (entry.uid, entry.gid) == self.own && !parent.gives_group;
        if !is_right || !entry.xattrs.is_empty() {
            return Ok(metadata(&parent.fd, name, entry, false)?);
        }
        let times = tree::times(entry.mtime.0, i64::from(entry.mtime.1));
        Ok(rustix::fs::utimensat(&parent.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .during("set times of", show(name))?)
    }

    /// A small file of a new name is for the [`Filler`] to make. Of others only the rest is, and of large ones nothing: nobody is
    /// woken for them.
    fn file(&mut self, path: &[u8], entry: Entry, entries: &mut Entries<'_>) -> Result<(), Error> {
        let (directory, name) = split(path);
        let parent = self.open_parent(directory)?;
        let place = join(&parent.place, name);
        self.content += entry.size;
        if self.take(&parent, name)? && entry.size <= SMALL && !entries.is_sparse() {
            let number = self.hasher.hash_one((&parent.place, name));
            let (ticket, mut target) = self.filler.make(&parent.fd, name, number, entry.size)?;
            entries.copy_data(&mut target, Which::Ticket(ticket), &place)?;
            return self.filler.end_made(entry);
        }
        let file = match create(&parent.fd, name, entry.mode) {
            Err(Errno::EXIST) => {
                self.displace(&parent.fd, name)?;
                create(&parent.fd, name, entry.mode)
            }
            other => other,
        };
        let file = file.during("create", show(name))?;
        let fresh = Fresh::of(&file).during("stat", show(name))?;
        let which = Which::Inode(fresh.inode);
        if entry.size > LARGE {
            let mut target = Direct::new(&file, &mut self.buffer, self.wrote);
            let sparse = entries.copy_data(&mut target, which, &place)?;
            (self.wrote)(FILE);
            return fill::finish(&file, &entry, fresh, sparse);
        }
        let file = Arc::new(file);
        let mut target = self.filler.file(&file);
        let sparse = entries.copy_data(&mut target, which, &place)?;
        self.filler.end(file, entry, fresh, sparse)
    }

    /// Takes away what is in the way.
    fn displace(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Error> {
        self.filler.settle()?;
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
        (self.parent, self.names) = (None, None);
        Ok(())
    }

    fn keep(&self, parent: impl AsFd, name: &[u8], stat: &rustix::fs::Stat) -> Result<(), Error> {
        let inode = stat.st_ino.to_string();
        let moved = rustix::fs::renameat_with(
            &parent,
            name,
            &self.displaced,
            inode.as_str(),
            rustix::fs::RenameFlags::NOREPLACE,
        );
        match moved {
            // Another name of the same file is kept already.
            Err(Errno::EXIST) => {
                Ok(rustix::fs::unlinkat(&parent, name, AtFlags::empty()).during("remove", show(name))?)
            }
            other => Ok(other.during("move away", show(name))?),
        }
    }
}

/// Makes a file that is not there.
pub(super) fn create(parent: &OwnedFd, name: &[u8], mode: u32) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Nobody can reach a draft: the mode may be the last one at once.
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode & 0o777)).map(File::from)
}

/// A name in a directory.
fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Where a directory is on this machine.
fn place_of(directory: &OwnedFd, path: &[u8]) -> Result<Vec<u8>, Error> {
    let place = rustix::fs::readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new());
    place.map(CString::into_bytes).map_err(|error| cannot_enter(path, error))
}

/// Makes overlayfs's whiteout.
pub(super) fn make_whiteout(parent: &OwnedFd, name: &[u8]) -> gantry_linux::Result<()> {
    rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0).during("make whiteout", show(name))
}

/// Owner first (it clears capabilities and set-user-id), time last.
fn metadata(parent: &OwnedFd, name: &[u8], entry: &Entry, has_mode: bool) -> gantry_linux::Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(parent, at(name), Some(uid), Some(gid), nofollow).during("chown", show(name))?;
    for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_wanted(key)) {
        tree::set_xattr(parent.as_fd(), name, key, value)?;
    }
    if has_mode {
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
