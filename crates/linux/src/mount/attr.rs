//! `mount_setattr(2)`: attributes and propagation of a mount or of a whole mount tree, in one step.
#![allow(unsafe_code, reason = "neither rustix nor libc wraps mount_setattr")]

use std::os::fd::{AsFd, AsRawFd};

use crate::{Error, Result};

/// What to change; bits are `MOUNT_ATTR_*` of the kernel.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear, before `set` is applied.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave the propagation alone.
    pub propagation: u64,
    /// For `MOUNT_ATTR_IDMAP`; 0 otherwise.
    pub userns_fd: u64,
}

impl Attributes {
    /// `MOUNT_ATTR_RDONLY`
    pub const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// `MOUNT_ATTR_NOSUID`
    pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// `MOUNT_ATTR_NODEV`
    pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// `MOUNT_ATTR_NOEXEC`
    pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
    /// The field that holds the access time policy; clear it before one is set.
    pub const ATIME_FIELD: u64 = libc::MOUNT_ATTR__ATIME;
    /// `MOUNT_ATTR_RELATIME`, which is 0: clear [`Self::ATIME_FIELD`].
    pub const RELATIME: u64 = libc::MOUNT_ATTR_RELATIME;
    /// `MOUNT_ATTR_NOATIME`
    pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
    /// `MOUNT_ATTR_STRICTATIME`
    pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
    /// `MOUNT_ATTR_NODIRATIME`
    pub const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
    /// `MOUNT_ATTR_NOSYMFOLLOW`
    pub const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;

    /// Bits to set and nothing else.
    #[must_use]
    pub fn set(bits: u64) -> Self {
        Self { set: bits, ..Self::default() }
    }

    /// A propagation type (`MS_PRIVATE` …) and nothing else.
    #[must_use]
    pub fn propagation(kind: u64) -> Self {
        Self { propagation: kind, ..Self::default() }
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// Changes the mount that `mount` is a descriptor of (its root), and with `recursive` those below it too.
pub fn set_attributes(mount: impl AsFd, recursive: bool, attributes: &Attributes) -> Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid C string, the attributes live until the call returns and their size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Error::new("mount_setattr", format!("{attributes:x?}"), error))
}
