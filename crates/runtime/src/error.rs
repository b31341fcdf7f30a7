//! Why a command failed; what the program of a container says is no error.

use std::path::Path;

use crate::cli::Stop;

/// An error of this crate. Its text goes to the log as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// No error: help was asked for.
    #[error("{0}")]
    Help(String),
    /// What is asked for is not there or not possible.
    #[error("{0}")]
    Refused(String),
    /// The library failed.
    #[error(transparent)]
    Container(#[from] libcontainer::Error),
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] gantry_linux::Error),
    /// With what was being done.
    #[error("{0}: {1}")]
    During(String, Box<Error>),
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Print(text) => Self::Help(text),
            Stop::Usage(text) => Self::Usage(text),
        }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// With what was being done, in runc's words: engines and their tests look for them.
    pub fn during(self, what: impl Into<String>) -> Self {
        Self::During(what.into(), Box::new(self))
    }

    /// Whether there is no container of the name that was given.
    pub fn is_no_container(&self) -> bool {
        matches!(self, Self::Container(libcontainer::Error::NoSuchContainer(_)))
    }

    /// JSON that is not understood.
    pub fn json(path: &Path, error: &serde_json::Error) -> Self {
        Self::Refused(format!("{} is not understood: {error}", path.display()))
    }
}
