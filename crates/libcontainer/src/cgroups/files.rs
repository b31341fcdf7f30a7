//! The kernel's small files: read bounded, written in one call.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use gantry_linux::{Error, Result, fs};

/// No cgroup file that we read is longer than this.
const LONGEST: usize = 1 << 20;

/// Reads a cgroup file, bounded.
pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string_up_to(path, LONGEST)
}

/// As [`read`]; `None` where there is no such file.
pub(super) fn read_optional(path: &Path) -> Result<Option<String>> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// One write(2), without creating or truncating.
pub(super) fn put(path: &Path, data: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(data.as_bytes())
}

/// The number that a file or a field consists of; 0 when it is none.
pub(super) fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The number behind a name, in lines of `name number`; 0 when the name is not there.
pub(super) fn field(text: &str, name: &str) -> u64 {
    let value = |l: &str| l.split_once(' ').filter(|(n, _)| *n == name).map(|(_, v)| number(v));
    text.lines().find_map(value).unwrap_or(0)
}

/// Whether the cgroup has gone meanwhile.
pub(super) fn gone(error: &Error) -> bool {
    error.is_not_found() || error.errno() == libc::ENODEV
}

/// What the kernel or its configuration does not offer.
pub(super) fn unsupported(operation: &'static str, subject: impl Display, why: impl Into<String>) -> Error {
    Error::new(operation, subject.to_string(), std::io::Error::new(ErrorKind::Unsupported, why.into()))
}

/// What cannot be meant.
pub(super) fn invalid(operation: &'static str, subject: impl Display, why: impl Into<String>) -> Error {
    Error::new(operation, subject.to_string(), std::io::Error::new(ErrorKind::InvalidInput, why.into()))
}

/// Not in time.
pub(super) fn timed_out(operation: &'static str, subject: impl Display, why: &'static str) -> Error {
    Error::new(operation, subject.to_string(), std::io::Error::new(ErrorKind::TimedOut, why))
}
