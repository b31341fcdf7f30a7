//! A failed request: a status and the sentence that its body carries.

use gantry_api::{ErrorBody, ErrorKind};
use hyper::StatusCode;

use crate::respond::{Response, json};

/// Why a request was not served.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    message: String,
}

/// Result of a handler.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// With this status.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, message: message.into() }
    }

    /// The request is wrong as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameter, message)
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            let mut response = Response::default();
            *response.status_mut() = self.status;
            return response;
        }
        json(self.status, &ErrorBody { message: self.message })
    }
}

impl From<gantry_engine::Error> for Failure {
    fn from(error: gantry_engine::Error) -> Self {
        Self::new(error.kind, error.message)
    }
}
