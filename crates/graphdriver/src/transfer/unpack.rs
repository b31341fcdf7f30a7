//! From a tar stream into a directory of a root that others may be changing. The parent of each entry is resolved anew
//! inside the root, the last name is never followed, and a new file gets its owner and mode through its descriptor.

mod remove;

use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};

use gantry_linux::mount::IdMap;
use gantry_linux::{Result as Kernel, ResultExt};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, StatVfsMountFlags, Uid, XattrFlags, makedev, openat};
use rustix::io::Errno;

use super::path::normal;
use super::{Error, is_kernels, open, proc_path};
use crate::archive::entry::{BUFFER, Direct, Entries, Entry, Kind};
use crate::archive::name::clean;
use crate::archive::recipe::Which;
use crate::archive::{is_wanted, split};
use crate::tree::{self, show};

/// How often a name is cleared for a new entry while somebody keeps taking it.
const ATTEMPTS: usize = 16;

/// How to unpack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// Refuse to replace a directory by something else, and something else by a directory.
    pub no_overwrite_dir_non_dir: bool,
    /// Everything gets this user and group instead of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// Owners are those inside of this mapping; who unpacks makes files as its root ([`gantry_linux::fsids`]).
    pub owners: Option<&'a IdMap>,
}

/// Unpacks an uncompressed archive into the directory at `directory` (links are followed, inside the root); returns the
/// bytes of file content. Names that begin with `.wh.` are names like any other.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotDirectory`] and [`Error::ReadOnly`] before anything was read; what is wrong with the
/// archive; the kernel's errors. Entries before the one that failed stay.
pub fn unpack(
    root: BorrowedFd<'_>,
    directory: &[u8],
    input: &mut dyn Read,
    options: Options<'_>,
) -> Result<u64, Error> {
    let directory = normal(directory);
    let base = open(root, &directory, OFlags::PATH)?;
    if !tree::is_dir(&rustix::fs::fstat(&base).during("stat", show(&directory))?) {
        return Err(Error::NotDirectory(show(&directory).to_string()));
    }
    if is_kernels(&base)? {
        return Err(Error::NotFound(show(&directory).to_string()));
    }
    let statvfs = rustix::fs::fstatvfs(&base).during("look at", show(&directory))?;
    if statvfs.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Error::ReadOnly(show(&directory).to_string()));
    }
    let mut unpacking = Unpacking { root, directory, options, open: Vec::new(), content: 0 };
    let mut entries = Entries::new(input, None);
    while let Some(entry) = entries.next()? {
        unpacking.entry(&entry, &mut entries)?;
    }
    unpacking.leave_to(b"")?;
    Ok(unpacking.content)
}

struct Unpacking<'a> {
    root: BorrowedFd<'a>,
    directory: Vec<u8>,
    options: Options<'a>,
    /// Directories that the archive described and is still inside of, with the times that they get when it leaves.
    open: Vec<(Vec<u8>, (i64, u32))>,
    content: u64,
}

impl Unpacking<'_> {
    fn entry(&mut self, entry: &Entry, entries: &mut Entries<'_>) -> Result<(), Error> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            // The directory itself: it is there, and stays as it is.
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(Error::Archive("an entry without a name".to_owned())),
            };
        }
        self.leave_to(&path)?;
        let (above, name) = split(&path);
        let parent = self.parent(above)?;
        if let Kind::Directory = entry.kind {
            return self.directory(&parent, name, path.clone(), entry);
        }
        if let Kind::Link(target) = &entry.kind {
            return self.link(&parent, name, &path, &clean(target)?);
        }
        let made = self.claim(&parent, name, &path, || self.make(&parent, name, entry))?;
        if entry.kind == Kind::File {
            let file = File::from(made.try_clone().during("duplicate", "descriptor")?);
            let mut buffer = vec![0; usize::try_from(entry.size).unwrap_or(usize::MAX).clamp(1, BUFFER)];
            if entries.copy_data(&mut Direct::new(&file, &mut buffer, &|_| {}), Which::Inode(0), &path)? {
                file.set_len(entry.size).during("set size", show(&path))?;
            }
            self.content += entry.size;
        }
        Ok(self.metadata(&made, &path, entry, true)?)
    }

    /// The path of an entry in the root.
    fn inside(&self, path: &[u8]) -> Vec<u8> {
        [self.directory.as_slice(), b"/", path].concat()
    }

    /// The directory `path` of the archive, made where it is not there.
    fn parent(&self, path: &[u8]) -> Result<OwnedFd, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open(self.root, &self.inside(path), flags) {
            Err(Error::NotFound(_)) if !path.is_empty() => {}
            other => return Self::writable(other?, path),
        }
        let mut above = open(self.root, &self.directory, flags)?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            above = match open(self.root, &self.inside(prefix), flags) {
                Err(Error::NotFound(_)) => {
                    let above = Self::writable(above, prefix)?;
                    match rustix::fs::mkdirat(&above, split(prefix).1, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error).during("make directory", show(prefix)).map_err(Error::from),
                    }
                    open(self.root, &self.inside(prefix), flags)?
                }
                other => other?,
            };
        }
        Self::writable(above, path)
    }

    fn writable(dir: OwnedFd, path: &[u8]) -> Result<OwnedFd, Error> {
        if is_kernels(&dir)? {
            return Err(Error::NotFound(show(path).to_string()));
        }
        Ok(dir)
    }

    /// Clears `name` and has `make` make it anew.
    fn claim<T>(&self, parent: &OwnedFd, name: &[u8], path: &[u8], make: impl Fn() -> Kernel<T>) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            match tree::stat(parent, name) {
                Ok(stat) if tree::is_dir(&stat) => {
                    if self.options.no_overwrite_dir_non_dir {
                        return Err(Error::InTheWay(format!(
                            "cannot overwrite directory {:?} with non-directory {:?}",
                            show(&self.inside(path)).to_string(),
                            show(&self.directory).to_string()
                        )));
                    }
                    remove::tree(parent, name, path)?;
                }
                Ok(_) => remove::file(parent, name, path)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).during("stat", show(path)).map_err(Error::from),
            }
            match make() {
                Err(error) if error.errno() == Errno::EXIST.raw_os_error() => {}
                other => return Ok(other?),
            }
        }
        Err(Error::InTheWay(format!("{}: somebody else keeps making it", show(path))))
    }

    /// Makes a file, link, device or fifo; returns a descriptor of just that.
    fn make(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Kernel<OwnedFd> {
        let node = |kind, device| {
            rustix::fs::mknodat(parent, name, kind, Mode::RUSR, device).during("make device", show(name))
        };
        let kind = match &entry.kind {
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), parent, name).during("symlink", show(name))?;
                FileType::Symlink
            }
            Kind::Character(major, minor) => {
                node(FileType::CharacterDevice, makedev(*major, *minor))?;
                FileType::CharacterDevice
            }
            Kind::Block(major, minor) => {
                node(FileType::BlockDevice, makedev(*major, *minor))?;
                FileType::BlockDevice
            }
            Kind::Fifo => {
                node(FileType::Fifo, 0)?;
                FileType::Fifo
            }
            Kind::File | Kind::Directory | Kind::Link(_) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return openat(parent, name, flags, Mode::RUSR | Mode::WUSR).during("create", show(name));
            }
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(parent, name, flags, Mode::empty()).during("open", show(name))?;
        let stat = rustix::fs::fstat(&made).during("stat", show(name))?;
        if tree::file_type(&stat) != kind {
            // Somebody put something else there at once: that must not get this entry's owner and mode.
            return Err(Errno::EXIST).during("make", show(name));
        }
        Ok(made)
    }

    fn directory(&mut self, parent: &OwnedFd, name: &[u8], path: Vec<u8>, entry: &Entry) -> Result<(), Error> {
        let opened = match tree::open_dir(parent, name) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => Self::make_directory(parent, name)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                if self.options.no_overwrite_dir_non_dir {
                    return Err(Error::InTheWay(format!(
                        "cannot overwrite non-directory {:?} with directory {:?}",
                        show(&self.inside(&path)).to_string(),
                        show(&self.directory).to_string()
                    )));
                }
                self.claim(parent, name, &path, || Self::make_directory(parent, name))?
            }
            Err(error) => return Err(error).during("open", show(&path)).map_err(Error::from),
        };
        if is_kernels(&opened)? {
            return Ok(());
        }
        self.metadata(&opened, &path, entry, false)?;
        self.open.push((path, entry.mtime));
        Ok(())
    }

    fn make_directory(parent: &OwnedFd, name: &[u8]) -> Kernel<OwnedFd> {
        rustix::fs::mkdirat(parent, name, Mode::RWXU).during("make directory", show(name))?;
        tree::open_dir(parent, name).during("open", show(name))
    }

    fn link(&self, parent: &OwnedFd, name: &[u8], path: &[u8], target: &[u8]) -> Result<(), Error> {
        let (above, target_name) = split(target);
        if target.is_empty() {
            return Err(Error::Archive(format!("entry {}: a hard link to a directory", show(path))));
        }
        let source = open(self.root, &self.inside(above), OFlags::PATH | OFlags::DIRECTORY)?;
        let found = tree::stat(&source, target_name).map_err(|error| super::unreachable(target, error))?;
        if tree::stat(parent, name).is_ok_and(|own| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)) {
            return Ok(());
        }
        self.claim(parent, name, path, || {
            rustix::fs::linkat(&source, target_name, parent, name, AtFlags::empty()).during("link", show(path))
        })
    }

    /// Owner first (it clears capabilities and set-user-id), time last.
    fn metadata(&self, made: &OwnedFd, path: &[u8], entry: &Entry, time: bool) -> Kernel<()> {
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        let (uid, gid) = match self.options.owners {
            Some(owners) => owners.outside(uid, gid).ok_or(Errno::OVERFLOW).during(
                "give",
                format_args!(
                    "{} to user {uid} and group {gid}, which the container's mapping does not have",
                    show(path)
                ),
            )?,
            None => (uid, gid),
        };
        let own = proc_path(made);
        rustix::fs::chownat(made, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
            .during("chown", show(path))?;
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| is_wanted(key)) {
            match rustix::fs::setxattr(own.as_str(), key.as_slice(), value, XattrFlags::empty()) {
                // A nicety that not every file system, link or device takes.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                other => other.during("set extended attribute of", show(path))?,
            }
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(CWD, own.as_str(), mode, AtFlags::empty()).during("chmod", show(path))?;
        }
        if time {
            let times = tree::times(entry.mtime.0, i64::from(entry.mtime.1));
            rustix::fs::utimensat(CWD, own.as_str(), &times, AtFlags::empty()).during("set times of", show(path))?;
        }
        Ok(())
    }

    /// Sets the times of the directories that the archive has left, now that nothing more is made in them.
    fn leave_to(&mut self, path: &[u8]) -> Result<(), Error> {
        let is_above = |dir: &[u8]| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"));
        while let Some((left, mtime)) = self.open.pop_if(|(dir, _)| !is_above(dir)) {
            // Whoever lives here may have removed it.
            let Ok(dir) = open(self.root, &self.inside(&left), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
            else {
                continue;
            };
            if !is_kernels(&dir)? {
                let times = tree::times(mtime.0, i64::from(mtime.1));
                rustix::fs::futimens(&dir, &times).during("set times of", show(&left))?;
            }
        }
        Ok(())
    }
}
