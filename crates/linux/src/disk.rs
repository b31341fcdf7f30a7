//! Block devices and the sizes of file systems on them: size, discard, growing ext4 and xfs while they are mounted.
#![allow(unsafe_code, reason = "the kernel's own structures are passed to it")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::{Result, ResultExt};

/// `BLKGETSIZE64`, `BLKDISCARD`.
const GET_SIZE: u32 = rustix::ioctl::opcode::read::<usize>(0x12, 114);
const DISCARD: u32 = rustix::ioctl::opcode::none(0x12, 119);
/// `EXT4_IOC_RESIZE_FS`, `XFS_IOC_FSGROWFSDATA`.
const EXT4_RESIZE: u32 = rustix::ioctl::opcode::write::<u64>(b'f', 16);
const XFS_GROW: u32 = rustix::ioctl::opcode::write::<XfsGrow>(b'X', 110);

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    most_inodes_percent: u32,
}

/// Bytes of a block device.
pub fn size(device: &OwnedFd) -> Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the order fills a number of 64 bits.
    unsafe { order(device, GET_SIZE, &mut bytes) }.during("read size of", "block device")?;
    Ok(bytes)
}

/// Tells a block device, which must be open for writing, that nobody needs what it has.
pub fn discard(device: &OwnedFd) -> Result<()> {
    let mut range = [0, size(device)?];
    // SAFETY: the order reads two numbers of 64 bits.
    unsafe { order(device, DISCARD, &mut range) }.during("discard", "block device")
}

/// Grows the ext4 that is mounted to a number of bytes; more than its device has is refused.
pub fn grow_ext4(root: &OwnedFd, bytes: u64) -> Result<()> {
    let mut blocks = bytes / block_size(root)?;
    // SAFETY: the order reads a number of 64 bits.
    unsafe { order(root, EXT4_RESIZE, &mut blocks) }.during("grow", "ext4")
}

/// Grows the xfs that is mounted to a number of bytes; more than its device has is refused.
pub fn grow_xfs(root: &OwnedFd, bytes: u64) -> Result<()> {
    // As many of its blocks may be inodes as now: 25 of 100 is what mkfs.xfs gives file systems below a terabyte.
    let mut wanted = XfsGrow { blocks: bytes / block_size(root)?, most_inodes_percent: 25 };
    // SAFETY: the order reads this structure.
    unsafe { order(root, XFS_GROW, &mut wanted) }.during("grow", "xfs")
}

fn block_size(root: &OwnedFd) -> Result<u64> {
    let stat = rustix::fs::fstatvfs(root.as_fd()).during("look at", "file system")?;
    Ok(stat.f_frsize.max(1))
}

/// # Safety
/// The argument must be what the order's number says.
unsafe fn order<T>(file: &OwnedFd, code: u32, argument: &mut T) -> std::io::Result<()> {
    // SAFETY: the caller says that the order reads or writes an argument of this type, which outlives it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), code.into(), std::ptr::from_mut(argument)) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
