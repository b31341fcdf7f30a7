//! A registry in this process: it serves what it was given, and misbehaves where it was told to.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::image::Image;
use crate::uploads::Uploads;

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// The body, where it is a form.
    pub form: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// How a body ends.
#[derive(Debug, Clone)]
pub enum End {
    Whole,
    /// The connection breaks after so many bytes.
    Break(usize),
    /// Nothing comes any more after so many bytes.
    Hang(usize),
    /// A byte comes, and after so long the next.
    Drip(std::time::Duration),
    /// The rest comes when somebody says so.
    Pause(usize, Arc<tokio::sync::Notify>),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub end: End,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), end: End::Whole }
    }

    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#))
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn ends(self, end: End) -> Self {
        Self { end, ..self }
    }
}

type Hook = Box<dyn Fn(&Seen, usize) -> Option<Reply> + Send + Sync>;
/// Paths, how many requests pass first, and where the others wait for each other.
type Gate = (Vec<String>, usize, Arc<tokio::sync::Barrier>);

#[derive(Default)]
struct State {
    replies: Mutex<HashMap<String, Reply>>,
    seen: Mutex<Vec<Seen>>,
    hook: Mutex<Option<Hook>>,
    gate: Mutex<Option<Gate>>,
    uploads: Mutex<Option<Arc<Uploads>>>,
}

/// The registry, on loopback.
pub struct Fake {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub async fn start() -> Self {
        Self::serve(Ok).await
    }

    /// With something between the socket and HTTP.
    pub async fn serve<S, F, R>(wrap: F) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(tokio::net::TcpStream) -> R + Send + Sync + Clone + 'static,
        R: IntoWrapped<S> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, wrap) = (shared.clone(), wrap.clone());
                tokio::spawn(async move {
                    let Ok(stream) = wrap(stream).wrapped().await else { return };
                    let service = service_fn(|request| answer(request, state.clone()));
                    // A client that breaks off is what some tests are about.
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        Self { address, state, task }
    }

    /// The name of an image here.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn put(&self, path: &str, reply: Reply) {
        self.state.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    /// Serves an image under a tag, its manifest under its digest too.
    pub fn image(&self, repository: &str, tag: &str, image: &Image) {
        self.document(repository, tag, &image.manifest, image.media_type());
        for (digest, blob) in image.blobs() {
            self.put(&format!("/v2/{repository}/blobs/{digest}"), Reply::new(200, blob));
        }
    }

    pub fn document(&self, repository: &str, tag: &str, raw: &[u8], media_type: &str) {
        let digest = crate::image::digest(raw);
        let reply = Reply::new(200, raw.to_vec())
            .header("content-type", media_type)
            .header("docker-content-digest", digest.to_string());
        self.put(&format!("/v2/{repository}/manifests/{tag}"), reply.clone());
        self.put(&format!("/v2/{repository}/manifests/{digest}"), reply);
    }

    /// Asked first about each request, with how often that path was asked for before.
    pub fn hook(&self, hook: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static) {
        *self.state.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Requests for `paths` are answered only when `count` of them are there.
    pub fn gate(&self, paths: Vec<String>, count: usize) {
        self.gate_from(paths, 0, count);
    }

    /// As [`Fake::gate`], for the `count` requests after the first `free` ones.
    pub fn gate_from(&self, paths: Vec<String>, free: usize, count: usize) {
        *self.state.gate.lock().unwrap() = Some((paths, free, Arc::new(tokio::sync::Barrier::new(count))));
    }

    /// From here on it can be pushed to.
    pub fn takes_uploads(&self) -> Arc<Uploads> {
        Arc::clone(self.state.uploads.lock().unwrap().get_or_insert_default())
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.contains(path)).count()
    }
}

/// What may become a connection: at once, or after a handshake.
pub trait IntoWrapped<S> {
    fn wrapped(self) -> Pin<Box<dyn Future<Output = io::Result<S>> + Send>>;
}

impl<S: Send + 'static> IntoWrapped<S> for io::Result<S> {
    fn wrapped(self) -> Pin<Box<dyn Future<Output = io::Result<S>> + Send>> {
        Box::pin(async move { self })
    }
}

impl<S: Send + 'static> IntoWrapped<S> for Pin<Box<dyn Future<Output = io::Result<S>> + Send>> {
    fn wrapped(self) -> Self {
        self
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> io::Result<Response<FakeBody>> {
    let (head, body) = request.into_parts();
    let is_form = head.headers.get("content-type").is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    let (form, body) = match is_form {
        true => (body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec(), None),
        false => (Vec::new(), Some(body)),
    };
    let seen = Seen {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        form: String::from_utf8(form).unwrap(),
    };
    let before = state.seen.lock().unwrap().iter().filter(|earlier| earlier.path == seen.path).count();
    state.seen.lock().unwrap().push(seen.clone());
    let gate = state.gate.lock().unwrap().clone();
    if let Some((paths, free, barrier)) = gate
        && paths.contains(&seen.path)
        && (free == 0 || (free..free + 2).contains(&before))
    {
        barrier.wait().await;
    }
    let hooked = state.hook.lock().unwrap().as_ref().and_then(|hook| hook(&seen, before));
    let uploads = state.uploads.lock().unwrap().clone();
    let reply = match (hooked, uploads, body) {
        (Some(reply), ..) => reply,
        (None, Some(uploads), Some(body)) => match uploads.answer(&seen, body).await? {
            Some(reply) => reply,
            None => usual(&state, &seen),
        },
        _ => usual(&state, &seen),
    };
    Ok(response(reply, &seen.method))
}

fn usual(state: &State, seen: &Seen) -> Reply {
    if seen.path == "/v2/" {
        return Reply::new(200, "{}");
    }
    let Some(reply) = state.replies.lock().unwrap().get(&seen.path).cloned() else {
        let code = if seen.path.contains("/manifests/") { "MANIFEST_UNKNOWN" } else { "BLOB_UNKNOWN" };
        return Reply::error(404, code, "manifest unknown");
    };
    let span = seen.header("range").and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        let last = reply.body.len() - 1;
        Some((from.parse::<usize>().ok()?, to.parse::<usize>().map_or(last, |to| to.min(last))))
    });
    match span {
        Some((from, to)) => {
            let range = format!("bytes {from}-{to}/{}", reply.body.len());
            Reply { status: 206, body: reply.body.slice(from..=to), ..reply }.header("content-range", range)
        }
        None => reply,
    }
}

fn response(reply: Reply, method: &Method) -> Response<FakeBody> {
    let mut builder = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
    // Without a length where the reply says that it comes in chunks.
    if !reply.headers.iter().any(|(name, _)| *name == "transfer-encoding") {
        builder = builder.header("content-length", reply.body.len());
    }
    for (name, value) in &reply.headers {
        builder = builder.header(*name, value);
    }
    let body = if *method == Method::HEAD { Bytes::new() } else { reply.body };
    builder.body(FakeBody { data: body, end: reply.end, started: false, flushed: false, paused: None }).unwrap()
}

struct FakeBody {
    data: Bytes,
    end: End,
    started: bool,
    flushed: bool,
    paused: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Body for FakeBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let length = match self.end {
            End::Whole => self.data.len(),
            End::Break(length) | End::Hang(length) | End::Pause(length, _) => length,
            End::Drip(_) => 0,
        };
        if !self.started && length > 0 {
            self.started = true;
            return Poll::Ready(Some(Ok(Frame::data(self.data.slice(..length)))));
        }
        let flushed = std::mem::replace(&mut self.flushed, true);
        match self.end.clone() {
            End::Whole => Poll::Ready(None),
            // One moment in which what was said goes out.
            End::Break(_) if !flushed => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            End::Break(_) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            End::Hang(_) => Poll::Pending,
            End::Drip(pause) => {
                let paused = self.paused.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
                std::task::ready!(paused.as_mut().poll(cx));
                self.paused = None;
                let length = self.data.len().min(1);
                let drop = self.data.split_to(length);
                Poll::Ready((!drop.is_empty()).then(|| Ok(Frame::data(drop))))
            }
            End::Pause(length, gate) => {
                let paused = self.paused.get_or_insert_with(|| Box::pin(async move { gate.notified().await }));
                std::task::ready!(paused.as_mut().poll(cx));
                self.end = End::Whole;
                Poll::Ready(Some(Ok(Frame::data(self.data.slice(length..)))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
