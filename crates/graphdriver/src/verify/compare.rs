//! One entry of an archive against what is on the disk, and two directories against each other: the first difference, in words.

use std::os::fd::BorrowedFd;

use gantry_linux::{Result, ResultExt};
use rustix::fs::{FileType, Stat, major, minor};

use crate::archive::entry::{Entry, Kind};
use crate::archive::is_wanted;
use crate::tree::{self, at, show};

/// File capabilities of the third version that name root have the second's form when they are read.
const CAPABILITIES: &[u8] = b"security.capability";
const CAPABILITIES_2: usize = 20;

/// What matters of how a path came to be what it is.
#[derive(Clone, Copy)]
pub(super) struct Past {
    /// Another entry described it before.
    pub is_again: bool,
    /// The file system has attributes of users.
    pub takes_users: bool,
}

/// What of an entry is not so at `name` of `dir`.
pub(super) fn entry(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    entry: &Entry,
    past: Past,
) -> Result<Option<String>> {
    let kind = tree::file_type(stat);
    let wanted = match entry.kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::Character(..) => FileType::CharacterDevice,
        Kind::Block(..) => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        // It is what its target is.
        Kind::Link(_) => kind,
    };
    if kind != wanted {
        return Ok(Some(format!("is {}, not {}", word(kind), word(wanted))));
    }
    match &entry.kind {
        Kind::Symlink(target) => {
            let found = rustix::fs::readlinkat(dir, at(name), Vec::new()).during("read link", show(name))?;
            if found.as_bytes() != target.as_slice() {
                return Ok(Some(format!("leads to {}, not to {}", show(found.as_bytes()), show(target))));
            }
        }
        Kind::Character(wanted_major, wanted_minor) | Kind::Block(wanted_major, wanted_minor) => {
            let found = (major(stat.st_rdev), minor(stat.st_rdev));
            if found != (*wanted_major, *wanted_minor) {
                return Ok(Some(format!("is the device {}:{}, not {wanted_major}:{wanted_minor}", found.0, found.1)));
            }
        }
        Kind::File if u64::try_from(stat.st_size).ok() != Some(entry.size) => {
            return Ok(Some(format!("has {} bytes, not {}", stat.st_size, entry.size)));
        }
        _ => {}
    }
    if let Some(text) = metadata(stat, (entry.mode, entry.uid, entry.gid)) {
        return Ok(Some(text));
    }
    let found = attributes(tree::xattrs(dir, at(name))?);
    let mut wanted: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (key, value) in &entry.xattrs {
        wanted.retain(|(known, _)| known != key);
        wanted.push((key.clone(), value.clone()));
    }
    // Links and devices have none of users.
    let takes_users = past.takes_users && matches!(kind, FileType::RegularFile | FileType::Directory);
    Ok(differ(&attributes(wanted), &found, takes_users, past.is_again && kind == FileType::Directory))
}

/// What of a directory is not as in another that it was made after.
pub(super) fn directories(
    (wanted, before): (BorrowedFd<'_>, &Stat),
    (found, stat): (BorrowedFd<'_>, &Stat),
) -> Result<Option<String>> {
    if let Some(text) = metadata(stat, (before.st_mode & 0o7777, before.st_uid, before.st_gid)) {
        return Ok(Some(text));
    }
    let (wanted, found) = (tree::xattrs(wanted, b"")?, tree::xattrs(found, b"")?);
    Ok(differ(&attributes(wanted), &attributes(found), true, false))
}

fn metadata(stat: &Stat, (mode, uid, gid): (u32, u32, u32)) -> Option<String> {
    let found = stat.st_mode & 0o7777;
    if found != mode & 0o7777 && tree::file_type(stat) != FileType::Symlink {
        return Some(format!("has mode {found:04o}, not {:04o}", mode & 0o7777));
    }
    let owner = (stat.st_uid, stat.st_gid);
    (owner != (uid, gid)).then(|| format!("belongs to {}:{}, not to {uid}:{gid}", owner.0, owner.1))
}

/// Those that an archive can say and the kernel gives back as they were set: an access list changes with the mode.
fn attributes(all: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let counts = |key: &[u8], value: &[u8]| {
        is_wanted(key) && !key.starts_with(b"system.posix_acl_") && !(key == CAPABILITIES && value.is_empty())
    };
    all.into_iter().filter(|(key, value)| counts(key, value)).collect()
}

/// Attributes of users are missed only where there can be some.
fn differ(
    wanted: &[(Vec<u8>, Vec<u8>)],
    found: &[(Vec<u8>, Vec<u8>)],
    takes_users: bool,
    may_have_more: bool,
) -> Option<String> {
    let value = |list: &[(Vec<u8>, Vec<u8>)], key: &[u8]| {
        list.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    };
    for (key, wanted) in wanted {
        let same = |found: &Vec<u8>| {
            found == wanted || (key == CAPABILITIES && found.len() == CAPABILITIES_2 && wanted.len() > CAPABILITIES_2)
        };
        match value(found, key) {
            Some(found) if same(&found) => {}
            Some(_) => return Some(format!("has another value of the attribute {}", show(key))),
            None if key.starts_with(b"user.") && !takes_users => {}
            None => return Some(format!("lacks the attribute {}", show(key))),
        }
    }
    let mut more = found.iter().filter(|(key, _)| value(wanted, key).is_none() && !may_have_more);
    more.next().map(|(key, _)| format!("has the attribute {}, which is not its own", show(key)))
}

const fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a pipe",
        _ => "something else",
    }
}
