//! Messages of long transfers: one JSON object a line, as `docker pull` shows them.

use serde::{Deserialize, Serialize};

/// One message of a progress stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// `Downloading`, `Pull complete`, or a whole sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Raw output of a build, printed as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// How far it is.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub detail: Option<ProgressDetail>,
    /// A bar drawn by the daemon, for clients that draw none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// The layer or object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The transfer failed: code and message.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    /// The transfer failed: the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Facts for programs, such as the digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// How far a transfer is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    /// Done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// Of how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// A failed transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    /// HTTP-like code, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// The message.
    pub message: String,
}

impl Progress {
    /// A sentence about the whole transfer.
    #[must_use]
    pub fn status(status: impl Into<String>) -> Self {
        Self { status: status.into(), ..Self::default() }
    }

    /// The state of one object, without numbers.
    #[must_use]
    pub fn object(id: impl Into<String>, status: impl Into<String>) -> Self {
        Self { id: Some(id.into()), status: status.into(), detail: Some(ProgressDetail::default()), ..Self::default() }
    }

    /// The state of one object, with numbers.
    #[must_use]
    pub fn transfer(id: impl Into<String>, status: impl Into<String>, current: u64, total: Option<u64>) -> Self {
        let detail = Some(ProgressDetail { current: Some(current), total });
        Self { detail, ..Self::object(id, status) }
    }

    /// The end of a transfer that failed.
    #[must_use]
    pub fn failure(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error: Some(message.clone()),
            error_detail: Some(ErrorDetail { code: None, message }),
            ..Self::default()
        }
    }
}
