//! The directories between the top of a tree and where a walk is. Only the lowest are open, so that a tree as deep as a container
//! likes takes a bounded number of descriptors; those above are opened again on the way back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::tree;

/// Directories of one walk that are open.
const OPEN: usize = 64;

/// A directory, and those of its names that the walk did not come to yet.
struct Level {
    /// Not there while it is far above.
    directory: Option<Arc<OwnedFd>>,
    /// Device and inode, from when it was closed on.
    identity: (u64, u64),
    names: std::vec::IntoIter<Vec<u8>>,
}

/// From the top to where the walk is.
#[derive(Default)]
pub(crate) struct Levels(Vec<Level>);

impl Levels {
    /// Enters a directory; its names come sorted.
    pub(crate) fn enter(&mut self, directory: OwnedFd) -> rustix::io::Result<()> {
        let names = tree::names(&directory)?.into_iter();
        if let Some(index) = self.0.len().checked_sub(OPEN)
            && let Some(far) = self.0[index].directory.take()
        {
            self.0[index].identity = identity(&far)?;
        }
        self.0.push(Level { directory: Some(Arc::new(directory)), identity: (0, 0), names });
        Ok(())
    }

    /// The directory where the walk is; none at the end.
    pub(crate) fn directory(&self) -> Option<&Arc<OwnedFd>> {
        self.0.last()?.directory.as_ref()
    }

    /// The next name in it.
    pub(crate) fn name(&mut self) -> Option<Vec<u8>> {
        self.0.last_mut()?.names.next()
    }

    /// Goes back to the directory above; false where there is none.
    ///
    /// # Errors
    /// `ESTALE` when it is another one by now.
    pub(crate) fn leave(&mut self) -> rustix::io::Result<bool> {
        let below = self.0.pop();
        let Some(level) = self.0.last_mut() else { return Ok(false) };
        if level.directory.is_none() {
            let below = below.and_then(|below| below.directory).ok_or(Errno::STALE)?;
            let above = tree::open_dir(&*below, b"..")?;
            if identity(&above)? != level.identity {
                return Err(Errno::STALE);
            }
            level.directory = Some(Arc::new(above));
        }
        Ok(true)
    }

    /// How many directories are above what comes next, the top included.
    pub(crate) fn depth(&self) -> usize {
        self.0.len()
    }
}

fn identity(directory: &OwnedFd) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, renameat};

    use super::*;

    #[test]
    fn a_deep_walk_holds_few_descriptors_and_comes_back_the_way_it_went() {
        let place = tempfile::tempdir().unwrap();
        let mut at = tree::open_root(place.path()).unwrap();
        for _ in 0..3 * OPEN {
            for name in ["a", "z"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            at = tree::open_dir(&at, b"a").unwrap();
        }
        let down = || {
            let mut levels = Levels::default();
            levels.enter(tree::open_root(place.path()).unwrap()).unwrap();
            while let Some(name) = levels.name() {
                let next = tree::open_dir(levels.directory().unwrap(), &name).unwrap();
                levels.enter(next).unwrap();
                assert!(levels.0.iter().filter(|level| level.directory.is_some()).count() <= OPEN);
            }
            levels
        };
        let mut levels = down();
        assert_eq!(levels.depth(), 3 * OPEN + 1);
        while levels.leave().unwrap() {
            assert_eq!(levels.name(), Some(b"z".to_vec()));
        }
        // What is moved meanwhile leads nowhere else.
        let mut levels = down();
        let deep = place.path().join("a/".repeat(OPEN));
        renameat(CWD, deep.join("a"), CWD, place.path().join("moved")).unwrap();
        let back = std::iter::repeat_with(|| levels.leave()).find(|left| !matches!(left, Ok(true)));
        assert!(matches!(back, Some(Err(Errno::STALE))), "{back:?}");
    }
}
