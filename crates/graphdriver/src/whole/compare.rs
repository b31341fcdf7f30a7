//! What a tree changes relative to another.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_linux::ResultExt;
use rustix::fs::{FileType, Stat};

use crate::archive::split;
use crate::tree::{self, Step, Walk, show};
use crate::{ChangeKind, Error};

/// Changes by path, sorted. Two files count as the same when kind, owner, mode, size, time and extended attributes are;
/// a directory in which something changed counts as modified.
pub(crate) fn compare(old: Option<&Path>, new: &Path) -> Result<Vec<(Vec<u8>, ChangeKind)>, Error> {
    let mut changes = Changes::default();
    let new = tree::open_root(new)?;
    let old = old.map(tree::open_root).transpose()?;
    changes.deleted(old.as_ref(), &new, b"")?;
    // The old directory beside each new one on the way down, where there is one.
    let mut stack = vec![old];
    let mut walk = Walk::new(new)?;
    while let Some(step) = walk.next()? {
        let Step::Entry { dir, name, path, stat } = step else {
            stack.pop();
            continue;
        };
        let above = stack.last().and_then(Option::as_ref);
        let before = above.and_then(|above| tree::stat(above, &name).ok().map(|stat| (above, stat)));
        match &before {
            None => changes.add(&path, ChangeKind::Added),
            Some((above, before)) => {
                if !same((above.as_fd(), before), (dir.as_fd(), &stat), &name)? {
                    changes.add(&path, ChangeKind::Modified);
                }
            }
        }
        if tree::is_dir(&stat) {
            let below = before.and_then(|(above, _)| tree::open_dir(above, &name).ok());
            let own = tree::open_dir(&dir, &name).during("open", show(&path))?;
            changes.deleted(below.as_ref(), &own, &path)?;
            stack.push(below);
        }
    }
    Ok(changes.0.into_iter().collect())
}

#[derive(Default)]
struct Changes(BTreeMap<Vec<u8>, ChangeKind>);

impl Changes {
    fn add(&mut self, path: &[u8], kind: ChangeKind) {
        self.0.insert(path.to_vec(), kind);
        let mut above = split(path).0;
        while !above.is_empty() && !self.0.contains_key(above) {
            self.0.insert(above.to_vec(), ChangeKind::Modified);
            above = split(above).0;
        }
    }

    fn deleted(&mut self, old: Option<&OwnedFd>, new: &OwnedFd, path: &[u8]) -> Result<(), Error> {
        let Some(old) = old else { return Ok(()) };
        for name in tree::names(old).during("list", show(path))? {
            if tree::stat(new, &name).is_err() {
                let gone = if path.is_empty() { name } else { [path, b"/", name.as_slice()].concat() };
                self.add(&gone, ChangeKind::Deleted);
            }
        }
        Ok(())
    }
}

fn same(old: (BorrowedFd<'_>, &Stat), new: (BorrowedFd<'_>, &Stat), name: &[u8]) -> Result<bool, Error> {
    let (before, after) = (old.1, new.1);
    if (before.st_mode, before.st_uid, before.st_gid) != (after.st_mode, after.st_uid, after.st_gid) {
        return Ok(false);
    }
    let kind = tree::file_type(before);
    if kind != FileType::Directory {
        let key = |stat: &Stat| (stat.st_rdev, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        if key(before) != key(after) {
            return Ok(false);
        }
    }
    Ok(tree::xattrs(old.0, name)? == tree::xattrs(new.0, name)?)
}
