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
    /// There is no container of this name.
    #[error("{0}")]
    NoSuchContainer(String),
    /// The container is not in the state that this needs, or its name is taken.
    #[error("{0}")]
    Conflict(String),
    /// The container's process could not be made.
    #[error(transparent)]
    Failed(#[from] Failure),
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
        if let Error::Failed(failure) = error {
            return failure.clone();
        }
        let kind = match error {
            Error::CommandNotFound(_) => FailureKind::CommandNotFound,
            Error::NotExecutable(_) => FailureKind::NotExecutable,
            Error::Invalid(_) | Error::NoSuchContainer(_) | Error::Conflict(_) | Error::Failed(_) => {
                FailureKind::Invalid
            }
            Error::System(_) => FailureKind::System,
        };
        let message = if kind == FailureKind::System { format!("{step}: {error}") } else { error.to_string() };
        Self { kind, step: step.to_owned(), message }
    }
}
