//! Deleting trees with a handful of descriptors and no recursion, however deep a container made them.

use std::path::Path;

use gantry_linux::{Result, ResultExt};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::tree::{self, show};

/// Deletes everything in the directory. A directory that still has directories hands them up to `trash` itself before
/// it goes, so each is opened from the top. What somebody else deletes meanwhile is no error.
pub(crate) fn empty(trash: &Path) -> Result<()> {
    let top = tree::open_root(trash)?;
    loop {
        let found = tree::names(&top).during("list", trash.display())?;
        if found.is_empty() {
            return Ok(());
        }
        for name in found {
            match rustix::fs::unlinkat(&top, name.as_slice(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => empty_directory(&top, &name).during("delete", show(&name))?,
                Err(error) => return Err(error).during("delete", show(&name)),
            }
        }
    }
}

fn empty_directory(top: &std::os::fd::OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let dir = match tree::open_dir(top, name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    for inner in tree::names(&dir)? {
        match rustix::fs::unlinkat(&dir, inner.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => match rustix::fs::unlinkat(&dir, inner.as_slice(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    rustix::fs::renameat(&dir, inner.as_slice(), top, gantry_linux::fs::unique().as_str())?;
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;

    #[test]
    fn a_tree_deeper_than_any_path_is_deleted() {
        let trash = tempfile::tempdir().unwrap();
        let mut dir = tree::open_root(trash.path()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&dir, "deep", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&dir, "beside", Mode::RWXU).unwrap();
            dir = tree::open_dir(&dir, b"deep").unwrap();
        }
        empty(trash.path()).unwrap();
        assert!(gantry_linux::fs::list(trash.path()).unwrap().is_empty());
    }
}
