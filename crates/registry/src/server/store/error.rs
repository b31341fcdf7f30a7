//! What a storage says when it did not do it.

use rustix::io::Errno;

/// Why the storage did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No space, or a quota of the file system.
    #[error("{what}: no space left on the registry's storage; delete images and collect garbage, or give it more")]
    Full {
        /// What was attempted, on what.
        what: String,
    },
    /// It only reads.
    #[error("this registry is read-only")]
    ReadOnly,
    /// What is there is not what was written.
    #[error("{what} is damaged: {reason}; push it anew")]
    Damaged {
        /// What.
        what: String,
        /// How that was seen.
        reason: String,
    },
    /// It is elsewhere, and cannot be asked now.
    #[error("{what}")]
    Away {
        /// What was attempted, on what, and why it failed.
        what: String,
    },
    /// Anything else.
    #[error("{what}")]
    Failed {
        /// What was attempted, on what, and why it failed.
        what: String,
    },
}

/// Result of the calls of a storage.
pub type Result<T> = std::result::Result<T, StoreError>;

impl From<gantry_linux::Error> for StoreError {
    fn from(error: gantry_linux::Error) -> Self {
        // Not every error has an errno: 0 is none, and no `Errno` either.
        let is = |errno: Errno| error.errno() == errno.raw_os_error();
        if is(Errno::NOSPC) || is(Errno::DQUOT) {
            Self::Full { what: format!("{} {}", error.operation, error.subject) }
        } else if is(Errno::ROFS) {
            Self::ReadOnly
        } else {
            Self::Failed { what: error.to_string() }
        }
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Only a runtime that shuts down cancels it, and that drops this future, too.
        Err(_) => std::future::pending().await,
    }
}
