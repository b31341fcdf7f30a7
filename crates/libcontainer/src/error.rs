//! Why a container could not be made or a process not be started, in terms that map to Docker's exit codes.

use serde::{Deserialize, Serialize};

/// What went wrong on this side of a report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program, or the interpreter that it names, is not in the container (127).
    #[error("{0}")]
    CommandNotFound(String),
    /// The program is there and cannot be executed (126).
    #[error("{0}")]
    NotExecutable(String),
    /// The configuration asks for something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] gantry_linux::Error),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure on its way from the new process to whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// The step of the start at which it happened.
    pub step: String,
    /// For people: what was attempted, on what, and why it failed.
    pub message: String,
}

/// The kinds of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see Error")]
pub enum FailureKind {
    CommandNotFound,
    NotExecutable,
    Invalid,
    System,
}

impl Failure {
    /// Of an error at a step.
    #[must_use]
    pub fn new(step: &str, error: &Error) -> Self {
        let kind = match error {
            Error::CommandNotFound(_) => FailureKind::CommandNotFound,
            Error::NotExecutable(_) => FailureKind::NotExecutable,
            Error::Invalid(_) => FailureKind::Invalid,
            Error::System(_) => FailureKind::System,
        };
        let message = if kind == FailureKind::System { format!("{step}: {error}") } else { error.to_string() };
        Self { kind, step: step.to_owned(), message }
    }
}
