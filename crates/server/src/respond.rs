//! Answers: JSON, nothing, a stream that a job writes, a connection that a job takes over.

use std::sync::Arc;

use bytes::Bytes;
use gantry_api::stream::{MULTIPLEXED, RAW};
use gantry_engine::stream::{Connection, Hijack, Opening, Outlet, OutletReader};
use gantry_engine::{Engine, Environment, Job};
use gantry_transport::{Hijacked, Stream};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::{StatusCode, header::HeaderName};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::body::Body;
use crate::error::{Failure, Result};
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

/// The same where the job says what it streams.
pub async fn streamed_with<J: Job<Output = ()>>(
    request: &Request,
    content_type: impl FnOnce(Opening) -> &'static str,
    job: impl FnOnce(Outlet) -> J,
) -> Result<Response> {
    let (outlet, OutletReader { opened, bytes }) = Outlet::new();
    let task = spawn(&request.engine, job(outlet), request.environment.clone());
    let Ok(opening) = opened.await else {
        finished(task).await?;
        return Ok(empty(StatusCode::OK));
    };
    let mut response = hyper::Response::new(Body::Streamed(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type(opening)));
    Ok(response)
}

type Task = tokio::task::JoinHandle<gantry_engine::Result<()>>;

fn spawn<J: Job<Output = ()>>(engine: &Arc<Engine>, job: J, environment: Environment) -> Task {
    let engine = Arc::clone(engine);
    tokio::spawn(async move { engine.run(job, environment).await })
}

async fn finished(task: Task) -> Result<()> {
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

/// Runs a job that takes the connection over; with `Upgrade` by status 101, else by streaming both bodies.
pub async fn hijacked<J: Job<Output = ()>>(mut request: Request, job: impl FnOnce(Hijack) -> J) -> Result<Response> {
    let Some(upgrade) = request.upgrade.take() else { return relayed(request, job).await };
    let connection = async move {
        let gone = |reason: String| gantry_engine::Error::system(format!("take over the connection: {reason}"));
        let upgraded = upgrade.await.map_err(|e| gone(e.to_string()))?;
        let hijacked = Hijacked::from_upgraded(upgraded).map_err(|_| gone("it is of an unknown kind".into()))?;
        let (stream, early) = hijacked.into_parts();
        let stream = match stream {
            Stream::Unix(stream) => stream.into_std().map(Into::into),
            Stream::Tcp(stream) => stream.into_std().map(Into::into),
        };
        Ok(Connection { stream: stream.map_err(|e| gone(e.to_string()))?, early: early.into() })
    };
    let (hijack, opened) = Hijack::new(Box::pin(connection));
    let task = spawn(&request.engine, job(hijack), request.environment.clone());
    let Ok(opening) = opened.await else {
        finished(task).await?;
        return Ok(empty(StatusCode::OK));
    };
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(stream_type(&request, opening)));
    Ok(response)
}

/// For clients that do not ask for an upgrade: the job gets one end of a socket pair, the bodies flow through the other.
async fn relayed<J: Job<Output = ()>>(mut request: Request, job: impl FnOnce(Hijack) -> J) -> Result<Response> {
    let failed = |e: std::io::Error| Failure::new(gantry_api::ErrorKind::System, format!("make a socket pair: {e}"));
    let (ours, theirs) = tokio::net::UnixStream::pair().map_err(failed)?;
    let theirs = theirs.into_std().map_err(failed)?.into();
    let (hijack, opened) = Hijack::new(Box::pin(async move { Ok(Connection { stream: theirs, early: Vec::new() }) }));
    let task = spawn(&request.engine, job(hijack), request.environment.clone());
    let Ok(opening) = opened.await else {
        finished(task).await?;
        return Ok(empty(StatusCode::OK));
    };
    let (mut reader, mut writer) = ours.into_split();
    let mut input = request.take_inlet();
    tokio::spawn(async move {
        while let Some(Ok(piece)) = input.recv().await {
            if writer.write_all(&piece).await.is_err() {
                return;
            }
        }
        // The end of the body is the end of standard input; a stream that ended meanwhile needs none.
        let _ = writer.shutdown().await;
    });
    let (sender, bytes) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            if sender.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
                return;
            }
        }
    });
    let mut response = hyper::Response::new(Body::Streamed(bytes));
    let content_type = HeaderValue::from_static(stream_type(&request, opening));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

/// Sets a header whose value was computed.
pub fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
