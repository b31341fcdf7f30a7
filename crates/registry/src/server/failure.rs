//! What a client is told when it gets nothing: the error body of the distribution specification.

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use super::answer::{Response, json_answer};
use super::names::NameError;
use super::store::StoreError;

/// Result of what a handler does.
pub type Result<T> = std::result::Result<T, Failure>;

/// The specification's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the specification's words, which say themselves")]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unavailable,
    Unknown,
}

impl Code {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The status that goes with it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::ManifestBlobUnknown => StatusCode::NOT_FOUND,
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::PaginationNumberInvalid
            | Self::SizeInvalid
            | Self::TagInvalid => StatusCode::BAD_REQUEST,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A body went over what one request may bring.
#[derive(Debug, thiserror::Error)]
#[error("at most {0} bytes are taken in one request: send it in chunks")]
pub struct TooLarge(pub u64);

/// A refused or failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What HTTP says.
    pub status: StatusCode,
    /// What the specification says.
    pub code: Code,
    /// What a person reads.
    pub message: String,
    /// More for a machine: null where there is nothing.
    pub detail: serde_json::Value,
    /// Headers beside it: `WWW-Authenticate`, `Retry-After`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// With the code's own status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (message, detail) = (message.into(), serde_json::Value::Null);
        Self { status: code.status(), code, message, detail, headers: Vec::new() }
    }

    /// With another status.
    #[must_use]
    pub const fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// With more for a machine.
    #[must_use]
    pub fn detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = detail;
        self
    }

    /// With a header beside it.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// A body that is larger than what one request may bring.
    #[must_use]
    pub fn body_too_large(limit: u64) -> Self {
        Self::new(Code::SizeInvalid, TooLarge(limit).to_string()).status(StatusCode::PAYLOAD_TOO_LARGE)
    }

    /// A method that the path does not have.
    #[must_use]
    pub fn method(method: &http::Method, path: &str) -> Self {
        Self::new(Code::Unsupported, format!("{method} is not possible for {path:.200}"))
    }

    /// The answer that tells it.
    #[must_use]
    pub fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message });
        if !self.detail.is_null() {
            error["detail"] = self.detail;
        }
        let mut response = json_answer(self.status, &json!({ "errors": [error] }));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        let code = match error {
            NameError::Repository(_) => Code::NameInvalid,
            NameError::Tag(_) => Code::TagInvalid,
            NameError::Digest(_) => Code::DigestInvalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Full { .. } => {
                tracing::error!(%error, "the registry's storage is full");
                Self::new(Code::Unknown, error.to_string()).status(StatusCode::INSUFFICIENT_STORAGE)
            }
            StoreError::ReadOnly => Self::new(Code::Denied, error.to_string()),
            StoreError::Away { .. } => {
                tracing::error!(%error, "the registry's storage cannot be used");
                Self::new(Code::Unavailable, "the registry's storage cannot be used now; try again later")
            }
            StoreError::Damaged { .. } | StoreError::Failed { .. } => {
                // The client need not learn our paths; the log has them.
                tracing::error!(%error, "the registry's storage failed");
                Self::new(Code::Unknown, "the registry's storage failed; its log says more")
            }
        }
    }
}
