//! A request with all that is known of it.

use crate::server::connection::Counted;
use gantry_transport::Peer;
use http::{HeaderMap, HeaderName, Method, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::failure::{Code, Failure, Result};
use super::hooks::{Action, Who};
use super::names::Name;
use super::route::{Query, Route};

/// A request, after [`Access`](super::Access) has let it in.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Path and query as they came.
    pub uri: Uri,
    /// What its path leads to.
    pub route: Route,
    /// What follows the question mark.
    pub query: Query,
    /// Its headers.
    pub headers: HeaderMap,
    /// The other end of the connection.
    pub peer: Peer,
    /// The subject of the certificate that the other end showed.
    pub certificate: Option<String>,
    /// Who asks.
    pub who: Who,
}

impl Request {
    /// A header's text; none where it is not there or no text.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether only the head of the answer is wanted.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// What has to be allowed for it.
    #[must_use]
    pub fn needs(&self) -> Option<(Option<&Name>, Action)> {
        match &self.route {
            Route::Base | Route::Health | Route::Other => None,
            Route::Catalog | Route::Search => Some((None, Action::List)),
            // Whoever may push may look at the push's state and give it up.
            Route::Uploads { name } | Route::Upload { name, .. } => Some((Some(name), Action::Push)),
            Route::Blob { name, .. }
            | Route::Manifest { name, .. }
            | Route::Tags { name }
            | Route::Referrers { name, .. } => Some((Some(name), action_of(&self.method))),
        }
    }
}

fn action_of(method: &Method) -> Action {
    match *method {
        Method::GET | Method::HEAD => Action::Pull,
        Method::DELETE => Action::Delete,
        _ => Action::Push,
    }
}

/// A body as a whole, at most `limit` bytes.
pub async fn whole(body: Counted, limit: usize, what: &str) -> Result<bytes::Bytes> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("{what} is larger than the {limit} bytes that are taken here");
            Err(Failure::new(Code::SizeInvalid, message).status(http::StatusCode::PAYLOAD_TOO_LARGE))
        }
        Err(error) => Err(Failure::new(Code::Unknown, format!("{what} did not come whole: {error}"))
            .status(http::StatusCode::BAD_REQUEST)),
    }
}
