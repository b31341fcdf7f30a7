//! What a whole tree changes relative to its parent's: as an archive, and in bytes.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use gantry_linux::ResultExt;
use rustix::fs::{FileType, OFlags};

use super::compare::compare;
use crate::archive::{Writer, recipe, split};
use crate::fixtures::Difference;
use crate::tree::{self, Step, Walk, open_inside};
use crate::{ChangeKind, Error};

/// Writes the archive that a layer was unpacked from, or else one of what `root` changes; the recipe is in `layer`.
pub(crate) fn write_diff(
    layer: &Path,
    root: &Path,
    below: Option<&Path>,
    writable: bool,
    archive: &mut dyn Write,
) -> Result<(), Error> {
    if recipe::replay(layer, root, archive)? {
        return Ok(());
    }
    let opened = tree::open_root(root)?;
    let mut writer = Writer::new(archive, None);
    for (path, kind) in with_links(compare(below, root, writable)?, root)? {
        if kind == ChangeKind::Deleted {
            writer.whiteout(&path)?;
            continue;
        }
        let (directory, name) = split(&path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = open_inside(&opened, directory, flags).during("open", tree::show(directory))?;
        let stat = tree::stat(&dir, name).during("stat", tree::show(&path))?;
        writer.entry(dir.as_fd(), name, &path, &stat)?;
    }
    writer.finish()
}

/// Differences by path, and with each file the other names that it has.
fn with_links(found: Vec<Difference>, root: &Path) -> Result<BTreeMap<Vec<u8>, ChangeKind>, Error> {
    let shared: HashSet<u64> = found.iter().filter_map(|difference| difference.inode).collect();
    let mut told: BTreeMap<_, _> = found.into_iter().map(|difference| (difference.path, difference.kind)).collect();
    if !shared.is_empty() {
        let mut walk = Walk::new(tree::open_root(root)?)?;
        while let Some(step) = walk.next()? {
            let Step::Entry { path, stat, .. } = step else { continue };
            if tree::shared_inode(&stat).is_some_and(|inode| shared.contains(&inode)) {
                told.entry(path).or_insert(ChangeKind::Modified);
            }
        }
    }
    Ok(told)
}

/// The bytes of the files that `root` changes.
pub(crate) fn changed_bytes(root: &Path, below: Option<&Path>) -> Result<u64, Error> {
    let opened = tree::open_root(root)?;
    let mut bytes = 0;
    for Difference { path, kind, .. } in compare(below, root, false)? {
        if kind != ChangeKind::Deleted {
            let (_, stat) = tree::look_through(std::slice::from_ref(&opened), &path)?
                .ok_or_else(|| Error::NotFound(tree::show(&path).to_string()))?;
            if tree::file_type(&stat) == FileType::RegularFile {
                bytes += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
    }
    Ok(bytes)
}
