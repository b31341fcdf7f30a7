//! The raw door: `attach` and `exec start` as Docker's oldest clients send them, without `Upgrade`. They answer
//! `200 OK` and the bare stream after it, which is no HTTP any more, so that hyper cannot serve them.
//!
//! The first request of each connection is looked at without being read; whatever else it is goes to hyper.

use std::sync::Arc;

use bytes::Bytes;
use gantry_engine::Environment;
use gantry_transport::Stream;
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::connection::{HEAD_TIMEOUT, Host, dress};
use crate::error::{Failure, Result};
use crate::relay::is_relayed;
use crate::request::{Payload, Request};
use crate::respond::{Response, Takeover};
use crate::router;

/// The longest head, and the longest body after it, that is served here.
const LIMIT: usize = 64 << 10;
/// Headers that are parsed.
const HEADERS: usize = 64;

/// Whether the bytes that are there begin an `attach` or `exec start` without `Upgrade`.
pub async fn begins_raw(stream: &mut Stream) -> std::io::Result<bool> {
    let mut buffer = [0_u8; 4096];
    let length = stream.peek(&mut buffer).await?;
    let head = &buffer[..length];
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let path = line.strip_prefix(b"POST ").and_then(|rest| rest.split(|byte| matches!(byte, b' ' | b'?')).next());
    let streams = path.is_some_and(|path| {
        path.ends_with(b"/attach") || (path.ends_with(b"/start") && path.windows(6).any(|part| part == b"/exec/"))
    });
    // A head that did not come whole in one piece is no client's that this door is for.
    let upgrades = String::from_utf8_lossy(head).to_ascii_lowercase().contains("\nupgrade:");
    Ok(streams && !upgrades && head.windows(4).any(|end| end == b"\r\n\r\n"))
}

/// Serves such a connection.
pub async fn answer(mut stream: Stream, host: &Host, environment: &Environment) -> std::io::Result<()> {
    let (take, taken) = oneshot::channel();
    let read = tokio::time::timeout(HEAD_TIMEOUT, read_request(&mut stream, host, environment, taken));
    let read = read.await.map_err(|_| std::io::Error::other("the request did not come whole in time"))?;
    let (result, early) = match read? {
        Ok((handler, request, early)) => (handler(request).await, early),
        Err(failure) => (Err(failure), Vec::new()),
    };
    let response = dress(result.unwrap_or_else(Failure::into_response));
    let streams = response.status() == StatusCode::OK && response.headers().contains_key(hyper::header::CONTENT_TYPE);
    stream.write_all(&head_of(&response)).await?;
    if streams {
        // A job that is gone closes the connection by dropping it.
        let _ = take.send((stream, early));
        return Ok(());
    }
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    stream.write_all(&body).await?;
    stream.shutdown().await
}

type Parsed = (fn(Request) -> crate::routes::Answer, Request, Vec<u8>);

/// Reads head and body; what came after them is the stream's beginning.
async fn read_request(
    stream: &mut Stream,
    host: &Host,
    environment: &Environment,
    taken: oneshot::Receiver<(Stream, Vec<u8>)>,
) -> std::io::Result<Result<Parsed>> {
    let mut bytes = Vec::new();
    let (head, method, target, headers) = loop {
        if let Some(parsed) = match parse(&bytes) {
            Ok(parsed) => parsed,
            Err(failure) => return Ok(Err(failure)),
        } {
            break parsed;
        }
        if !more(stream, &mut bytes).await? {
            return Ok(Err(Failure::invalid("the request's head is cut off or too long")));
        }
    };
    if headers.contains_key(TRANSFER_ENCODING) {
        return Ok(Err(Failure::invalid("send the body with Content-Length, or ask for an upgrade (Upgrade: tcp)")));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let end = head + length.unwrap_or(0).min(LIMIT);
    while bytes.len() < end {
        if !more(stream, &mut bytes).await? {
            return Ok(Err(Failure::invalid("the request's body is cut off or too long")));
        }
    }
    let relayed = is_relayed(stream);
    let early = bytes.split_off(end);
    let body = Bytes::from(bytes.split_off(head));
    let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
    let request = || {
        let found = router::find(&method, path)?;
        let query = router::parse_query(query)?;
        let environment = Environment { version: found.version, ..environment.clone() };
        let request = Request {
            engine: Arc::clone(&host.engine),
            seat: host.seat.clone(),
            stopping: host.stopping.clone(),
            relayed,
            environment,
            headers,
            upgrade: Some(Takeover::Raw(taken)),
            parameters: found.parameters,
            query,
            body: Payload::Whole(body),
        };
        Ok((found.route.handler, request, early))
    };
    Ok(request())
}

/// Reads on; false at the end, or when it is too much.
async fn more(stream: &mut Stream, bytes: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut buffer = [0_u8; 4096];
    let length = stream.read(&mut buffer).await?;
    bytes.extend_from_slice(&buffer[..length]);
    Ok(length > 0 && bytes.len() <= 2 * LIMIT)
}

/// Length of the head, method, target and headers; `None` while it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Method, String, HeaderMap)>> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Failure::invalid(format!("the request's head: {error}"))),
    };
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes());
    let method = method.map_err(|error| Failure::invalid(error.to_string()))?;
    let mut headers = HeaderMap::new();
    for field in request.headers.iter() {
        let (name, value) = (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    Ok(Some((head, method, request.path.unwrap_or_default().to_owned(), headers)))
}

/// Status line and headers.
fn head_of(response: &Response) -> Vec<u8> {
    let status = response.status();
    let mut head =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"connection: close\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_when_it_is_whole() {
        let text = b"POST /v1.24/containers/x/attach?stdin=1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}rest";
        assert!(parse(&text[..20]).unwrap().is_none());
        let (head, method, target, headers) = parse(text).unwrap().unwrap();
        assert_eq!(
            (&text[head..], method.as_str(), target.as_str()),
            (&b"{}rest"[..], "POST", "/v1.24/containers/x/attach?stdin=1")
        );
        assert_eq!(headers[CONTENT_LENGTH], "2");
        assert!(parse(b"\x00\x01 nonsense\r\n\r\n").is_err());
    }
}
