//! Mounts of aufs, the union file system that a kernel has only by a patch of its own.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};

use super::attach::{finish, reconfigure, set_options};
use crate::{Result, ResultExt};

/// The kernel keeps the options of one mount or remount together, in a page.
const PAGE: usize = 4096;

type FsOption = (String, Option<String>);

/// Mounts the union of `branches`, uppermost first, detached; only the first can be written to, if any.
pub(super) fn attach(branches: &[PathBuf], writable: bool) -> Result<OwnedFd> {
    let subject = format!("aufs of {} branches", branches.len());
    let (top, below) = branches.split_first().ok_or(Errno::INVAL).during("mount", &subject)?;
    let first = first_options(top, writable)?;
    let rest = portions(below)?;
    let context = fsopen("aufs", FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", "aufs")?;
    set_options(&context, "aufs", &first)?;
    let mount = finish(&context, &subject, 0)?;
    for portion in rest {
        reconfigure(&mount, &portion, &subject)?;
    }
    Ok(mount)
}

fn first_options(top: &Path, writable: bool) -> Result<Vec<FsOption>> {
    let option = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    Ok(vec![
        option("source", "none"),
        option("br", &branch(top, if writable { "rw" } else { "ro+wh" })?),
        // Numbers of inodes that stay the same, beside no branch.
        option("xino", "/dev/shm/aufs.xino"),
        // What a directory may be used for, its uppermost branch says.
        ("dirperm1".to_owned(), None),
    ])
}

/// The branches below, as many at a time as one remount takes.
fn portions(below: &[PathBuf]) -> Result<Vec<Vec<FsOption>>> {
    let mut portions: Vec<Vec<FsOption>> = Vec::new();
    let mut length = PAGE;
    for path in below {
        let value = branch(path, "ro+wh")?;
        let own = "append=,".len() + value.len();
        // The kernel ends the text with two bytes of its own.
        if length + own > PAGE - 2 {
            portions.push(Vec::new());
            length = 0;
        }
        length += own;
        if let Some(portion) = portions.last_mut() {
            portion.push(("append".to_owned(), Some(value)));
        }
    }
    Ok(portions)
}

/// A branch as options write it: nothing in its path may mean something there.
fn branch(path: &Path, permission: &str) -> Result<String> {
    let text = path.to_str().filter(|text| !text.contains([',', ':', '=', '\\']));
    let text = text.ok_or(Errno::INVAL).during("name in an option of aufs", path.display())?;
    Ok(format!("{text}={permission}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: usize) -> PathBuf {
        format!("/var/lib/gantry/aufs/layers/{number:064}/diff").into()
    }

    #[test]
    fn the_uppermost_branch_is_the_only_one_that_is_written_to() {
        let value = |writable| first_options(Path::new("/top"), writable).unwrap()[1].clone();
        assert_eq!(value(true), ("br".to_owned(), Some("/top=rw".to_owned())));
        assert_eq!(value(false), ("br".to_owned(), Some("/top=ro+wh".to_owned())));
    }

    #[test]
    fn branches_follow_in_their_order_and_no_remount_is_longer_than_a_page() {
        let below: Vec<_> = (0..127).map(path).collect();
        let portions = portions(&below).unwrap();
        assert!(portions.len() > 1 && portions.len() < 10, "{}", portions.len());
        for portion in &portions {
            let length: usize =
                portion.iter().map(|(name, value)| name.len() + value.as_ref().unwrap().len() + 2).sum();
            assert!(length <= PAGE - 2, "{length}");
        }
        let order: Vec<_> = portions.concat().into_iter().map(|(_, value)| value.unwrap()).collect();
        let expected: Vec<_> = below.iter().map(|path| format!("{}=ro+wh", path.display())).collect();
        assert_eq!(order, expected);
        assert!(super::portions(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_path_that_would_be_read_as_several_is_refused() {
        for wrong in ["/a:b", "/a,b", "/a=rw", "/a\\b"] {
            assert!(portions(&[wrong.into()]).is_err(), "{wrong}");
        }
    }
}
