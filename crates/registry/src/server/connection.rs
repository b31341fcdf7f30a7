//! One connection: requests in, answers out, and whoever watches is told.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use gantry_transport::{Peer, Stream};
use http::{HeaderValue, StatusCode, header};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::answer::{Body, Response, named};
use super::direct::{Direct, Outgoing};
use super::failure::{Failure, Result, TooLarge};
use super::handlers;
use super::hooks::{Ask, Exchange, Observer, Who};
use super::patient::Patient;
use super::request::Request;
use super::request_id::{REQUEST_ID, request_id};
use super::route::{Query, Route};
use super::serve::Server;

/// The longest silence in the middle of a request's body, and while an answer is not taken.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What is read of a connection at once, per connection: memory stays flat.
const BUFFER: usize = 256 << 10;

/// Serves a connection until it ends or, between two requests, `stop`; one that is to be refused for one request.
pub async fn serve(
    server: Arc<Server>,
    stream: Stream,
    peer: Peer,
    certificate: Option<String>,
    refusal: Option<Failure>,
    stop: CancellationToken,
) {
    let patience = refusal.as_ref().map(|_| server.settings.refusal);
    let outgoing = Arc::new(Outgoing::default());
    let sends = Direct::is_possible(&stream).then(|| Arc::clone(&outgoing));
    let service = service_fn(move |request| {
        let (server, peer, certificate) = (Arc::clone(&server), peer.clone(), certificate.clone());
        let (sends, refusal) = (sends.clone(), refusal.clone());
        async move {
            let mut response = exchange(server, request, peer, certificate, refusal).await;
            if let (Some(sends), Body::File(piece)) = (sends, &mut response.body_mut().body) {
                piece.send_to(sends);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.unwrap_or(HEAD_TIMEOUT))
        .max_buf_size(BUFFER)
        // Never copied into a buffer of its own: what stands for a file has to reach the socket as it is.
        .writev(true)
        .serve_connection(TokioIo::new(Patient::new(Direct::new(stream, outgoing), SILENCE)), service);
    if let Some(patience) = patience {
        let refused = async {
            let parts = connection.without_shutdown().await.map_err(io::Error::other)?;
            leave(parts.io.into_inner(), patience).await
        };
        return ended(tokio::select! {
            result = refused => result,
            () = stop.cancelled() => Ok(()),
        });
    }
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended(result);
}

/// Ends a connection whose client may still be sending: closed with bytes unread it would be reset, and the answer lost.
async fn leave(mut stream: impl AsyncRead + AsyncWrite + Unpin, patience: Duration) -> io::Result<()> {
    stream.shutdown().await?;
    let mut nowhere = tokio::io::sink();
    match tokio::time::timeout(patience, tokio::io::copy(&mut stream, &mut nowhere)).await {
        Ok(taken) => taken.map(drop),
        Err(_) => Ok(()),
    }
}

/// A client that goes away in the middle is no fault of ours.
fn ended(result: std::result::Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        debug!("a connection ended: {error}");
    }
}

/// A request's body, counted, and given up when nothing of it comes any more.
pub struct Counted {
    body: Incoming,
    count: Arc<AtomicU64>,
    /// More than this is not taken.
    limit: u64,
    silence: Pin<Box<Sleep>>,
    is_silent: bool,
}

impl Counted {
    fn new(body: Incoming, count: Arc<AtomicU64>) -> Self {
        Self { body, count, limit: u64::MAX, silence: Box::pin(tokio::time::sleep(SILENCE)), is_silent: false }
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            // Only what we wait for counts: our own disk may take its time.
            if !std::mem::replace(&mut self.is_silent, true) {
                self.silence.as_mut().reset(Instant::now() + SILENCE);
            }
            ready!(self.silence.as_mut().poll(cx));
            let reason = format!("nothing came for {} s", SILENCE.as_secs());
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, reason))));
        };
        self.is_silent = false;
        let frame = frame.map(|frame| frame.map_err(io::Error::other));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let length = data.len() as u64;
            let before = self.count.fetch_add(length, Ordering::Relaxed);
            if before + length > self.limit {
                return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::FileTooLarge, TooLarge(self.limit)))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that tells the observers when it has ended, or was given up.
pub struct Watched {
    body: Body,
    watch: Watch,
}

struct Watch {
    exchange: Exchange,
    began: Instant,
    received: Arc<AtomicU64>,
    observers: Vec<Arc<dyn Observer>>,
    left: Option<u64>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.exchange.took = self.began.elapsed();
        self.exchange.received = self.received.load(Ordering::Relaxed);
        self.exchange.whole = self.left == Some(0);
        for observer in &self.observers {
            observer.ended(&self.exchange);
        }
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let watch = &mut self.watch;
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                watch.exchange.sent += length;
                watch.left = watch.left.map(|left| left.saturating_sub(length));
            }
            Some(Err(error)) => debug!("an answer broke off: {error}"),
            // Of a length that was promised, what did not come is still left.
            None => watch.left = Some(watch.left.unwrap_or(0)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn exchange(
    server: Arc<Server>,
    request: hyper::Request<Incoming>,
    peer: Peer,
    certificate: Option<String>,
    refusal: Option<Failure>,
) -> http::Response<Watched> {
    let began = Instant::now();
    let received = Arc::new(AtomicU64::new(0));
    for observer in &server.observers {
        observer.began();
    }
    let (parts, body) = request.into_parts();
    let id = request_id(&parts.headers);
    let shown_id = HeaderValue::try_from(id.as_str());
    let exchange = Exchange {
        id,
        peer,
        user: None,
        method: parts.method.clone(),
        target: parts.uri.to_string(),
        route: None,
        status: StatusCode::OK,
        received: 0,
        sent: 0,
        whole: false,
        took: Duration::ZERO,
        agent: parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).map(str::to_owned),
    };
    // From here on it is told, also when the client goes away while a handler works.
    let observers = server.observers.clone();
    let mut watch = Watch { exchange, began, received: Arc::clone(&received), observers, left: None };
    let body = Counted::new(body, received);
    let head = parts.method == http::Method::HEAD;
    let answered = match refusal {
        Some(refusal) => Err(refusal.header(header::CONNECTION, HeaderValue::from_static("close"))),
        None => answer(&server, parts, body, certificate, &mut watch.exchange).await,
    };
    let mut response = answered.unwrap_or_else(Failure::into_response);
    response.headers_mut().insert(named::API, HeaderValue::from_static("registry/2.0"));
    response.headers_mut().extend(shown_id.ok().map(|id| (REQUEST_ID, id)));
    watch.exchange.status = response.status();
    watch.left = if head { Some(0) } else { response.body().size_hint().exact() };
    response.map(|body| Watched { body, watch })
}

async fn answer(
    server: &Arc<Server>,
    parts: http::request::Parts,
    mut body: Counted,
    certificate: Option<String>,
    exchange: &mut Exchange,
) -> Result<Response> {
    let mut route = Route::parse(parts.uri.path())?;
    let query = Query::parse(parts.uri.query())?;
    // What follows, access before all, is about the repository that is meant.
    if let (Some(cache), Some(name)) = (&server.upstream, route.repository())
        && let Some(meant) = cache.meant(name, query.get("ns"))
    {
        route = route.renamed(meant);
    }
    exchange.route = Some(route.clone());
    let mut request = Request {
        method: parts.method,
        uri: parts.uri,
        route,
        query,
        headers: parts.headers,
        peer: exchange.peer.clone(),
        certificate,
        who: Who::default(),
    };
    request.who = server
        .access
        .admit(Ask {
            peer: &request.peer,
            certificate: request.certificate.as_deref(),
            method: &request.method,
            route: &request.route,
            headers: &request.headers,
            needs: request.needs(),
        })
        .await?;
    exchange.user.clone_from(&request.who.user);
    body.limit = server.access.body_limit().unwrap_or(u64::MAX);
    handlers::answer(server, &request, body).await
}
