//! Writing a layer archive: the same tree gives the same bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use gantry_linux::ResultExt;
use gantry_linux::mount::IdMap;
use rustix::fs::{FileType, Mode, OFlags, Stat, openat};
use tar::{EntryType, Header};

use super::name::split;
use super::{OPAQUE, WHITEOUT, pax};
use crate::Error;
use crate::tree::{self, show};

/// What fits in a header's eleven octal digits.
const OCTAL_LIMIT: u64 = 0o77_777_777_777;
/// What fits in seven.
const OCTAL_ID_LIMIT: u32 = 0o7_777_777;

/// Writes entries in the order in which they are given.
pub(crate) struct Writer<'a> {
    pub(crate) output: &'a mut dyn Write,
    /// The first path of each file that has several.
    pub(crate) links: HashMap<(u64, u64), Vec<u8>>,
    /// Owners are told as they are inside.
    owners: Option<&'a IdMap>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(output: &'a mut dyn Write, owners: Option<&'a IdMap>) -> Self {
        Self { output, links: HashMap::new(), owners }
    }

    /// Writes the entry `name` of `dir` as `path`. Sockets have no place in an archive and are left out.
    pub(crate) fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8], stat: &Stat) -> Result<(), Error> {
        let kind = tree::file_type(stat);
        let mut header = Header::new_ustar();
        header.set_mode(stat.st_mode & 0o7777);
        let mut extra = Vec::new();
        if stat.st_nlink > 1 && kind != FileType::Directory {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                header.set_entry_type(EntryType::Link);
                let first = first.clone();
                set_link(&mut header, &mut extra, &first);
                return self.header(header, path, extra, stat, 0);
            }
            self.links.insert(key, path.to_vec());
        }
        for (key, value) in tree::xattrs(dir, name)? {
            pax::write_xattr(&mut extra, &key, &value);
        }
        match kind {
            FileType::RegularFile => {
                header.set_entry_type(EntryType::Regular);
                return self.file(dir, name, path, header, extra, stat);
            }
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                return self.header(header, &[path, b"/"].concat(), extra, stat, 0);
            }
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).during("read link", show(path))?;
                set_link(&mut header, &mut extra, target.as_bytes());
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                header.set_entry_type(if kind == FileType::BlockDevice { EntryType::Block } else { EntryType::Char });
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                header
                    .set_device_major(device.0)
                    .and_then(|()| header.set_device_minor(device.1))
                    .during("write device", show(path))?;
            }
            FileType::Fifo => header.set_entry_type(EntryType::Fifo),
            _ => return Ok(()),
        }
        self.header(header, path, extra, stat, 0)
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        header: Header,
        extra: Vec<u8>,
        stat: &Stat,
    ) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(dir, name, flags, Mode::empty()).during("open", show(path))?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.header(header, path, extra, stat, size)?;
        let copied = std::io::copy(&mut (&file).take(size), &mut self.output).during("archive", show(path))?;
        if copied < size {
            // Somebody truncated it meanwhile: the header is written, so the rest is zeros, as tar does.
            std::io::copy(&mut std::io::repeat(0).take(size - copied), &mut self.output)
                .during("archive", show(path))?;
        }
        self.pad(size)
    }

    /// Hides `name` of `directory` in lower layers.
    pub(crate) fn whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        let (directory, name) = split(path);
        self.marker(directory, &[WHITEOUT, name].concat())
    }

    /// Hides all that lower layers have in `directory`.
    pub(crate) fn opaque(&mut self, directory: &[u8]) -> Result<(), Error> {
        self.marker(directory, OPAQUE)
    }

    fn marker(&mut self, directory: &[u8], name: &[u8]) -> Result<(), Error> {
        let path = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.finish_header(header, &path, Vec::new(), 0)
    }

    pub(crate) fn header(
        &mut self,
        mut header: Header,
        path: &[u8],
        mut extra: Vec<u8>,
        stat: &Stat,
        size: u64,
    ) -> Result<(), Error> {
        let own = (stat.st_uid, stat.st_gid);
        let (uid, gid) = self.owners.map_or(own, |owners| owners.inside(stat.st_uid, stat.st_gid));
        for (key, id) in [(&b"uid"[..], uid), (b"gid", gid)] {
            let fits = id <= OCTAL_ID_LIMIT;
            if !fits {
                pax::write(&mut extra, key, id.to_string().as_bytes());
            }
            let id = u64::from(if fits { id } else { 0 });
            if key == b"uid" { header.set_uid(id) } else { header.set_gid(id) }
        }
        match u64::try_from(stat.st_mtime) {
            Ok(seconds) if seconds <= OCTAL_LIMIT => header.set_mtime(seconds),
            _ => {
                header.set_mtime(0);
                pax::write(&mut extra, b"mtime", stat.st_mtime.to_string().as_bytes());
            }
        }
        self.finish_header(header, path, extra, size)
    }

    fn finish_header(&mut self, mut header: Header, path: &[u8], mut extra: Vec<u8>, size: u64) -> Result<(), Error> {
        if size > OCTAL_LIMIT {
            pax::write(&mut extra, b"size", size.to_string().as_bytes());
        }
        header.set_size(if size > OCTAL_LIMIT { 0 } else { size });
        if path.len() > 100 || !path.is_ascii() {
            pax::write(&mut extra, b"path", path);
        }
        set_name(&mut header, path);
        header.set_cksum();
        if !extra.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            extended.set_mode(0o644);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_mtime(0);
            extended.set_size(extra.len() as u64);
            set_name(&mut extended, b"PaxHeaders.0/entry");
            extended.set_cksum();
            self.bytes(extended.as_bytes())?;
            self.bytes(&extra)?;
            self.pad(extra.len() as u64)?;
        }
        self.bytes(header.as_bytes())
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.output.write_all(&[0; 1024]).during("write", "layer archive")?;
        Ok(self.output.flush().during("write", "layer archive")?)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.output.write_all(bytes).during("write", "layer archive")?)
    }

    pub(crate) fn pad(&mut self, size: u64) -> Result<(), Error> {
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.bytes(&[0; 512][..padding])
    }
}

/// The first hundred bytes of the name; a longer one has its record.
fn set_name(header: &mut Header, path: &[u8]) {
    let old = header.as_old_mut();
    let length = path.len().min(100);
    old.name[..length].copy_from_slice(&path[..length]);
}

pub(crate) fn set_link(header: &mut Header, extra: &mut Vec<u8>, target: &[u8]) {
    if target.len() > 100 || !target.is_ascii() {
        pax::write(extra, b"linkpath", target);
    }
    let length = target.len().min(100);
    header.as_old_mut().linkname[..length].copy_from_slice(&target[..length]);
}
