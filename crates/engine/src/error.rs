//! The engine's error: a kind that maps to an HTTP status, and one sentence for a person.

use gantry_api::ErrorKind;

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What callers can act upon.
    pub kind: ErrorKind,
    /// What was attempted, on what, why it failed, what to do.
    pub message: String,
}

/// Result of a job.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self { kind: ErrorKind::$kind, message: message.into() }
            })*
        }
    };
}

constructors! {
    /// There is no such object.
    not_found => NotFound,
    /// The request is wrong as it is.
    invalid => InvalidParameter,
    /// The state of an object, or another object, stands in the way.
    conflict => Conflict,
    /// Nothing had to be done.
    not_modified => NotModified,
    /// The kernel, the disk or a peer failed.
    system => System,
    /// Docker has it, this product does not (yet).
    not_implemented => NotImplemented,
    /// Not now: shutting down, or a mode that is off.
    unavailable => Unavailable,
    /// The caller may not.
    forbidden => Forbidden,
    /// Who is calling is not known.
    unauthorized => Unauthorized,
}

impl Error {
    /// Puts `context` in front of the message.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl From<gantry_linux::Error> for Error {
    fn from(error: gantry_linux::Error) -> Self {
        Self::system(error.to_string())
    }
}

impl From<gantry_execdriver::Error> for Error {
    fn from(error: gantry_execdriver::Error) -> Self {
        use gantry_execdriver::Error as E;
        let kind = match &error {
            E::CommandNotFound(_) | E::CommandNotExecutable(_) | E::Invalid(_) => ErrorKind::InvalidParameter,
            E::NotFound(_) => ErrorKind::NotFound,
            E::System(_) => ErrorKind::System,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<gantry_networkdriver::Error> for Error {
    fn from(error: gantry_networkdriver::Error) -> Self {
        use gantry_networkdriver::Error as E;
        let kind = match &error {
            E::Invalid(_) => ErrorKind::InvalidParameter,
            E::Taken(_) => ErrorKind::Forbidden,
            E::Unknown(_) => ErrorKind::NotFound,
            E::Conflict(_) | E::Exhausted(_) | E::System(_) | E::Several(_) => ErrorKind::System,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<gantry_graphdriver::Error> for Error {
    fn from(error: gantry_graphdriver::Error) -> Self {
        use gantry_graphdriver::Error as E;
        let kind = match &error {
            E::NotFound(_) => ErrorKind::NotFound,
            E::Exists(_) => ErrorKind::Conflict,
            E::Archive(_) | E::Unknown { .. } | E::Option { .. } | E::NoLimit { .. } => ErrorKind::InvalidParameter,
            E::Unsupported { .. }
            | E::InUse(_)
            | E::Damaged { .. }
            | E::NoRoom { .. }
            | E::Inside { .. }
            | E::System(_) => ErrorKind::System,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<gantry_api::reference::ReferenceError> for Error {
    fn from(error: gantry_api::reference::ReferenceError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<gantry_api::filters::FiltersError> for Error {
    fn from(error: gantry_api::filters::FiltersError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<gantry_graph::Error> for Error {
    fn from(error: gantry_graph::Error) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}
