//! The one error of this crate; the texts are those that `docker pull` shows.

use std::time::Duration;

use gantry_api::error::ErrorKind;
use gantry_api::reference::Digest;

use crate::sink::SinkError;

/// Result of the calls in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The longest pause that a registry may ask for; longer ones are an error that says so.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);

/// `ENOSPC`.
const NO_SPACE: i32 = 28;

/// What to do about a full disk.
fn room(error: &gantry_linux::Error) -> &'static str {
    if error.errno() == NO_SPACE { ": make room, for example with `gantry system prune`, and pull again" } else { "" }
}

/// Why an image did not come, or did not go.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what the fields are")]
pub enum Error {
    #[error("manifest for {reference} not found: manifest unknown: {detail}")]
    ManifestUnknown { reference: String, detail: String },
    #[error("repository {repository} not found: name unknown: {detail}")]
    NameUnknown { repository: String, detail: String },
    #[error("pull access denied for {repository}, repository does not exist or may require 'docker login': {detail}")]
    AccessDenied { repository: String, detail: String },
    #[error("unauthorized: {detail}")]
    Unauthorized { detail: String },
    #[error("Get {url:?}: unauthorized: {detail}")]
    Login { url: String, detail: String },
    #[error("denied: {detail}")]
    Denied { detail: String },
    #[error("no basic auth credentials")]
    NoCredentials,
    #[error("toomanyrequests: {detail}")]
    TooManyRequests { detail: String, retry_after: Option<Duration> },
    #[error("{url}: received unexpected HTTP status: {status}{detail}")]
    Status { url: String, status: reqwest::StatusCode, detail: String, retry_after: Option<Duration> },
    #[error("{method} {url:?}: {reason}")]
    Network { method: &'static str, url: String, reason: String },
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform { platform: String },
    #[error(
        "image with reference {reference} was found but its platform ({found}) does not match the specified platform ({wanted})"
    )]
    OtherPlatform { reference: String, found: String, wanted: String },
    #[error(
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. \
         Suggest the author of {reference} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2"
    )]
    Schema1 { reference: String },
    #[error("{subject} verification failed for digest {expected}: the registry sent {found}")]
    Digest { subject: &'static str, expected: Digest, found: String },
    #[error("{repository}: {path}: blob unknown to registry")]
    BlobUnknown { repository: String, path: String },
    #[error("{subject}: {reason}")]
    Invalid { subject: String, reason: String },
    /// Following what the registry asked for would have given something away.
    #[error("{registry} asks for credentials at {realm}: refused, {reason}")]
    Realm { registry: String, realm: String, reason: &'static str },
    #[error("{from} redirects to {to}: refused, {reason}")]
    Redirect { from: String, to: String, reason: &'static str },
    #[error("failed to register layer: {0}")]
    Unpack(#[source] SinkError),
    #[error("failed to store the image: {0}")]
    Store(#[source] SinkError),
    /// What an earlier download, or another source, left of it is not right.
    #[error("what was there of layer {digest} has another digest")]
    Damaged { digest: Digest },
    #[error("failed to keep the download of layer {}: {source}{}", .digest.short(), room(.source))]
    Part { digest: Digest, source: gantry_linux::Error },
    #[error("unfinished downloads: {0}")]
    Parts(#[source] gantry_linux::Error),
    #[error("pull of {0} was cancelled")]
    Cancelled(String),
    #[error("push of {0} was cancelled")]
    PushCancelled(String),
    /// The store does not give what it should.
    #[error("read layer {layer} of the image: {source}")]
    Read { layer: String, source: SinkError },
    #[error("{url}: {reason}")]
    Upload { url: String, reason: String },
    /// Nobody has the bytes of a layer as the manifest has them.
    #[error("layer {digest} as it was pulled is not to be had: {reason}")]
    Lost { digest: Digest, reason: String },
}

impl Error {
    /// The kind, with its HTTP status.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::ManifestUnknown { .. }
            | Self::NameUnknown { .. }
            | Self::AccessDenied { .. }
            | Self::NoPlatform { .. }
            | Self::OtherPlatform { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } | Self::Login { .. } | Self::NoCredentials => ErrorKind::Unauthorized,
            Self::Denied { .. } => ErrorKind::Forbidden,
            Self::Schema1 { .. } => ErrorKind::InvalidParameter,
            Self::TooManyRequests { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::System,
        }
    }

    pub(crate) fn invalid(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { subject: subject.into(), reason: reason.into() }
    }

    /// The disk failed under the download of a layer.
    pub(crate) fn part(digest: &Digest) -> impl FnOnce(gantry_linux::Error) -> Self + use<> {
        let digest = digest.clone();
        |source| Self::Part { digest, source }
    }

    /// The disk failed under the directory of downloads.
    pub(crate) const fn parts(source: gantry_linux::Error) -> Self {
        Self::Parts(source)
    }

    /// Whether another registry may do better.
    pub(crate) const fn is_of_the_registry(&self) -> bool {
        !matches!(
            self,
            Self::Unpack(_)
                | Self::Store(_)
                | Self::Part { .. }
                | Self::Parts(_)
                | Self::Cancelled(_)
                | Self::Damaged { .. }
        )
    }

    /// Whether there was no space left.
    pub(crate) fn is_full(&self) -> bool {
        let mut cause: Option<&dyn std::error::Error> = Some(self);
        while let Some(error) = cause {
            let errno = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            if errno == Some(NO_SPACE) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// How long to wait before trying the same again; `None` when that is no use.
    pub(crate) fn pause(&self, usual: Duration) -> Option<Duration> {
        let asked = match self {
            Self::Network { .. } => None,
            Self::TooManyRequests { retry_after, .. } => *retry_after,
            Self::Status { status, retry_after, .. } if status.is_server_error() => *retry_after,
            _ => return None,
        };
        Some(asked.unwrap_or(usual)).filter(|pause| *pause <= PAUSE_LIMIT)
    }
}
