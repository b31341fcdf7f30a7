//! Mounts through which files have other owners: the kernel takes the mapping from a user namespace, which is made for
//! nothing else.
#![allow(unsafe_code, reason = "a process is made that shares nothing but waits")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};

use super::{Attributes, set_attributes};
use crate::process::CloneFlags;
use crate::{Error, Result, ResultExt, fs};

/// A range of ids: first inside, first outside, how many.
pub type IdRange = (u32, u32, u32);

/// Which users and groups inside are which outside; none is in two ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

/// Whose is what has no owner in a mapping: the kernel's `nobody`.
pub const NOBODY: u32 = 65534;

impl IdMap {
    /// User and group outside, of those inside; `None` for one that is not mapped.
    #[must_use]
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |ranges: &[IdRange], id: u32| {
            ranges.iter().find_map(|(inside, outside, count)| shifted(id, *inside, *outside, *count))
        };
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }

    /// User and group inside, of those outside; [`NOBODY`] for one that is not mapped.
    #[must_use]
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let find = |ranges: &[IdRange], id: u32| {
            ranges.iter().find_map(|(inside, outside, count)| shifted(id, *outside, *inside, *count)).unwrap_or(NOBODY)
        };
        (find(&self.uids, uid), find(&self.gids, gid))
    }
}

fn shifted(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let distance = id.checked_sub(from).filter(|distance| *distance < count)?;
    to.checked_add(distance)
}

/// Makes a detached mount show the owners of its files through the mapping of a user namespace, for good; with
/// `recursive` the mounts below it too. The file system must be able to.
pub fn map_ids(mount: impl AsFd, recursive: bool, namespace: &OwnedFd) -> Result<()> {
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_IDMAP,
        userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
        ..Attributes::default()
    };
    set_attributes(mount, recursive, &attributes)
}

/// A user namespace with these mappings and nobody in it; it lives as long as its descriptor and what it is used for.
pub fn user_namespace(uids: &[IdRange], gids: &[IdRange]) -> Result<OwnedFd> {
    let [user] = namespaces_of_a_waiting_process(CloneFlags::NEWUSER, uids, gids, ["user"])?;
    Ok(user)
}

/// As [`user_namespace`], and a network namespace that belongs to it.
pub fn user_and_network_namespaces(map: &IdMap) -> Result<(OwnedFd, OwnedFd)> {
    let flags = CloneFlags::NEWUSER.with(CloneFlags::NEWNET);
    let [user, network] = namespaces_of_a_waiting_process(flags, &map.uids, &map.gids, ["user", "net"])?;
    Ok((user, network))
}

fn namespaces_of_a_waiting_process<const N: usize>(
    flags: CloneFlags,
    uids: &[IdRange],
    gids: &[IdRange],
    names: [&str; N],
) -> Result<[OwnedFd; N]> {
    // Who waits in them ends with the pipe, also when we die here.
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make", "pipe")?;
    let pid = clone_waiting(flags, &read)?;
    let result = write_maps(pid, uids, gids).and_then(|()| open_namespaces(pid, names));
    drop(write);
    // SAFETY: no memory is given; __WALL since it ends without a signal, so that nobody else waits for it.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } < 0
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
    {}
    result
}

fn write_maps(pid: i32, uids: &[IdRange], gids: &[IdRange]) -> Result<()> {
    for (file, ranges) in [("uid_map", uids), ("gid_map", gids)] {
        let lines: String =
            ranges.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect();
        fs::write(format!("/proc/{pid}/{file}"), lines)?;
    }
    Ok(())
}

fn open_namespaces<const N: usize>(pid: i32, names: [&str; N]) -> Result<[OwnedFd; N]> {
    let open = |name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)
    };
    let opened = names.iter().map(|name| open(name)).collect::<Result<Vec<_>>>()?;
    opened.try_into().map_err(|_| Error::new("open", "namespaces", rustix::io::Errno::INVAL))
}

/// A process in new namespaces that does system calls only, and so may be made by one with many threads.
fn clone_waiting(flags: CloneFlags, read: &OwnedFd) -> Result<i32> {
    let read = read.as_raw_fd();
    // SAFETY: all-zero is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags.bits();
    // SAFETY: no memory is shared and no stack is given: the child continues on a copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if pid == 0 {
        let mut byte = 0u8;
        // SAFETY: plain system calls on numbers that are this process's own, and one byte of this stack; no lock is taken.
        unsafe {
            // Not only the other end of its own pipe: two of these made at once would keep each other waiting.
            if read > 0 {
                libc::syscall(libc::SYS_close_range, 0, read - 1, 0);
            }
            libc::syscall(libc::SYS_close_range, read + 1, -1, 0);
            libc::syscall(libc::SYS_read, read, &raw mut byte, 1);
            loop {
                libc::syscall(libc::SYS_exit_group, 0);
            }
        }
    }
    if pid < 0 {
        return Err(Error::new("clone", "a process in a new user namespace", std::io::Error::last_os_error()));
    }
    i32::try_from(pid).map_err(|_| Error::new("clone", "a process in a new user namespace", rustix::io::Errno::RANGE))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::bind;
    use super::*;

    #[test]
    fn owners_are_shifted_through_a_mapped_bind_and_stay_what_they_are_beneath() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        let namespace = user_namespace(&[(0, 100_000, 1000)], &[(0, 200_000, 1000)]).unwrap();
        let mount = bind(dir.path(), true).unwrap();
        map_ids(&mount, false, &namespace).unwrap();
        let seen = std::fs::metadata(format!("/proc/self/fd/{}/a", mount.as_raw_fd())).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (100_000, 200_000));
        assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().uid(), 0);
    }

    #[test]
    fn ids_are_found_in_both_directions_and_what_has_none_is_nobodys() {
        let map = IdMap { uids: vec![(0, 100_000, 10), (10, 500, 1)], gids: vec![(0, 200_000, 10)] };
        assert_eq!(map.outside(9, 0), Some((100_009, 200_000)));
        assert_eq!(map.outside(10, 9), Some((500, 200_009)));
        assert_eq!(map.outside(11, 0), None);
        assert_eq!(map.inside(500, 200_009), (10, 9));
        assert_eq!(map.inside(0, 200_010), (NOBODY, NOBODY));
    }

    #[test]
    fn namespaces_that_many_threads_make_at_once_are_all_made() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let make = || user_namespace(&[(0, 100_000, 10)], &[(0, 100_000, 10)]).map(drop);
                scope.spawn(move || (0..50).try_for_each(|_| make()).unwrap());
            }
        });
    }

    #[test]
    fn a_mapping_that_the_kernel_refuses_leaves_nothing_behind() {
        let error = user_namespace(&[(0, 0, 10), (5, 20, 10)], &[(0, 0, 10)]).unwrap_err();
        assert!(error.to_string().contains("uid_map"), "{error}");
    }
}
