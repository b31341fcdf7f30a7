//! SELinux: labels of programs, where the host has it.

use crate::error::Error;

const MAGIC: u64 = 0xf97c_ff8c;

/// Whether this host labels processes.
#[must_use]
pub fn enabled() -> bool {
    rustix::fs::statfs("/sys/fs/selinux").is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(MAGIC))
}

/// Why a label is not applied: a program that somebody wanted confined must not run without.
pub(super) fn refused(label: &str) -> Error {
    Error::Invalid(format!("selinux is not enabled on this host: the label {label} cannot be applied; leave it out"))
}
