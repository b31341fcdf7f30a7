//! What the library asks of the keeper, and what that answers.

use libcontainer::{Error, FailureKind};
use serde::{Deserialize, Serialize};

/// One request. Its packet carries the socket for the answer, then the standard streams where there are any.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// The state directory, absolute.
    pub root: String,
    /// The container.
    pub id: String,
    /// What to do with it.
    pub what: What,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum What {
    /// Make it from an absolute path's bundle.
    Create { bundle: String, options: Options },
    /// Start its program.
    Start,
    /// Run a further process, described in JSON.
    Exec { process: String, options: Options },
    /// Remove it.
    Delete { force: bool },
    /// Answer when the first process (0) or an exec's has ended.
    Wait { pid: i32 },
}

/// What a caller chose.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Options {
    pub console_socket: Option<String>,
    pub pid_file: Option<String>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub ignore_paused: bool,
}

/// The answer to a call.
pub type Answer = Result<Done, Refusal>;

/// What was done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// What was left out, a line each.
    pub warnings: Vec<String>,
    /// The new process.
    pub pid: i32,
    /// How the awaited process ended; `None` where the keeper is not its parent.
    pub code: Option<i32>,
}

/// Why something was not done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    pub kind: Kind,
    pub text: String,
}

/// The kinds of failures; the numbers are the header's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(i32)]
pub enum Kind {
    Invalid = -1,
    NotFound = -2,
    Conflict = -3,
    CommandNotFound = -4,
    NotExecutable = -5,
    System = -6,
    Timeout = -7,
    Internal = -8,
}

impl Refusal {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What is wrong with a container itself is said in the words of runc, without its name.
    #[must_use]
    pub fn of(self, id: &str) -> Self {
        match self.kind {
            Kind::NotFound | Kind::Conflict => Self { text: format!("{id}: {}", self.text), ..self },
            _ => self,
        }
    }

    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, text)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::CommandNotFound(_) => Kind::CommandNotFound,
            Error::NotExecutable(_) => Kind::NotExecutable,
            Error::Invalid(_) => Kind::Invalid,
            Error::NoSuchContainer(_) => Kind::NotFound,
            Error::Conflict(_) => Kind::Conflict,
            Error::System(_) => Kind::System,
            Error::Failed(failure) => match failure.kind {
                FailureKind::CommandNotFound => Kind::CommandNotFound,
                FailureKind::NotExecutable => Kind::NotExecutable,
                FailureKind::Invalid => Kind::Invalid,
                FailureKind::System => Kind::System,
            },
        };
        Self::new(kind, error.to_string())
    }
}

impl From<gantry_linux::Error> for Refusal {
    fn from(error: gantry_linux::Error) -> Self {
        Self::new(Kind::System, error.to_string())
    }
}
