//! Blobs: read whole or in part, deleted.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};

use crate::byte_range::Range;
use crate::server::answer::{Body, Response, empty, named, set};
use crate::server::failure::{Code, Failure, Result};
use crate::server::names::{Digest, Name};
use crate::server::repositories::blob_unknown;
use crate::server::request::Request;
use crate::server::serve::Server;
use crate::server::store::{Source, Stat};

/// Content by digest never changes.
const FOREVER: &str = "max-age=31536000, immutable";

/// `GET` and `HEAD`, with `Range` and `If-None-Match`.
pub async fn get(server: &Arc<Server>, request: &Request, name: &Name, digest: &Digest) -> Result<Response> {
    let Some(stat) = found(server, request, name, digest).await? else {
        return Err(blob_unknown(name, digest));
    };
    respond(request, digest, stat.size, async |offset, length| open(server, name, digest, offset, length).await).await
}

/// The answer with a blob of that size, of which `open` gives a part.
pub async fn respond(
    request: &Request,
    digest: &Digest,
    size: u64,
    open: impl AsyncFnOnce(u64, u64) -> Result<Body>,
) -> Result<Response> {
    let etag = format!("\"{digest}\"");
    if request.header(&header::IF_NONE_MATCH).is_some_and(|known| matches_etag(known, &etag)) {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        set(&mut response, header::ETAG, &etag);
        return Ok(response);
    }
    let range = wanted(request, &etag, size)?;
    let (offset, length) = range.unwrap_or((0, size));
    let body = if request.is_head() { Body::default() } else { open(offset, length).await? };
    let mut response = Response::new(body);
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut response, header::CONTENT_RANGE, &format!("bytes {offset}-{}/{}", offset + length - 1, size));
    }
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    set(&mut response, header::ETAG, &etag);
    set(&mut response, named::DIGEST, digest.as_str());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    // What somebody pushed is never a page of ours.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// A push asks by `HEAD` what it need not send: that is needed from now on.
async fn found(server: &Server, request: &Request, name: &Name, digest: &Digest) -> Result<Option<Stat>> {
    if request.is_head() && !server.settings.read_only {
        server.repositories.need_blob(name, digest).await
    } else {
        server.repositories.blob(name, digest).await
    }
}

/// `DELETE`.
pub async fn delete(server: &Server, name: &Name, digest: &Digest) -> Result<Response> {
    if server.repositories.delete_blob(name, digest).await? {
        Ok(empty(StatusCode::ACCEPTED))
    } else {
        Err(blob_unknown(name, digest))
    }
}

async fn open(server: &Server, name: &Name, digest: &Digest, offset: u64, length: u64) -> Result<Body> {
    match server.repositories.storage().open(digest, offset, length).await? {
        Some(Source::File(piece)) => Ok(Body::File(piece)),
        Some(Source::Stream(receiver)) => Ok(Body::Stream(receiver, Some(length))),
        None => Err(blob_unknown(name, digest)),
    }
}

/// The part that is asked for; none for all of it.
fn wanted(request: &Request, etag: &str, size: u64) -> Result<Option<(u64, u64)>> {
    let Some(range) = request.header(&header::RANGE) else { return Ok(None) };
    if request.header(&header::IF_RANGE).is_some_and(|condition| condition != etag) {
        return Ok(None);
    }
    match Range::parse(range, size) {
        Range::Whole => Ok(None),
        Range::Part(offset, length) => Ok(Some((offset, length))),
        Range::Outside => {
            let message = format!("range {range:.100?} is not within the blob's {size} bytes");
            let value = HeaderValue::from_str(&format!("bytes */{size}")).expect("digits");
            Err(Failure::new(Code::RangeInvalid, message).header(header::CONTENT_RANGE, value))
        }
    }
}

/// Whether one of the tags of an `If-None-Match` is ours.
pub fn matches_etag(known: &str, etag: &str) -> bool {
    known.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
