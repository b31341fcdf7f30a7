//! Where others have their say: who may do what, who watches, what else is answered.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use gantry_transport::{Peer, Stream};
use http::{HeaderMap, Method, StatusCode};

use super::answer::Response;
use super::auth::Verified;
use super::failure::Result;
use super::gc::Collected;
use super::names::Name;
use super::request::Request;
use super::route::{Query, Route};

/// A future that a trait object returns.
pub type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;

/// What somebody wants to do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read it.
    Pull,
    /// Add to it.
    Push,
    /// Take from it.
    Delete,
    /// See which repositories there are.
    List,
    /// Read of an upstream what was asked for, and allowed, under its name there.
    Mirror,
}

/// Who asks, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The name that was proven; none of the anonymous.
    pub user: Option<String>,
    /// The token that was shown, with what it grants. Read by [`Access`] only.
    pub token: Option<Arc<Verified>>,
}

/// What [`Access`] decides on.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The other end of the connection.
    pub peer: &'a Peer,
    /// The subject of the certificate that the other end showed.
    pub certificate: Option<&'a str>,
    /// The request's method.
    pub method: &'a Method,
    /// What is asked for.
    pub route: &'a Route,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// What has to be allowed; none for `/v2/` itself, which says whether credentials are good.
    pub needs: Option<(Option<&'a Name>, Action)>,
}

/// May this caller do this here? Asked before each handler.
pub trait Access: Send + Sync {
    /// Lets the request through and says who asks, or refuses it: 401 with a challenge, 403, 429, 413.
    fn admit<'a>(&'a self, ask: Ask<'a>) -> Future<'a, Result<Who>>;

    /// Whether who was let in may do something else, too: pull what is mounted, see a name in a list.
    fn may(&self, who: &Who, repository: &Name, action: Action) -> bool;

    /// The largest body of a request, whether it says its length or not.
    fn body_limit(&self) -> Option<u64> {
        None
    }

    /// How many connections of one address are served at once, 0 for as many as come; the server decides where it is none.
    fn connection_limit(&self) -> Option<usize> {
        None
    }

    /// Whether who was let in may pull from every repository there is: then a blob is mounted from wherever it is.
    fn may_pull_all(&self, _: &Who) -> bool {
        false
    }
}

/// Everybody may do everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anybody;

impl Access for Anybody {
    fn admit<'a>(&'a self, _: Ask<'a>) -> Future<'a, Result<Who>> {
        Box::pin(async { Ok(Who::default()) })
    }

    fn may(&self, _: &Who, _: &Name, _: Action) -> bool {
        true
    }

    fn may_pull_all(&self, _: &Who) -> bool {
        true
    }
}

/// What became of a request, after the last byte of its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Names the request: the client's `X-Request-Id`, or one of ours.
    pub id: String,
    /// The other end of the connection.
    pub peer: Peer,
    /// Who it was.
    pub user: Option<String>,
    /// The request's method.
    pub method: Method,
    /// Path and query as they came.
    pub target: String,
    /// What the path was taken for; none when it was nothing.
    pub route: Option<Route>,
    /// The answer's status.
    pub status: StatusCode,
    /// Bytes of the request's body that were read.
    pub received: u64,
    /// Bytes of the answer's body that went out.
    pub sent: u64,
    /// Whether the answer went out whole.
    pub whole: bool,
    /// From the request's head to the answer's last byte.
    pub took: Duration,
    /// What the client calls itself.
    pub agent: Option<String>,
}

/// Told of every request: metrics, the access log.
pub trait Observer: Send + Sync {
    /// A request begins; [`Observer::ended`] follows.
    fn began(&self) {}

    /// A request has ended.
    fn ended(&self, exchange: &Exchange);

    /// A collection of garbage has ended.
    fn collected(&self, _: &Collected) {}
}

/// Answers paths that are not the protocol's: `/metrics`, `/token`.
pub trait Door: Send + Sync {
    /// Whether the path is this door's. Nothing that is posted to any other is read.
    fn is_at(&self, path: &str) -> bool;

    /// The answer at this door's path. What was posted comes as a form.
    fn answer<'a>(&'a self, request: &'a Request, form: &'a Query) -> Future<'a, Result<Response>>;
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct SecuredStream {
    /// What the requests travel on.
    pub stream: Stream,
    /// The subject of the certificate that the client showed.
    pub certificate: Option<String>,
}

/// TLS: makes of an accepted connection one that is secured.
pub trait Secure: Send + Sync {
    /// Shakes hands. The caller bounds the time.
    fn secure(&self, stream: Stream) -> Future<'_, std::io::Result<SecuredStream>>;
}
