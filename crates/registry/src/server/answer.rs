//! Answers and their bodies: whole, a file's part, or what somebody still produces.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::store::Piece;

/// An answer.
pub type Response = http::Response<Body>;

/// The body of an answer.
pub enum Body {
    /// Known as a whole.
    Whole(Full<Bytes>),
    /// A part of a file.
    File(Piece),
    /// Produced by somebody, of which half is worth nothing: an error breaks the connection off. The length, where it
    /// is known.
    Stream(mpsc::Receiver<io::Result<Bytes>>, Option<u64>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::File(piece) => Poll::Ready(ready!(piece.poll_next(cx)).map(|bytes| bytes.map(Frame::data))),
            Self::Stream(receiver, left) => {
                let piece = ready!(receiver.poll_recv(cx));
                if let (Some(Ok(bytes)), Some(left)) = (&piece, left) {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(piece.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::File(piece) => piece.left() == 0,
            Self::Stream(_, left) => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::File(piece) => SizeHint::with_exact(piece.left()),
            Self::Stream(_, Some(left)) => SizeHint::with_exact(*left),
            Self::Stream(_, None) => SizeHint::default(),
        }
    }
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// An answer of JSON.
pub fn json_answer(status: StatusCode, value: &serde_json::Value) -> Response {
    let mut response = Response::new(Bytes::from(value.to_string()).into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Sets a header whose value was computed from words that were parsed.
pub fn set(response: &mut Response, name: impl Into<HeaderName>, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name.into(), value);
    }
}

/// What the specification's own headers are called.
pub mod named {
    use http::HeaderName;

    pub const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
    pub const API: HeaderName = HeaderName::from_static("docker-distribution-api-version");
    pub const UPLOAD: HeaderName = HeaderName::from_static("docker-upload-uuid");
    pub const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
    pub const TAG: HeaderName = HeaderName::from_static("oci-tag");
    pub const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
}
