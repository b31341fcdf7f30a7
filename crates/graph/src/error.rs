//! What goes wrong with images at rest.

use std::path::{Path, PathBuf};

use gantry_api::ErrorKind;
use gantry_api::reference::Digest;

/// A failed operation on images, layers or the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has this name or id.
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// The image is named and cannot be read.
    #[error("image {name} is damaged: {reason}: pull or load it again, or remove it")]
    DamagedImage {
        /// As it was asked for.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer is not what was stored.
    #[error("layer {layer} of the image is damaged: {reason}: pull or load the image again")]
    DamagedLayer {
        /// Its chain id.
        layer: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else is not there: an entity, a path, content, a container's layer.
    #[error("no such {kind}: {name}")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A short id that begins several ids.
    #[error("image id {0} is ambiguous: use more digits")]
    Ambiguous(String),
    /// The state forbids it; the text says what is in the way.
    #[error("{0}")]
    Conflict(String),
    /// Whoever waited for a layer that somebody else is making has left.
    #[error("wait for layer {layer}, which another pull or load is making: cancelled")]
    Left {
        /// Its chain id.
        layer: Digest,
    },
    /// An image, manifest or name that is not what it must be; the text says why.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// What was looked at.
        what: String,
        /// Why it is refused.
        reason: String,
    },
    /// Content that is not what was promised.
    #[error("{what}: digest is {found}, want {wanted}")]
    Digest {
        /// The content: `layer`, `config` …
        what: &'static str,
        /// What was promised.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// Reading a stream failed.
    #[error("read {what}: {source}")]
    Stream {
        /// The stream: `layer sha256:…`.
        what: String,
        /// The reader's error.
        source: std::io::Error,
    },
    /// The graphdriver failed.
    #[error(transparent)]
    Driver(#[from] gantry_graphdriver::Error),
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] gantry_linux::Error),
    /// The database failed.
    #[error("database {}: {source}", path.display())]
    Database {
        /// Its file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// Result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The HTTP-shaped kind of the failure.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchImage(_) | Self::DamagedImage { .. } | Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Ambiguous(_) | Self::Invalid { .. } => ErrorKind::InvalidParameter,
            Self::Driver(gantry_graphdriver::Error::NoLimit { .. }) => ErrorKind::InvalidParameter,
            _ => ErrorKind::System,
        }
    }

    /// Whether the database found no room on the disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        let full = Some(rusqlite::ErrorCode::DiskFull);
        matches!(self, Self::Database { source, .. } if source.sqlite_error_code() == full)
    }

    /// Says which database it was, of an error that SQLite gave.
    pub(crate) fn of_database(self, file: &Path) -> Self {
        match self {
            Self::Database { source, .. } => Self::Database { path: file.to_path_buf(), source },
            other => other,
        }
    }

    /// What a stream's reader says: the stream itself is wrong, or reading it failed.
    pub(crate) fn stream(what: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        if matches!(source.kind(), InvalidData | UnexpectedEof) && source.raw_os_error().is_none() {
            Self::invalid(what, source)
        } else {
            Self::Stream { what: what.into(), source }
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Invalid { what: what.into(), reason: reason.to_string() }
    }
}

/// Inside [`crate::GraphDb`], which knows the file.
impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Self::Database { path: PathBuf::new(), source }
    }
}
