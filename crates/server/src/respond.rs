//! Answers: JSON, nothing, a stream that a job writes, a connection that a job takes over.

use std::sync::Arc;

use bytes::Bytes;
use gantry_api::stream::{MULTIPLEXED, RAW};
use gantry_engine::stream::{Connection, Hijack, Opening, Outlet, OutletReader};
use gantry_engine::{Engine, Environment, Job};
use gantry_transport::{Hijacked, Stream};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{StatusCode, header::HeaderName};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::body::Body;
use crate::crowd::Places;
use crate::error::{Failure, Result};
use crate::relay::into_descriptor;
use crate::request::Request;

/// The answer to a request.
pub type Response = hyper::Response<Body>;

/// A JSON document.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    let mut response = hyper::Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON document with status 200.
pub fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

/// A status without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Runs a job that writes the body; waits until the job accepts, so that a refusal has its status.
pub async fn streamed<J: Job<Output = ()>>(
    request: &Request,
    content_type: &'static str,
    job: impl FnOnce(Outlet) -> J,
) -> Result<Response> {
    streamed_with(request, |_| content_type, job).await
}

/// The same for an archive, of which half is worth nothing: a failure on the way breaks the connection off. It waits for
/// its turn.
pub async fn checked<J: Job<Output = ()>>(
    request: &Request,
    content_type: &'static str,
    job: impl FnOnce(Outlet) -> J,
) -> Result<Response> {
    let turn = request.seat.archive().await?;
    begin(request, |_| content_type, job, turn, Body::Checked).await
}

/// The same where the job says what it streams.
pub async fn streamed_with<J: Job<Output = ()>>(
    request: &Request,
    content_type: impl FnOnce(Opening) -> &'static str,
    job: impl FnOnce(Outlet) -> J,
) -> Result<Response> {
    begin(request, content_type, job, (), |bytes, _| Body::Streamed(bytes)).await
}

/// The same for a job that reads an archive from the request's body. It waits for its turn.
pub async fn reading<J: Job<Output = ()>>(request: &Request, job: impl FnOnce(Outlet) -> J) -> Result<Response> {
    let turn = request.seat.archive().await?;
    begin(request, |_| "application/json", job, turn, |bytes, _| Body::Streamed(bytes)).await
}

async fn begin<J: Job<Output = ()>>(
    request: &Request,
    content_type: impl FnOnce(Opening) -> &'static str,
    job: impl FnOnce(Outlet) -> J,
    held: impl Send + 'static,
    body: impl FnOnce(mpsc::Receiver<Bytes>, Task) -> Body,
) -> Result<Response> {
    let (outlet, OutletReader { opened, bytes }) = Outlet::new();
    let task = spawn(&request.engine, job(outlet), request.environment.clone(), held);
    let Ok(opening) = opened.await else {
        finished(task).await?;
        return Ok(empty(StatusCode::OK));
    };
    let mut response = hyper::Response::new(body(bytes, task));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type(opening)));
    Ok(response)
}

type Task = tokio::task::JoinHandle<gantry_engine::Result<()>>;

/// Runs a job, which keeps what is `held` until it has ended.
pub fn spawn<J: Job<Output = ()>>(
    engine: &Arc<Engine>,
    job: J,
    environment: Environment,
    held: impl Send + 'static,
) -> Task {
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        let ended = engine.run(job, environment).await;
        drop(held);
        ended
    })
}

/// Waits for a job.
pub async fn finished(task: Task) -> Result<()> {
    match task.await {
        Ok(result) => Ok(result?),
        Err(panic) => Err(Failure::new(gantry_api::ErrorKind::System, format!("the job crashed: {panic}"))),
    }
}

/// The media type of attached streams.
pub fn stream_type(request: &Request, opening: Opening) -> &'static str {
    let multiplexed = !opening.terminal && request.environment.version().at_least(42);
    if multiplexed { MULTIPLEXED } else { RAW }
}

/// How a job gets the client's connection once the answer's head is sent.
pub enum Takeover {
    /// The client asked for an upgrade: status 101, and hyper hands the connection over.
    Upgrade(OnUpgrade),
    /// It did not: status 200, and the raw door hands the connection over, with what came early.
    Raw(oneshot::Receiver<(Stream, Vec<u8>)>),
}

/// Runs a job that takes the connection over.
pub async fn hijacked<J: Job<Output = ()>>(mut request: Request, job: impl FnOnce(Hijack) -> J) -> Result<Response> {
    let Some(takeover) = request.upgrade.take() else { return one_way(request, job).await };
    let status = match takeover {
        Takeover::Upgrade(_) => StatusCode::SWITCHING_PROTOCOLS,
        Takeover::Raw(_) => StatusCode::OK,
    };
    // While a refusal can still be told.
    let places = request.seat.for_stream(request.relayed)?;
    let (hijack, opened) = Hijack::new(Box::pin(take_over(takeover, places)));
    let task = spawn(&request.engine, job(hijack), request.environment.clone(), request.seat.clone());
    let Ok(opening) = opened.await else {
        finished(task).await?;
        return Ok(empty(StatusCode::OK));
    };
    let mut response = empty(status);
    let headers = response.headers_mut();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(stream_type(&request, opening)));
    Ok(response)
}

/// What is carried at once.
const PIECE: usize = 32 << 10;

/// The same for a client that asks for no upgrade on a connection that goes on with other requests (Node's clients keep
/// theirs): the stream is the answer's body, and there is no input.
async fn one_way<J: Job<Output = ()>>(request: Request, job: impl FnOnce(Hijack) -> J) -> Result<Response> {
    let places = request.seat.for_stream(true)?;
    let failed =
        |e: std::io::Error| Failure::new(gantry_api::ErrorKind::System, format!("make a pair of sockets: {e}"));
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let stream = far.into_std().map_err(failed)?.into();
    let connection = Connection { stream, early: Vec::new() };
    let (hijack, opened) = Hijack::without_input(Box::pin(async move { Ok(connection) }));
    let task = spawn(&request.engine, job(hijack), request.environment.clone(), request.seat.clone());
    let Ok(opening) = opened.await else {
        finished(task).await?;
        return Ok(empty(StatusCode::OK));
    };
    let (sender, bytes) = mpsc::channel(1);
    tokio::spawn(async move {
        carry(near, sender).await;
        drop(places);
    });
    let mut response = hyper::Response::new(Body::Streamed(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(stream_type(&request, opening)));
    Ok(response)
}

/// Carries what the job sends to the client's body until one of them ends.
async fn carry(mut job: UnixStream, client: mpsc::Sender<Bytes>) {
    // A job that is gone already is noticed by reading.
    let _ = job.shutdown().await;
    let mut piece = vec![0; PIECE];
    loop {
        let length = tokio::select! {
            length = job.read(&mut piece) => length.unwrap_or_default(),
            () = client.closed() => return,
        };
        if length == 0 || client.send(Bytes::copy_from_slice(&piece[..length])).await.is_err() {
            return;
        }
    }
}

async fn take_over(takeover: Takeover, places: Places) -> gantry_engine::Result<Connection> {
    let gone = |reason: String| gantry_engine::Error::system(format!("take over the connection: {reason}"));
    let (stream, early) = match takeover {
        Takeover::Upgrade(upgrade) => {
            let upgraded = upgrade.await.map_err(|e| gone(e.to_string()))?;
            let hijacked = Hijacked::from_upgraded(upgraded).map_err(|_| gone("it is of an unknown kind".into()))?;
            let (stream, early) = hijacked.into_parts();
            (stream, early.into())
        }
        Takeover::Raw(connection) => connection.await.map_err(|_| gone("the client has gone away".into()))?,
    };
    let stream = into_descriptor(stream, places).map_err(|e| gone(e.to_string()))?;
    Ok(Connection { stream, early })
}

/// Sets a header whose value was computed.
pub fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
