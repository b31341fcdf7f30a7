//! The error body, and the kinds of failure with their HTTP status.

use serde::{Deserialize, Serialize};

/// What every failed request answers: `{"message": "…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence for a person.
    pub message: String,
}

/// The kind of a failure, as callers can act upon it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it; the numbers are in `status`")]
pub enum ErrorKind {
    NotModified,
    InvalidParameter,
    Unauthorized,
    Forbidden,
    NotFound,
    NotAllowed,
    Conflict,
    TooLarge,
    System,
    NotImplemented,
    Unavailable,
}

impl ErrorKind {
    /// The HTTP status that Docker answers.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NotModified => 304,
            Self::InvalidParameter => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::NotAllowed => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::System => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
        }
    }
}
