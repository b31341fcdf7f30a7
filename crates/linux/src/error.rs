//! The one error of this crate: what was attempted, on what, and the kernel's answer.

use std::io;

/// A failed kernel call, with the operation and its object.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {source}")]
pub struct Error {
    /// What was attempted, as a verb: `open`, `mount`, `rename`.
    pub operation: &'static str,
    /// What it was attempted on: a path, an interface, a cgroup.
    pub subject: String,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Result of the calls in this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps `source` with its operation and subject.
    pub fn new(operation: &'static str, subject: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { operation, subject: subject.into(), source: source.into() }
    }

    /// The errno of the failure, 0 where the kernel gave none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// Whether the object was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Adds operation and subject to a plain I/O or errno result.
pub trait ResultExt<T> {
    /// `rustix::fs::open(..).context("open", path)`.
    fn during(self, operation: &'static str, subject: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> ResultExt<T> for std::result::Result<T, E> {
    fn during(self, operation: &'static str, subject: impl std::fmt::Display) -> Result<T> {
        self.map_err(|source| Error::new(operation, subject.to_string(), source))
    }
}
