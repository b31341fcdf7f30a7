//! Attributes and propagation of one mount, as the kernel takes them.

use std::os::fd::OwnedFd;

use gantry_linux::mount::{Attributes, set_attributes};

use crate::config::{Mount, MountFlags, Propagation};
use crate::error::Result;

/// `MOUNT_ATTR_*` bits that are to be set.
pub fn bits(flags: MountFlags) -> u64 {
    let table = [
        (flags.read_only, Attributes::READ_ONLY),
        (flags.nosuid, Attributes::NOSUID),
        (flags.nodev, Attributes::NODEV),
        (flags.noexec, Attributes::NOEXEC),
        (flags.noatime, Attributes::NOATIME),
        (flags.strictatime && !flags.noatime, Attributes::STRICTATIME),
        (flags.nodiratime, Attributes::NODIRATIME),
        (flags.nosymfollow, Attributes::NOSYMFOLLOW),
    ];
    table.iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit)
}

/// What the kernel is told to clear, which happens before it sets. The policy of access times is one field: it is cleared
/// as a whole when one of its values is set or taken back.
fn cleared(set: MountFlags, clear: MountFlags) -> u64 {
    let times = |flags: MountFlags| flags.noatime || flags.strictatime || flags.relatime;
    let plain = bits(MountFlags { noatime: false, strictatime: false, ..clear });
    if times(set) || times(clear) { plain | Attributes::ATIME_FIELD } else { plain }
}

fn change(set: MountFlags, clear: MountFlags) -> Attributes {
    Attributes { set: bits(set), clear: cleared(set, clear), ..Attributes::default() }
}

/// Clears and sets what the mount asks for, below it too where it asks for that.
pub fn apply(tree: &OwnedFd, mount: &Mount) -> Result<()> {
    set_attributes(tree, false, &change(mount.flags, mount.cleared))?;
    Ok(set_attributes(tree, true, &change(mount.recursive, mount.recursive_cleared))?)
}

/// Whether a new mount that has the bits of `mount.flags` has everything that [`apply`] gives it.
pub fn has_nothing_more(mount: &Mount) -> bool {
    [mount.cleared, mount.recursive, mount.recursive_cleared] == [MountFlags::NONE; 3]
}

/// Changes how mount events pass, one after the other.
pub fn propagate(tree: &OwnedFd, kinds: &[Propagation]) -> Result<()> {
    for kind in kinds {
        let (kind, recursive) = match kind {
            Propagation::Private => (libc::MS_PRIVATE, false),
            Propagation::RPrivate => (libc::MS_PRIVATE, true),
            Propagation::Slave => (libc::MS_SLAVE, false),
            Propagation::RSlave => (libc::MS_SLAVE, true),
            Propagation::Shared => (libc::MS_SHARED, false),
            Propagation::RShared => (libc::MS_SHARED, true),
            Propagation::Unbindable => (libc::MS_UNBINDABLE, false),
            Propagation::RUnbindable => (libc::MS_UNBINDABLE, true),
        };
        set_attributes(tree, recursive, &Attributes::propagation(kind))?;
    }
    Ok(())
}
