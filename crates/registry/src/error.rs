//! The one error of this crate; the texts are those that `docker pull` shows.

use std::time::Duration;

use gantry_api::error::ErrorKind;
use gantry_api::reference::Digest;

use crate::sink::SinkError;

/// Result of the calls in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The longest pause that a registry may ask for; longer ones are an error that says so.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);

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
