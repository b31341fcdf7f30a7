//! Why a command failed: what is written to standard error, and the status it leaves behind.

use std::io;

use http::StatusCode;

/// Result of what commands do.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Exit status of a writer whose reader has gone, as a shell reports SIGPIPE.
const BROKEN_PIPE: u8 = 128 + 13;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub code: u8,
    /// For standard error; nothing is written when it is empty.
    pub message: String,
    /// What the daemon answered, when it was the daemon.
    pub status: Option<StatusCode>,
    /// Whether no daemon could be reached.
    pub unreachable: bool,
}

impl Failure {
    /// A failure with the usual status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_code(1, message)
    }

    /// A failure with a status of its own.
    pub fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: None, unreachable: false }
    }

    /// Nothing to say, but a status.
    pub fn silent(code: u8) -> Self {
        Self::with_code(code, "")
    }

    /// What the daemon refused.
    pub fn daemon(status: StatusCode, message: &str) -> Self {
        let message = format!("Error response from daemon: {message}");
        Self { status: Some(status), ..Self::new(message) }
    }

    /// Whether the daemon said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// As one failure: every message on a line of its own. Those without a message were told already.
    pub fn join(mut failures: Vec<Self>) -> Result<()> {
        failures.retain(|failure| !failure.message.is_empty());
        if failures.is_empty() {
            return Ok(());
        }
        let unreachable = failures.iter().all(|failure| failure.unreachable);
        let mut messages: Vec<_> = failures.into_iter().map(|failure| failure.message).collect();
        if unreachable {
            messages.dedup();
        }
        Err(Self { unreachable, ..Self::new(messages.join("\n")) })
    }
}

impl From<gantry_transport::Error> for Failure {
    fn from(error: gantry_transport::Error) -> Self {
        Self { unreachable: error.is_not_running(), ..Self::new(error.to_string()) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(BROKEN_PIPE);
        }
        Self::new(error.to_string())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("cannot read the daemon's answer: {error}"))
    }
}

/// What the system says about a failed call, without Rust's "(os error N)".
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
