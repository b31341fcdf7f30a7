//! What a whole tree changes relative to its parent's: as an archive, and in bytes.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use gantry_linux::ResultExt;
use rustix::fs::{FileType, OFlags};

use super::compare::compare;
use crate::archive::{Writer, recipe, split};
use crate::fixtures::{Difference, with_links};
use crate::tree::{self, open_inside};
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
    let differences = compare(below, root, writable)?;
    let links = with_links(&differences, root)?;
    let mut told: BTreeMap<_, _> = links.into_iter().map(|path| (path, ChangeKind::Modified)).collect();
    told.extend(differences.into_iter().map(|difference| (difference.path, difference.kind)));
    for (path, kind) in told {
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
