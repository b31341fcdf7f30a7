//! What a tree changes relative to another.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_linux::ResultExt;

use crate::archive::split;
use crate::fixtures::{Difference, is_fixture, visible};
use crate::tree::{self, Step, Walk, show};
use crate::{ChangeKind, Error};

/// On disk, owners of a whole tree are those that the container sees.
const ROOT: (u32, u32) = (0, 0);

/// Differences by path, sorted. Two files count as the same when kind, owner, mode, size, time and extended attributes are;
/// a directory in which something changed counts as modified. Of a `writable` layer only what counts is told, of an image's
/// everything.
pub(crate) fn compare(old: Option<&Path>, new: &Path, writable: bool) -> Result<Vec<Difference>, Error> {
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
            None => {
                let fixture = is_fixture(&path, &stat, ROOT);
                changes.add(&path, ChangeKind::Added, fixture, tree::shared_inode(&stat));
            }
            Some((above, before)) => {
                if !tree::same((above.as_fd(), &name, before), (dir.as_fd(), &name, &stat))? {
                    changes.add(&path, ChangeKind::Modified, false, tree::shared_inode(&stat));
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
    let found = changes.0.into_values().collect();
    Ok(if writable { visible(found) } else { found })
}

#[derive(Default)]
struct Changes(BTreeMap<Vec<u8>, Difference>);

impl Changes {
    fn add(&mut self, path: &[u8], kind: ChangeKind, fixture: bool, inode: Option<u64>) {
        self.0.insert(path.to_vec(), Difference { path: path.to_vec(), kind, itself: true, fixture, inode });
        let mut above = split(path).0;
        while !above.is_empty() && !self.0.contains_key(above) {
            let (path, kind) = (above.to_vec(), ChangeKind::Modified);
            let holder = Difference { path, kind, itself: false, fixture: false, inode: None };
            self.0.insert(above.to_vec(), holder);
            above = split(above).0;
        }
    }

    fn deleted(&mut self, old: Option<&OwnedFd>, new: &OwnedFd, path: &[u8]) -> Result<(), Error> {
        let Some(old) = old else { return Ok(()) };
        for name in tree::names(old).during("list", show(path))? {
            if tree::stat(new, &name).is_err() {
                let gone = if path.is_empty() { name } else { [path, b"/", name.as_slice()].concat() };
                self.add(&gone, ChangeKind::Deleted, false, None);
            }
        }
        Ok(())
    }
}
