//! From a root to a tar stream. Each entry is opened once without being followed, and everything that is said of it is
//! read from that descriptor; a directory's entries are opened relative to the directory. Nothing is ever looked up twice.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_linux::ResultExt;
use gantry_linux::mount::IdMap;
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fstat, major, minor, openat, readlinkat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::path::normal;
use super::{Error, is_kernels, open, proc_path, reopen};
use crate::archive::Writer;
use crate::archive::pax::write_xattr;
use crate::archive::write::set_link;
use crate::tree::{self, show};

/// The longest path in an archive.
const PATH_LIMIT: usize = 4096;

/// Writes the file or tree at `path` as an archive in which it is called `name`: `.` gives a directory's content, `/` is
/// for the root itself. With `owners` files belong to who has them inside of that mapping.
///
/// # Errors
/// [`Error::NotFound`] when nothing is there; the stream's own errors.
pub fn pack(
    root: BorrowedFd<'_>,
    path: &[u8],
    name: &[u8],
    output: &mut dyn Write,
    owners: Option<&IdMap>,
) -> Result<(), Error> {
    let path = normal(path);
    let start = open(root, &path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = fstat(&start).during("stat", show(&path))?;
    let kernels = is_kernels(&start)?;
    if kernels && !tree::is_dir(&stat) {
        return Err(Error::NotFound(show(&path).to_string()));
    }
    let mut packer = Packer { writer: Writer::new(output, owners), levels: Vec::new() };
    let name = name.strip_suffix(b"/").unwrap_or(name);
    packer.entry(&start, name, &stat)?;
    if tree::is_dir(&stat) && !kernels {
        packer.enter(&start, [name, b"/"].concat(), &stat)?;
    }
    packer.walk()
}

/// Writes everything in the root as an archive; the root itself is not in it.
///
/// # Errors
/// The kernel's and the stream's.
pub fn pack_root(root: BorrowedFd<'_>, output: &mut dyn Write, owners: Option<&IdMap>) -> Result<(), Error> {
    let stat = fstat(root).during("stat", "/")?;
    let mut packer = Packer { writer: Writer::new(output, owners), levels: Vec::new() };
    packer.enter(root, Vec::new(), &stat)?;
    packer.walk()
}

struct Packer<'a> {
    writer: Writer<'a>,
    levels: Vec<Level>,
}

/// A directory whose entries are being written.
struct Level {
    dir: OwnedFd,
    device: u64,
    names: std::vec::IntoIter<Vec<u8>>,
    /// What comes before a name in the archive.
    prefix: Vec<u8>,
}

impl Packer<'_> {
    fn walk(mut self) -> Result<(), Error> {
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let path = [level.prefix.as_slice(), &name].concat();
            if path.len() > PATH_LIMIT {
                return Err(Error::Unreachable(format!("{}: file name too long", show(&path[..80]))));
            }
            let entry =
                match openat(&level.dir, &*name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                    Ok(entry) => entry,
                    // Removed since the directory was listed.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error).during("open", show(&path)).map_err(Error::from),
                };
            let stat = fstat(&entry).during("stat", show(&path))?;
            let crossed = stat.st_dev != level.device;
            if crossed && !tree::is_dir(&stat) && is_kernels(&entry)? {
                continue;
            }
            self.entry(&entry, &path, &stat)?;
            if tree::is_dir(&stat) && !(crossed && is_kernels(&entry)?) {
                self.enter(&entry, [path.as_slice(), b"/"].concat(), &stat)?;
            }
        }
        Ok(self.writer.finish()?)
    }

    fn enter(&mut self, dir: impl AsFd, prefix: Vec<u8>, stat: &Stat) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(dir, ".", flags, Mode::empty()).during("open", show(&prefix))?;
        let names = names(&dir).during("list", show(&prefix))?.into_iter();
        self.levels.push(Level { dir, device: stat.st_dev, names, prefix });
        Ok(())
    }

    /// Writes one entry; `entry` is an `O_PATH` descriptor of it. Sockets have no place in an archive.
    fn entry(&mut self, entry: &OwnedFd, path: &[u8], stat: &Stat) -> Result<(), Error> {
        let kind = tree::file_type(stat);
        let mut header = Header::new_ustar();
        header.set_mode(stat.st_mode & 0o7777);
        let mut extra = Vec::new();
        if stat.st_nlink > 1 && !matches!(kind, FileType::Directory | FileType::Socket) {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.writer.links.get(&key) {
                header.set_entry_type(EntryType::Link);
                set_link(&mut header, &mut extra, first);
                return Ok(self.writer.header(header, path, extra, stat, 0)?);
            }
            self.writer.links.insert(key, path.to_vec());
        }
        for (key, value) in xattrs(entry, path)? {
            write_xattr(&mut extra, &key, &value);
        }
        match kind {
            FileType::RegularFile => {
                header.set_entry_type(EntryType::Regular);
                return self.file(entry, path, header, extra, stat);
            }
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                return Ok(self.writer.header(header, &[path, b"/"].concat(), extra, stat, 0)?);
            }
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = readlinkat(entry, c"", Vec::new()).during("read link", show(path))?;
                set_link(&mut header, &mut extra, target.as_bytes());
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                header.set_entry_type(if kind == FileType::BlockDevice { EntryType::Block } else { EntryType::Char });
                header
                    .set_device_major(major(stat.st_rdev))
                    .and_then(|()| header.set_device_minor(minor(stat.st_rdev)))
                    .during("write device", show(path))?;
            }
            FileType::Fifo => header.set_entry_type(EntryType::Fifo),
            _ => return Ok(()),
        }
        Ok(self.writer.header(header, path, extra, stat, 0)?)
    }

    fn file(&mut self, entry: &OwnedFd, path: &[u8], header: Header, extra: Vec<u8>, stat: &Stat) -> Result<(), Error> {
        let file = File::from(reopen(entry, OFlags::RDONLY).during("open", show(path))?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.writer.header(header, path, extra, stat, size)?;
        let output = &mut self.writer.output;
        let copied = std::io::copy(&mut file.take(size), output).during("archive", show(path))?;
        // Somebody truncated it meanwhile: the header is written, so the rest is zeros, as tar does.
        std::io::copy(&mut std::io::repeat(0).take(size - copied), output).during("archive", show(path))?;
        Ok(self.writer.pad(size)?)
    }
}

fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Name and value of an extended attribute.
type Attribute = (Vec<u8>, Vec<u8>);

/// The extended attributes that are an image's to have.
fn xattrs(entry: &OwnedFd, path: &[u8]) -> Result<Vec<Attribute>, Error> {
    let own = proc_path(entry);
    let mut list = vec![0_u8; 64 << 10];
    let length = match rustix::fs::listxattr(own.as_str(), list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error).during("list extended attributes of", show(path)).map_err(Error::from),
    };
    let mut found = Vec::new();
    for key in list[..length].split(|byte| *byte == 0).filter(|key| crate::archive::is_wanted(key)) {
        let mut value = vec![0_u8; 64 << 10];
        match rustix::fs::getxattr(own.as_str(), key, value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            // Removed since they were listed.
            Err(Errno::NODATA) => continue,
            // Empty ones: the kernel takes them and never gives them back.
            Err(Errno::INVAL) if key == b"security.capability" => continue,
            Err(error) => return Err(error).during("read extended attribute of", show(path)).map_err(Error::from),
        }
        found.push((key.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}
