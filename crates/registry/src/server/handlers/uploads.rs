//! Uploads: begun, gone on with, asked for, finished, given up; and mounts, which are uploads of what is here already.
//!
//! What takes a body runs in a task of its own: a client that goes away leaves what it sent, and a server that stops finishes it.

use std::sync::Arc;

use http::{StatusCode, header};
use tokio::task::JoinError;

use crate::server::Chunk;
use crate::server::answer::{Response, empty, named, set};
use crate::server::connection::Counted;
use crate::server::failure::{Code, Failure, Result};
use crate::server::hooks::Action;
use crate::server::names::{Algorithm, Digest, Name};
use crate::server::request::Request;
use crate::server::serve::Server;
use crate::server::upload_id::UploadId;
use crate::server::uploads::Session;

/// `POST`: a mount, a whole blob, or the beginning of one.
pub async fn start(server: &Arc<Server>, request: &Request, name: &Name, body: Counted) -> Result<Response> {
    if let Some(digest) = request.query.get("mount") {
        let digest: Digest = digest.parse()?;
        if may_mount(server, request, &digest).await? && server.repositories.link_blob(name, &digest).await?.is_some() {
            return Ok(created(name, &digest));
        }
    }
    let digest = request.query.get("digest").map(str::parse::<Digest>).transpose()?;
    let algorithm = match (request.query.get("digest-algorithm"), &digest) {
        (Some(wanted), _) => algorithm(wanted)?,
        (None, Some(digest)) => digest.algorithm(),
        (None, None) => Algorithm::Sha256,
    };
    let session = server.uploads.start(name, algorithm).await?;
    match digest {
        Some(digest) if has_body(request) || digest == Digest::of(digest.algorithm(), b"") => {
            let id = session.id.clone();
            let finished = finish_with(server, name, session, body, None, digest).await;
            if finished.is_err()
                && let Ok(session) = server.uploads.find(name, &id).await
            {
                // Nobody was told where to go on with it.
                server.uploads.cancel(&session).await?;
            }
            finished
        }
        _ => Ok(state(StatusCode::ACCEPTED, name, &session, 0)),
    }
}

/// From a repository that may be read; from anywhere when all may be.
async fn may_mount(server: &Server, request: &Request, digest: &Digest) -> Result<bool> {
    match request.query.get("from") {
        Some(from) => {
            let from: Name = from.parse()?;
            let may = server.access.may(&request.who, &from, Action::Pull);
            Ok(may && server.repositories.need_blob(&from, digest).await?.is_some())
        }
        None => Ok(server.access.may_pull_all(&request.who)),
    }
}

fn has_body(request: &Request) -> bool {
    let length = request.header(&header::CONTENT_LENGTH);
    request.headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length.trim() != "0")
}

fn algorithm(name: &str) -> Result<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name).ok_or_else(|| {
        Failure::new(Code::DigestInvalid, format!("digest algorithm {name:.50?} is not known: want sha256 or sha512"))
    })
}

/// `PATCH`.
pub async fn append(
    server: &Arc<Server>,
    request: &Request,
    name: &Name,
    id: &UploadId,
    body: Counted,
) -> Result<Response> {
    let chunk = chunk(request)?;
    let session = server.uploads.find(name, id).await?;
    let (server, name) = (Arc::clone(server), name.clone());
    let work = server.work.clone();
    let appended = work.spawn(async move {
        let size = server.uploads.append(&session, body, chunk).await;
        outside_tells_where(size, &name, &session).await.map(|size| state(StatusCode::ACCEPTED, &name, &session, size))
    });
    outcome(appended.await)
}

/// `PUT`.
pub async fn finish(
    server: &Arc<Server>,
    request: &Request,
    name: &Name,
    id: &UploadId,
    body: Counted,
) -> Result<Response> {
    let chunk = chunk(request)?;
    let session = server.uploads.find(name, id).await?;
    let Some(digest) = request.query.get("digest") else {
        return Err(Failure::new(Code::DigestInvalid, "the last request of an upload names its digest: ?digest=…"));
    };
    finish_with(server, name, session, body, chunk, digest.parse()?).await
}

async fn finish_with(
    server: &Arc<Server>,
    name: &Name,
    session: Arc<Session>,
    body: Counted,
    chunk: Option<Chunk>,
    digest: Digest,
) -> Result<Response> {
    let (server, name) = (Arc::clone(server), name.clone());
    let work = server.work.clone();
    let finished = work.spawn(async move {
        let keep =
            async |staged: &std::path::Path, size| server.repositories.adopt_blob(&name, &digest, staged, size).await;
        let finished = server.uploads.finish(&session, body, chunk, &digest, keep).await;
        outside_tells_where(finished, &name, &session).await.map(|_| created(&name, &digest))
    });
    outcome(finished.await)
}

/// What came of the task that took the body.
fn outcome(done: std::result::Result<Result<Response>, JoinError>) -> Result<Response> {
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Failure::new(Code::Unavailable, "the registry stops; ask for the upload's size and go on later")),
    })
}

/// Who sent a chunk that does not fit learns where to go on.
async fn outside_tells_where(outcome: Result<u64>, name: &Name, session: &Session) -> Result<u64> {
    match outcome {
        Err(failure) if failure.code == Code::RangeInvalid => {
            let state = state(StatusCode::NO_CONTENT, name, session, session.size().await?);
            let headers = state.headers().iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
            Err(headers.fold(failure, |failure, (name, value)| failure.header(name.clone(), value.clone())))
        }
        other => other,
    }
}

fn chunk(request: &Request) -> Result<Option<Chunk>> {
    let Some(text) = request.header(&header::CONTENT_RANGE) else { return Ok(None) };
    let invalid = || {
        let message = format!("Content-Range {text:.100?}: want the first and the last byte, as in 0-1023");
        Failure::new(Code::RangeInvalid, message).status(StatusCode::BAD_REQUEST)
    };
    Chunk::parse(text).map(Some).ok_or_else(invalid)
}

/// `GET`.
pub async fn status(server: &Server, name: &Name, id: &UploadId) -> Result<Response> {
    let session = server.uploads.find(name, id).await?;
    let size = session.size().await?;
    Ok(state(StatusCode::NO_CONTENT, name, &session, size))
}

/// `DELETE`.
pub async fn cancel(server: &Server, name: &Name, id: &UploadId) -> Result<Response> {
    let session = server.uploads.find(name, id).await?;
    server.uploads.cancel(&session).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Where an upload is, and how far.
fn state(status: StatusCode, name: &Name, session: &Session, size: u64) -> Response {
    let mut response = empty(status);
    set(&mut response, header::LOCATION, &format!("/v2/{name}/blobs/uploads/{}", session.id));
    // An empty one has no last byte; this is how everybody writes it.
    set(&mut response, header::RANGE, &format!("0-{}", size.saturating_sub(1)));
    set(&mut response, named::UPLOAD, session.id.as_str());
    response
}

fn created(name: &Name, digest: &Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, header::LOCATION, &format!("/v2/{name}/blobs/{digest}"));
    set(&mut response, named::DIGEST, digest.as_str());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_whose_task_was_cancelled_may_be_made_again() {
        let task = tokio::spawn(std::future::pending::<Result<Response>>());
        task.abort();
        let failure = outcome(task.await).map(|_| ()).unwrap_err();
        assert_eq!((failure.status, failure.code), (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable));
    }
}
