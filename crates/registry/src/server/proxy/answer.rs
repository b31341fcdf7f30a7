//! Requests for what is of an upstream.

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::{Cache, Found};
use crate::server::answer::{Response, json_answer, named, set};
use crate::server::document::OCI_INDEX;
use crate::server::handlers::{link, manifests};
use crate::server::store::Key;
use crate::server::{Action, Code, Failure, Name, Request, Result, Route, Server};

/// Images that Docker itself publishes: nobody else gets a name among them.
const OFFICIAL: &str = "library";

/// Answers a request for a repository of an upstream.
pub async fn answer(cache: &Cache, request: &Request, name: &Name) -> Result<Response> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let upstream = name.as_str().split('/').next().unwrap_or_default();
        let message =
            format!("{name} is kept here from {upstream}, which this registry only reads: push to another name");
        return Err(Failure::new(Code::Denied, message));
    }
    match &request.route {
        Route::Manifest { target, .. } => {
            let found = cache.manifest(name, target).await?;
            Ok(warn(manifests::respond(request, found.value), found.warning))
        }
        Route::Blob { digest, .. } => cache.blob(request, name, digest).await,
        Route::Tags { .. } => tags(cache, request, name).await,
        Route::Referrers { digest, .. } => {
            let kind = request.query.get("artifactType");
            let found = cache.referrers(name, digest, kind).await?;
            let mut response = Response::new(found.value.into());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
            if kind.is_some() {
                response.headers_mut().insert(named::FILTERS, HeaderValue::from_static("artifactType"));
            }
            Ok(warn(response, found.warning))
        }
        _ => Err(Failure::method(&request.method, request.uri.path())),
    }
}

/// Answers for Docker Hub what this registry does not have, where it may: `refused` is its own answer.
pub async fn mirror(server: &Server, cache: &Cache, request: &Request, refused: Failure) -> Result<Response> {
    // A push asks by HEAD which blobs it need not send: that must be what is really here.
    let is_asked = match (&request.route, &request.method) {
        (Route::Blob { .. }, &Method::HEAD) => false,
        (_, &Method::GET | &Method::HEAD) => refused.status == StatusCode::NOT_FOUND,
        _ => false,
    };
    let Some((name, whole)) =
        request.route.repository().filter(|_| is_asked).and_then(|name| Some((name, cache.mirrored(name)?)))
    else {
        return Err(refused);
    };
    if is_ours(server, name).await? || !server.access.may(&request.who, &whole, Action::Mirror) {
        return Err(refused);
    }
    answer(cache, request, &whole).await
}

/// Whether the first component of the name is that of a repository that was pushed here. Then whoever takes that name at
/// Docker Hub must not be able to slip images in among ours.
async fn is_ours(server: &Server, name: &Name) -> Result<bool> {
    let first = name.as_str().split('/').next().unwrap_or_default();
    if first == OFFICIAL || !name.as_str().contains('/') {
        return Ok(false);
    }
    let Ok(first) = first.parse::<Name>() else { return Ok(true) };
    Ok(!server.repositories.storage().list(&Key::repository(&first)).await?.is_empty())
}

async fn tags(cache: &Cache, request: &Request, name: &Name) -> Result<Response> {
    let count = match request.query.get("n").map(str::parse::<usize>) {
        None => None,
        Some(Ok(count)) => Some(count),
        Some(Err(_)) => return Err(Failure::new(Code::PaginationNumberInvalid, "n: want how many entries to list")),
    };
    let Found { value, warning } = cache.tags(name, count, request.query.get("last")).await?;
    let mut response = json_answer(StatusCode::OK, &json!({ "name": name.as_str(), "tags": value.tags }));
    if let (true, Some(last)) = (value.more, value.tags.last()) {
        link(&mut response, &format!("/v2/{name}/tags/list"), value.tags.len(), last);
    }
    Ok(warn(response, warning))
}

fn warn(mut response: Response, warning: Option<String>) -> Response {
    if let Some(warning) = warning {
        set(&mut response, header::WARNING, &format!("299 - {:?}", warning.replace('"', "'")));
    }
    response
}
