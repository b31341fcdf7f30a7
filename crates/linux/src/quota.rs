//! Project quotas: limits of what the files below a directory may occupy, whoever they belong to (`quotactl(2)`,
//! `ioctl_fsgetxattr(2)`, `linux/dqblk_xfs.h`, whose calls ext4 answers as well).
#![allow(unsafe_code, reason = "rustix has no quotactl_fd, and the kernel's own structures are passed to it")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

use crate::{Result, ResultExt};

const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);
/// `FS_XFLAG_PROJINHERIT`: what is made inside is of the same project.
const INHERIT: u32 = 0x200;

/// `struct fsxattr`.
#[repr(C)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `PRJQUOTA`.
const OF_PROJECTS: u32 = 2;
const GET_LIMIT: u32 = 0x5803;
const SET_LIMIT: u32 = 0x5804;
const GET_STATE: u32 = 0x5805;
/// `FS_QUOTA_PDQ_ENFD`.
const ENFORCED: u16 = 1 << 5;
/// `FS_DQ_BSOFT | FS_DQ_BHARD`.
const BLOCKS: u16 = 1 << 2 | 1 << 3;
/// Blocks of quotas have always this many bytes.
const BLOCK: u64 = 512;

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    hard_blocks: u64,
    soft_blocks: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [u8; 10],
}

/// `struct fs_quota_stat`.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    padding: i8,
    files: [[u64; 3]; 2],
    in_core: u32,
    limits: [i32; 3],
    warnings: [u16; 2],
}

/// What a project occupies and may occupy, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What its files occupy.
    pub bytes: u64,
    /// How many files there are.
    pub files: u64,
    /// What they may occupy; 0 is no limit.
    pub limit: u64,
}

/// Whether limits of projects hold on the file system of an open file.
///
/// # Errors
/// When the kernel does not answer for another reason than that it has none.
pub fn limits_projects(file: impl AsFd) -> Result<bool> {
    let mut state = State { version: 1, ..State::default() };
    // SAFETY: the command fills this structure.
    match unsafe { quotactl(&file, GET_STATE, 0, &raw mut state) } {
        Ok(()) => Ok(state.flags & ENFORCED != 0),
        // The file system has no quotas, none of projects, or none are on.
        Err(
            Errno::NOSYS | Errno::OPNOTSUPP | Errno::SRCH | Errno::INVAL | Errno::NOTTY | Errno::NOTBLK | Errno::NODEV,
        ) => Ok(false),
        Err(error) => Err(error).during("read", "the state of project quotas"),
    }
}

/// The project of an open file or directory; `None` where the file system knows none.
///
/// # Errors
/// When it cannot be read.
pub fn project(file: impl AsFd) -> Result<Option<u32>> {
    match attributes(&file) {
        Ok(found) => Ok(Some(found.project)),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error).during("read", "the project of a directory"),
    }
}

/// Makes an open, empty directory one of a project, and what will be made inside.
///
/// # Errors
/// When the file system knows no projects.
pub fn set_project(directory: impl AsFd, project: u32) -> Result<()> {
    let set = |mut attributes: Attributes| {
        attributes.project = project;
        attributes.flags |= INHERIT;
        // SAFETY: the code takes a pointer to this structure, which outlives the call.
        unsafe { ioctl(&directory, Setter::<SET_ATTRIBUTES, Attributes>::new(attributes)) }
    };
    attributes(&directory).and_then(set).during("make a directory one of project", project)
}

fn attributes(file: impl AsFd) -> rustix::io::Result<Attributes> {
    let mut found =
        Attributes { flags: 0, extent_size: 0, extents: 0, project: 0, copy_extent_size: 0, padding: [0; 8] };
    // SAFETY: the code takes a pointer to this structure, which outlives the call, and fills it.
    unsafe { ioctl(&file, Updater::<GET_ATTRIBUTES, Attributes>::new(&mut found)) }.map(|()| found)
}

/// What a project occupies and may occupy, on the file system of an open file.
///
/// # Errors
/// When quotas of projects are not on.
pub fn usage(file: impl AsFd, project: u32) -> Result<Usage> {
    let mut quota = DiskQuota::default();
    // SAFETY: the command fills this structure.
    match unsafe { quotactl(&file, GET_LIMIT, project, &raw mut quota) } {
        Ok(()) => Ok(Usage {
            bytes: quota.blocks.saturating_mul(BLOCK),
            files: quota.inodes,
            limit: quota.hard_blocks.saturating_mul(BLOCK),
        }),
        // Nothing was ever said of it.
        Err(Errno::NOENT) => Ok(Usage::default()),
        Err(error) => Err(error).during("read the quota of project", project),
    }
}

/// Limits what a project may occupy, on the file system of an open file; 0 is no limit. Writing more fails with `ENOSPC`
/// on xfs, with `EDQUOT` on ext4.
///
/// # Errors
/// When quotas of projects are not on.
pub fn limit(file: impl AsFd, project: u32, bytes: u64) -> Result<()> {
    const OF_PROJECT: i8 = 2;
    let blocks = bytes.div_ceil(BLOCK);
    let mut quota = DiskQuota {
        version: 1,
        flags: OF_PROJECT,
        fields: BLOCKS,
        id: project,
        hard_blocks: blocks,
        soft_blocks: blocks,
        ..DiskQuota::default()
    };
    // SAFETY: the command reads this structure.
    unsafe { quotactl(&file, SET_LIMIT, project, &raw mut quota) }.during("limit the size of project", project)
}

/// # Safety
/// `data` must be the structure that the command reads or fills.
unsafe fn quotactl<T>(file: impl AsFd, command: u32, project: u32, data: *mut T) -> rustix::io::Result<()> {
    let command = command << 8 | OF_PROJECTS;
    // SAFETY: the caller says so, and it outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_fd().as_raw_fd(), command, project, data) };
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Attributes>(), size_of::<DiskQuota>(), size_of::<State>()), (28, 112, 80));
        assert_eq!(std::mem::offset_of!(DiskQuota, realtime), 72);
        assert_eq!(std::mem::offset_of!(State, flags), 2);
    }

    #[test]
    fn a_file_system_without_quotas_says_so() {
        let proc = crate::fs::open("/proc/self/status").unwrap();
        assert!(!limits_projects(&proc).unwrap());
        assert_eq!(project(&proc).unwrap(), None);
    }
}
