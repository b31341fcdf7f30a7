//! What differs between a layer and what is below it, and what of that counts: neither what an engine makes in a root for
//! its own mounts (Docker keeps that in a layer below the container's), nor a directory in which nothing is left to tell.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use crate::archive::split;
use crate::tree::{self, Step, Walk};
use crate::{Change, ChangeKind, Error};

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// From the root, without a slash in front.
    pub path: Vec<u8>,
    pub kind: ChangeKind,
    /// It differs itself, not only something in it.
    pub itself: bool,
    /// It is as an engine makes it, see [`is_fixture`].
    pub fixture: bool,
    /// The inode of a file that has other names as well: a layer that has one has all of them, or they are no links any more.
    pub inode: Option<u64>,
}

impl Difference {
    pub(crate) fn change(&self) -> Change {
        Change::at(&self.path, self.kind)
    }
}

/// What is mounted on in every container, and the file by which programs know that they are in one.
const DIRECTORIES: [&[u8]; 7] = [b"dev", b"dev/pts", b"dev/shm", b"dev/mqueue", b"etc", b"proc", b"sys"];
const FILES: [&[u8]; 5] = [b".dockerenv", b"dev/console", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"];

/// Whether a path is what an engine makes where an image does not have it: an empty file or a directory, of `root`, with
/// the usual mode. Anything else is somebody's work.
pub(crate) fn is_fixture(path: &[u8], stat: &Stat, root: (u32, u32)) -> bool {
    let mode = stat.st_mode & 0o7777;
    if (stat.st_uid, stat.st_gid) != root {
        return false;
    }
    match tree::file_type(stat) {
        FileType::Directory => DIRECTORIES.contains(&path) && mode == 0o755,
        FileType::RegularFile => {
            FILES.contains(&path) && stat.st_size == 0 && stat.st_nlink == 1 && matches!(mode, 0o644 | 0o755)
        }
        _ => false,
    }
}

/// Leaves what counts, of differences sorted by path. A directory that an engine made and in which something else is new
/// counts as modified: for the container it was always there.
pub(crate) fn visible(differences: Vec<Difference>) -> Vec<Difference> {
    let mut holders: HashSet<Vec<u8>> = HashSet::new();
    let mut kept = Vec::with_capacity(differences.len());
    // What is in a directory sorts after it.
    for mut difference in differences.into_iter().rev() {
        let fixture = difference.fixture && difference.kind == ChangeKind::Added;
        let only_holds = difference.kind == ChangeKind::Modified && !difference.itself;
        if (fixture || only_holds) && !holders.contains(&difference.path) {
            continue;
        }
        if fixture {
            difference.kind = ChangeKind::Modified;
        }
        holders.insert(split(&difference.path).0.to_vec());
        kept.push(difference);
    }
    kept.reverse();
    kept
}

/// Every name in `root` of the files that differ, and the directories that they are in: who unpacks the archive makes
/// those that it does not have as it likes.
pub(crate) fn with_links(differences: &[Difference], root: &Path) -> Result<HashSet<Vec<u8>>, Error> {
    let shared: HashSet<u64> = differences.iter().filter_map(|difference| difference.inode).collect();
    let mut found = HashSet::new();
    if shared.is_empty() {
        return Ok(found);
    }
    let mut walk = Walk::new(tree::open_root(root)?)?;
    while let Some(step) = walk.next()? {
        let Step::Entry { path, stat, .. } = step else { continue };
        if tree::shared_inode(&stat).is_some_and(|inode| shared.contains(&inode)) {
            let mut above = split(&path).0;
            // What is above a known one is known: a container may have any number of names, any number of levels deep.
            while !above.is_empty() && found.insert(above.to_vec()) {
                above = split(above).0;
            }
            found.insert(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(path: &str, kind: ChangeKind, itself: bool, fixture: bool) -> Difference {
        Difference { path: path.into(), kind, itself, fixture, inode: None }
    }

    #[test]
    fn what_the_engine_made_is_not_told_and_what_lies_in_it_is() {
        use ChangeKind::{Added, Modified};
        let made = || {
            vec![
                difference(".dockerenv", Added, true, true),
                difference("etc", Added, true, true),
                difference("etc/hosts", Added, true, true),
                difference("home", Modified, false, false),
                difference("proc", Added, true, true),
            ]
        };
        assert_eq!(visible(made()), []);
        let mut more = made();
        more.insert(2, difference("etc-new", Added, true, false));
        more.insert(3, difference("etc/conf", Added, true, false));
        more.push(difference("sys", Added, true, false));
        let told: Vec<_> = visible(more).into_iter().map(|d| (String::from_utf8(d.path).unwrap(), d.kind)).collect();
        let told: Vec<_> = told.iter().map(|(path, kind)| (path.as_str(), *kind)).collect();
        assert_eq!(told, [("etc", Modified), ("etc-new", Added), ("etc/conf", Added), ("sys", Added)]);
    }

    #[test]
    fn the_names_of_a_file_and_what_they_are_in_are_found_once_however_many_there_are() {
        use gantry_linux::fs;
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("0"), "").unwrap();
        (1..50).for_each(|n| std::fs::hard_link(deep.join("0"), deep.join(n.to_string())).unwrap());
        let inode = Some(fs::metadata(deep.join("0")).unwrap().ino());
        let changed = Difference { inode, ..difference("a/b/c/0", ChangeKind::Added, true, false) };
        let found: Vec<_> = with_links(&[changed], root.path()).unwrap().into_iter().collect();
        assert_eq!(found.len(), 53, "{found:?}");
        assert!(found.contains(&b"a/b".to_vec()), "{found:?}");
    }
}
