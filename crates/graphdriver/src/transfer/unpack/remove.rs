//! Removing what is in the way of an entry, by descriptors, without leaving the file system that it is on.

use std::os::fd::OwnedFd;

use gantry_linux::ResultExt;
use rustix::fs::{AtFlags, fstat, unlinkat};
use rustix::io::Errno;

use super::Error;
use crate::tree::{names, open_dir, show};

/// Removes a name that is no directory; one that is gone is fine.
pub(super) fn file(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Error> {
    match unlinkat(parent, name, AtFlags::empty()) {
        // It has become a directory: the caller looks again.
        Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
        Err(error) => Err(error).during("remove", show(path)).map_err(Error::from),
    }
}

/// Removes a directory with everything in it. What is mounted below it is not touched, and then neither is it.
pub(super) fn tree(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Error> {
    let device = fstat(parent).during("stat", show(path))?.st_dev;
    let mut levels: Vec<(OwnedFd, std::vec::IntoIter<Vec<u8>>, Vec<u8>)> = Vec::new();
    let mut next = Some(name.to_vec());
    loop {
        let above = levels.last().map_or(parent, |(dir, _, _)| dir);
        if let Some(name) = next.take() {
            match open_dir(above, &name) {
                Ok(dir) if fstat(&dir).during("stat", show(path))?.st_dev != device => {
                    return Err(Error::InTheWay(format!("{}: something is mounted there", show(path))));
                }
                Ok(dir) => {
                    let names = names(&dir).during("list", show(path))?.into_iter();
                    levels.push((dir, names, name));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => file(above, &name, path)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).during("open", show(path)).map_err(Error::from),
            }
        }
        let Some((dir, rest, _)) = levels.last_mut() else { return Ok(()) };
        if let Some(name) = rest.next() {
            match unlinkat(&*dir, name.as_slice(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => next = Some(name),
                Err(error) => return Err(error).during("remove", show(path)).map_err(Error::from),
            }
            continue;
        }
        let Some((_, _, name)) = levels.pop() else { return Ok(()) };
        let above = levels.last().map_or(parent, |(dir, _, _)| dir);
        match unlinkat(above, name.as_slice(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Somebody swapped or refilled it: the caller looks again, a few times.
            Err(Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) if levels.is_empty() => {}
            Err(Errno::BUSY) => return Err(Error::InTheWay(format!("{}: something is mounted there", show(path)))),
            Err(error) => return Err(error).during("remove", show(path)).map_err(Error::from),
        }
    }
}
