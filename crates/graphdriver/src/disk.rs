//! What directories occupy on the disk: blocks, as `du` counts them. For a layer, which never changes again, the number is
//! kept beside it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use gantry_linux::ResultExt;
use rustix::fs::{Stat, XattrFlags};
use rustix::io::Errno;

use crate::levels::Levels;
use crate::store::noted_size;
use crate::{Error, tree};

/// The extended attribute of a layer's directory that says what it occupies: an attribute takes no block of its own.
const KEPT: &str = "trusted.gantry.disk";
/// `st_blocks` is in these, whatever the file system's own are.
const BLOCK: u64 = 512;

/// Bytes that a directory and everything in it occupy: sparse files count what they hold, files with several names once.
/// What goes meanwhile does not count.
///
/// # Errors
/// When it cannot be read, or a directory of a deep tree is moved meanwhile.
pub fn disk_use(root: &Path) -> Result<u64, Error> {
    let root = tree::open_root(root)?;
    let mut used = Used::default();
    used.add(&rustix::fs::fstat(&root).during("stat", "directory")?);
    let mut levels = Levels::default();
    levels.enter(root).during("list", "directory")?;
    while let Some(directory) = levels.directory().map(Arc::clone) {
        let Some(name) = levels.name() else {
            levels.leave().during("go back", "from a deep directory")?;
            continue;
        };
        let stat = match tree::stat(&directory, &name) {
            Err(Errno::NOENT) => continue,
            other => other.during("stat", tree::show(&name))?,
        };
        used.add(&stat);
        if tree::is_dir(&stat) {
            match tree::open_dir(&directory, &name).and_then(|inner| levels.enter(inner)) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                other => other.during("list", tree::show(&name))?,
            }
        }
    }
    Ok(used.bytes)
}

#[derive(Default)]
struct Used {
    bytes: u64,
    seen: HashSet<(u64, u64)>,
}

impl Used {
    fn add(&mut self, stat: &Stat) {
        if tree::is_dir(stat) || stat.st_nlink < 2 || self.seen.insert((stat.st_dev, stat.st_ino)) {
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
        }
    }
}

/// What a layer's directory occupies, a writable one's as it is now.
pub(crate) fn of_layer(layer: &Path) -> Result<u64, Error> {
    if noted_size(layer)?.is_some() { kept_disk_use(layer) } else { disk_use(layer) }
}

/// As [`disk_use`], for what never changes again: walked once.
fn kept_disk_use(layer: &Path) -> Result<u64, Error> {
    let mut value = [0_u8; 20];
    if let Ok(length) = rustix::fs::getxattr(layer, KEPT, value.as_mut_slice())
        && let Some(bytes) = std::str::from_utf8(&value[..length]).ok().and_then(|text| text.parse().ok())
    {
        return Ok(bytes);
    }
    let bytes = disk_use(layer)?;
    let text = bytes.to_string();
    match rustix::fs::setxattr(layer, KEPT, text.as_bytes(), XattrFlags::empty()) {
        // Then it is walked again the next time.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT | Errno::ROFS) => Ok(bytes),
        Err(error) => Err(error).during("note what is occupied by", layer.display()).map_err(Error::from),
    }
}

/// Takes the number from a draft that was copied with its layer's attributes.
pub(crate) fn forget(draft: &Path) -> Result<(), Error> {
    match rustix::fs::removexattr(draft, KEPT) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error).during("forget what is occupied by", draft.display()).map_err(Error::from),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make files plainly")]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = tree::open_root(dir.path()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deep", rustix::fs::Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "z", rustix::fs::Mode::RWXU).unwrap();
            at = tree::open_dir(&at, b"deep").unwrap();
        }
        let one = rustix::fs::fstat(&at).unwrap().st_blocks;
        let used = disk_use(dir.path()).unwrap();
        assert!(used >= 6000 * BLOCK * u64::try_from(one).unwrap(), "{used}, each {one} blocks");
        crate::trash::empty(dir.path()).unwrap();
    }

    #[test]
    fn blocks_count_as_du_counts_them_and_a_layer_is_walked_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/b/c")).unwrap();
        std::fs::write(at("a/full"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(at("a/full"), at("a/b/again")).unwrap();
        std::os::unix::fs::symlink("x".repeat(300), at("a/link")).unwrap();
        let sparse = std::fs::File::create(at("a/b/sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        sparse.write_all_at(&[1; 5000], 1 << 29).unwrap();
        sparse.sync_all().unwrap();
        let du = std::process::Command::new("du").args(["-s", "--block-size=1"]).arg(dir.path()).output().unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        let used = disk_use(dir.path()).unwrap();
        assert_eq!(used.to_string(), du.split_whitespace().next().unwrap());
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
        assert_eq!(kept_disk_use(dir.path()).unwrap(), used);
        std::fs::remove_file(at("a/b/sparse")).unwrap();
        assert_eq!(kept_disk_use(dir.path()).unwrap(), used, "it was not walked again");
        assert!(disk_use(dir.path()).unwrap() < used);
    }
}
