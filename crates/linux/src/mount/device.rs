//! A file system on a thin device: the device is made for the mount, and the kernel takes it away with it.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::mount::{FsOpenFlags, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::attach::{finish, refused, set_options};
use super::private::part;
use super::{Attributes, DeviceMount, set_attributes};
use crate::dm::Control;
use crate::{Result, ResultExt};

/// The directory that is the root.
pub(super) fn attach(mount: &DeviceMount) -> Result<OwnedFd> {
    let tree = part(attach_all(mount)?, &mount.directory)?;
    if mount.read_only {
        set_attributes(&tree, false, &Attributes::set(Attributes::READ_ONLY))?;
    }
    Ok(tree)
}

/// Mounts the whole file system of a device, detached. Whoever has the same device mounted shares it.
pub fn attach_all(mount: &DeviceMount) -> Result<OwnedFd> {
    let control = Control::open()?;
    let device = control.open_thin(&mount.thin)?;
    let subject = format!("{} of device {}", mount.fstype, mount.thin.name);
    let context = fsopen(&mount.fstype, FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", &mount.fstype)?;
    // Its node may have another name than anybody expects, or none any more.
    let source = format!("/proc/self/fd/{}", device.as_raw_fd());
    fsconfig_set_string(&context, "source", source).during("set option", format_args!("source of {subject}"))?;
    if !mount.writable {
        fsconfig_set_flag(&context, "ro").map_err(|error| refused(&context, "set option", "ro", error))?;
    }
    set_options(&context, &mount.fstype, &mount.options)?;
    finish(&context, &subject, 0)
}
