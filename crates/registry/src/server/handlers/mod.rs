//! What answers each route.

mod blobs;

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use super::answer::{Response, json_answer};
use super::connection::Counted;
use super::failure::{Code, Failure, Result};
use super::request::Request;
use super::route::Route;
use super::serve::Server;

/// Answers a request that was let in.
pub async fn answer(server: &Arc<Server>, request: &Request, _body: Counted) -> Result<Response> {
    let get = matches!(request.method, Method::GET | Method::HEAD);
    match &request.route {
        Route::Base if get => Ok(json_answer(StatusCode::OK, &json!({}))),
        Route::Health if get => Ok(json_answer(StatusCode::OK, &json!({ "status": "ok" }))),
        Route::Blob { name, digest } if get => blobs::get(server, request, name, digest).await,
        Route::Other => other(server, request).await,
        _ => Err(Failure::method(&request.method, request.uri.path())),
    }
}

async fn other(server: &Server, request: &Request) -> Result<Response> {
    for door in &server.doors {
        if let Some(answer) = door.answer(request) {
            return answer.await;
        }
    }
    let message = format!("{:.200} is no path of a registry", request.uri.path());
    Err(Failure::new(Code::Unsupported, message).status(StatusCode::NOT_FOUND))
}
