//! Merging a layer in overlayfs's form into the copy of its parent.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_linux::{Result, ResultExt, fs};
use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use crate::tree::{self, Step, Walk, copy_metadata, show};

/// Moves everything from `diff` into `root`; what it replaces or hides goes to `grave`.
pub(crate) fn merge(diff: &Path, root: &Path, grave: &Path) -> Result<()> {
    let (source, target, grave) = (tree::open_root(diff)?, tree::open_root(root)?, tree::open_root(grave)?);
    // Moving entries away changes the times of the directories that they leave: they are remembered as they were.
    let stat = rustix::fs::fstat(&source).during("stat", diff.display())?;
    let mut levels = vec![Level { from: duplicate(&source)?, to: target, stat }];
    let mut walk = Walk::new(duplicate(&source)?)?;
    while let Some(step) = walk.next()? {
        let Some(level) = levels.last() else { break };
        match step {
            Step::Leave { .. } => {
                level.finish()?;
                levels.pop();
            }
            Step::Entry { dir, name, path, stat } if tree::is_dir(&stat) => {
                let from = tree::open_dir(&dir, &name).during("open", show(&path))?;
                let keep =
                    !tree::is_opaque(&from) && tree::stat(&level.to, &name).is_ok_and(|there| tree::is_dir(&there));
                if !keep {
                    clear(&level.to, &name, &grave)?;
                    rustix::fs::mkdirat(&level.to, name.as_slice(), Mode::RWXU)
                        .during("make directory", show(&path))?;
                }
                let to = tree::open_dir(&level.to, &name).during("open", show(&path))?;
                levels.push(Level { from, to, stat });
            }
            Step::Entry { dir, name, path, stat } => {
                clear(&level.to, &name, &grave)?;
                if !tree::is_whiteout(&stat) {
                    rustix::fs::renameat(&dir, name.as_slice(), &level.to, name.as_slice())
                        .during("move", show(&path))?;
                }
            }
        }
    }
    levels.iter().rev().try_for_each(Level::finish)
}

/// A directory being merged.
struct Level {
    from: OwnedFd,
    to: OwnedFd,
    stat: Stat,
}

impl Level {
    /// Metadata last, when all entries are in.
    fn finish(&self) -> Result<()> {
        let wanted = tree::xattrs(self.from.as_fd(), b"")?;
        for (key, _) in tree::xattrs(self.to.as_fd(), b"")? {
            if !wanted.iter().any(|(name, _)| *name == key) {
                rustix::fs::fremovexattr(&self.to, key.as_slice())
                    .during("remove extended attribute of", "directory")?;
            }
        }
        copy_metadata((self.from.as_fd(), b""), &self.stat, (self.to.as_fd(), b""))
    }
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().during("duplicate", "descriptor")
}

fn clear(dir: &OwnedFd, name: &[u8], grave: &OwnedFd) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            rustix::fs::renameat(dir, name, grave, fs::unique().as_str()).during("move away", show(name))
        }
        Err(error) => Err(error).during("remove", show(name)),
    }
}
