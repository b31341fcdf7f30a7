//! What answers each route.

pub(super) mod blobs;
mod lists;
pub(super) mod manifests;
mod uploads;

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use super::answer::{Response, json_answer};
use super::connection::Counted;
use super::failure::{Code, Failure, Result};
use super::proxy;
use super::request::{Request, whole};
use super::route::{Query, Route};
use super::serve::Server;

pub(super) use lists::link;

/// A password, a client and some scopes.
const FORM_LIMIT: usize = 64 << 10;

/// Answers a request that was let in.
pub async fn answer(server: &Arc<Server>, request: &Request, body: Counted) -> Result<Response> {
    let Some(cache) = &server.upstream else { return own(server, request, body).await };
    if let Some(name) = request.route.repository().filter(|name| cache.owns(name)) {
        return proxy::answer(cache, request, name).await;
    }
    match own(server, request, body).await {
        Err(refused) => proxy::mirror(server, cache, request, refused).await,
        answered => answered,
    }
}

/// What was posted to one of the doors.
async fn posted(body: Counted) -> Result<Query> {
    let form = whole(body, FORM_LIMIT, "the form").await?;
    let text = std::str::from_utf8(&form);
    Query::parse(Some(
        text.map_err(|_| Failure::new(Code::Unsupported, "the form is no text").status(StatusCode::BAD_REQUEST))?,
    ))
}

/// Answers for what was pushed here.
async fn own(server: &Arc<Server>, request: &Request, body: Counted) -> Result<Response> {
    let get = matches!(request.method, Method::GET | Method::HEAD);
    if server.settings.read_only && !get && request.route.repository().is_some() {
        return Err(Failure::new(Code::Denied, "this registry is read-only"));
    }
    match (&request.route, &request.method) {
        (Route::Base, _) if get => Ok(json_answer(StatusCode::OK, &json!({}))),
        (Route::Health, _) if get => Ok(json_answer(StatusCode::OK, &json!({ "status": "ok" }))),
        (Route::Blob { name, digest }, _) if get => blobs::get(server, request, name, digest).await,
        (Route::Blob { name, digest }, &Method::DELETE) => blobs::delete(server, name, digest).await,
        (Route::Uploads { name }, &Method::POST) => uploads::start(server, request, name, body).await,
        (Route::Upload { name, id }, &Method::PATCH) => uploads::append(server, request, name, id, body).await,
        (Route::Upload { name, id }, &Method::PUT) => uploads::finish(server, request, name, id, body).await,
        (Route::Upload { name, id }, &Method::DELETE) => uploads::cancel(server, name, id).await,
        (Route::Upload { name, id }, _) if get => uploads::status(server, name, id).await,
        (Route::Manifest { name, target }, _) if get => manifests::get(server, request, name, target).await,
        (Route::Manifest { name, target }, &Method::PUT) => manifests::put(server, request, name, target, body).await,
        (Route::Manifest { name, target }, &Method::DELETE) => manifests::delete(server, name, target).await,
        (Route::Tags { name }, _) if get => lists::tags(server, request, name).await,
        (Route::Referrers { name, digest }, _) if get => lists::referrers(server, request, name, digest).await,
        (Route::Catalog, _) if get => lists::catalog(server, request).await,
        (Route::Search, _) if get => lists::search(server, request).await,
        (Route::Other, _) => other(server, request, body).await,
        _ => Err(Failure::method(&request.method, request.uri.path())),
    }
}

async fn other(server: &Server, request: &Request, body: Counted) -> Result<Response> {
    let path = request.uri.path();
    let Some(door) = server.doors.iter().find(|door| door.is_at(path)) else {
        let message = format!("{path:.200} is no path of a registry");
        return Err(Failure::new(Code::Unsupported, message).status(StatusCode::NOT_FOUND));
    };
    let form = if request.method == Method::POST { posted(body).await? } else { Query::default() };
    door.answer(request, &form).await
}
