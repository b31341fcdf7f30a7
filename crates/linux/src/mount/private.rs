//! A mount namespace of its own for one piece of work, and mount trees that are put together in it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount_change, open_tree, unmount};

use super::{bind_fd, move_to};
use crate::process::{self, CloneFlags};
use crate::{Error, Result, ResultExt};

/// Runs `work` on a thread with a mount namespace of its own, from which nothing propagates: what it mounts is seen by
/// nobody, and goes with the thread.
pub fn in_private_namespace<T: Send, E: From<Error> + Send>(
    work: impl FnOnce() -> std::result::Result<T, E> + Send,
) -> std::result::Result<T, E> {
    let thread = std::thread::Builder::new().name("mounts".into());
    std::thread::scope(|scope| {
        let thread = thread
            .spawn_scoped(scope, || {
                process::unshare(CloneFlags::NEWNS)?;
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                    .during("make private", "/")?;
                work()
            })
            .during("start", "a thread for mounts")?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::new("run", "a thread for mounts", std::io::Error::other("it crashed")).into())
        })
    })
}

/// Has `arrange` attach further mounts below the detached mount `root`, and returns the whole tree, detached again:
/// kernels before 6.15 attach only what is below an attached mount, so that is what it is meanwhile.
pub fn assemble<E: From<Error> + Send>(
    root: OwnedFd,
    arrange: impl FnOnce(&OwnedFd) -> std::result::Result<(), E> + Send,
) -> std::result::Result<OwnedFd, E> {
    in_private_namespace(move || {
        with_attached(&root, || {
            arrange(&root)?;
            Ok(bind_fd(&root, true, "an assembled root")?)
        })
    })
}

/// A detached clone of the detached mount `tree` alone, without the mounts below it.
pub fn without_submounts(tree: OwnedFd) -> Result<OwnedFd> {
    // A kernel before 6.15 does not clone from a detached tree.
    match bind_fd(&tree, false, "a root") {
        Err(error) if error.errno() == libc::EINVAL => alone_while_attached(&tree),
        other => other,
    }
}

fn alone_while_attached(tree: &OwnedFd) -> Result<OwnedFd> {
    in_private_namespace(|| with_attached(tree, || bind_fd(tree, false, "a root")))
}

/// A detached clone of a directory of the detached mount `tree`.
pub(super) fn part(tree: OwnedFd, directory: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let clone = || open_tree(&tree, directory, flags).during("bind", directory);
    match clone() {
        Err(error) if error.errno() == libc::EINVAL => in_private_namespace(|| with_attached(&tree, clone)),
        other => other,
    }
}

/// Has the detached mount attached (over `/`, where it hides nothing that is open) while `work` runs.
fn with_attached<T, E: From<Error>>(
    tree: &OwnedFd,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let top = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during("open", "/")?;
    move_to(tree, &top, "/")?;
    let result = work();
    // Before the thread ends: the namespace's own end is asynchronous, and an upper directory must be free by then.
    let path = format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd());
    let undone = unmount(path, UnmountFlags::DETACH).during("unmount", "an assembled root");
    let done = result?;
    undone?;
    Ok(done)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]
mod tests {
    use super::super::{RootMount, attach, bind};
    use super::*;

    fn mounts() -> usize {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
    }

    #[test]
    fn a_tree_is_assembled_where_nobody_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root/data", "volume"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("volume/a"), "in the volume").unwrap();
        let before = mounts();
        let assembled = || {
            let root = attach(&RootMount::Bind { source: dir.path().join("root") }).unwrap();
            let volume = bind(&dir.path().join("volume"), true).unwrap();
            assemble(root, |root| {
                let target = rustix::fs::openat(root, "data", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
                move_to(&volume, &target, "data")
            })
            .unwrap()
        };
        let tree = assembled();
        let path = format!("/proc/self/fd/{}/data/a", tree.as_raw_fd());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "in the volume");
        for alone in [alone_while_attached(&tree), without_submounts(assembled())] {
            let path = format!("/proc/self/fd/{}/data", alone.as_ref().unwrap().as_raw_fd());
            assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
        }
        assert_eq!(mounts(), before);
    }
}
