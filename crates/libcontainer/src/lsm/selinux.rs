//! SELinux: labels of programs, where the host has it.

use crate::config::{Mount, MountKind};
use crate::error::Error;

const MAGIC: u64 = 0xf97c_ff8c;

/// Whether this host labels processes.
#[must_use]
pub fn enabled() -> bool {
    rustix::fs::statfs("/sys/fs/selinux").is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(MAGIC))
}

/// Whether the kernel does not have it: one that has it and is switched off can be switched on.
pub(super) fn absent() -> bool {
    let known = gantry_linux::fs::read_to_string("/proc/filesystems");
    known.is_ok_and(|known| !known.split_ascii_whitespace().any(|name| name == "selinuxfs"))
}

/// Why a label is not applied: a program that somebody wanted confined must not run without.
pub(super) fn refused(label: &str) -> Error {
    Error::Invalid(format!("selinux is not enabled on this host: the label {label} cannot be applied; leave it out"))
}

/// File systems whose files the kernel labels by itself.
const LABELLED: [&str; 3] = ["proc", "sysfs", "mqueue"];

/// Adds the label to the options of every file system that is mounted anew.
pub(super) fn label(mounts: &mut [Mount], label: &str) {
    for mount in mounts {
        if let MountKind::Filesystem { fstype, options } = &mut mount.kind
            && !LABELLED.contains(&fstype.as_str())
        {
            options.push(("context".into(), Some(label.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_with_files_of_the_containers_get_the_label() {
        let of = |fstype: &str| Mount {
            kind: MountKind::Filesystem { fstype: fstype.into(), options: Vec::new() },
            ..Mount::default()
        };
        let mut mounts = [of("tmpfs"), of("proc"), of("devpts")];
        label(&mut mounts, "a:b:c:s0");
        let labelled = |mount: &Mount| match &mount.kind {
            MountKind::Filesystem { options, .. } => options == &[("context".into(), Some("a:b:c:s0".into()))],
            _ => false,
        };
        assert_eq!(mounts.each_ref().map(labelled), [true, false, true]);
    }
}
