//! The one error of this crate; the texts are those that people search for.

use std::io;
use std::path::PathBuf;

use crate::Endpoint;

/// Result of the calls in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a door could not be opened, found or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the name of an endpoint.
    #[error("unable to parse docker host `{text}`: {reason}")]
    Endpoint {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")]
    NotRunning {
        /// Where.
        endpoint: Endpoint,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error("permission denied while trying to connect to the Docker daemon socket at {endpoint}: {advice}")]
    Denied {
        /// Where.
        endpoint: Endpoint,
        /// Whom it is for.
        advice: String,
    },
    /// The connection failed in another way.
    #[error("error during connect: {endpoint}: {source}")]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The name has no address.
    #[error("no address is known for {host:?} ({reason}): give an IP address, or add the name to /etc/hosts")]
    UnknownHost {
        /// The name.
        host: String,
        /// Who was asked, and what came of it.
        reason: String,
    },
    /// The listener could not be made.
    #[error("cannot listen on {endpoint}: {reason}")]
    Listen {
        /// Where.
        endpoint: Endpoint,
        /// Why, and what to do.
        reason: String,
    },
    /// A certificate, a key or a list of authorities cannot be used.
    #[error("TLS: {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// TLS cannot be spoken at all.
    #[error("TLS: {reason}")]
    Tls {
        /// Why, and what to do.
        reason: String,
    },
    /// One of both ends did not like the other.
    #[error("error during connect: {endpoint}: {reason}")]
    Handshake {
        /// Where.
        endpoint: Endpoint,
        /// Why, and what to do.
        reason: String,
    },
    /// The conversation broke.
    #[error("error during connect: {endpoint}: {source}")]
    Http {
        /// With whom.
        endpoint: Endpoint,
        /// hyper's account of it.
        source: hyper::Error,
    },
}

impl Error {
    /// Whether no daemon is there at all, so that starting one could help.
    #[must_use]
    pub const fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }

    pub(crate) fn listen(endpoint: &Endpoint, reason: impl std::fmt::Display) -> Self {
        Self::Listen { endpoint: endpoint.clone(), reason: reason.to_string() }
    }
}

/// What the kernel says of a failed call, without Rust's "(os error N)".
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
