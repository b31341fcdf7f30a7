//! `/containers/{name}/exec` and `/exec/…`.

use gantry_api::exec::{ExecConfig, ExecStart};
use gantry_engine::jobs;
use hyper::StatusCode;

use super::containers::size;
use crate::error::Result;
use crate::request::Request;
use crate::respond::{Response, empty, hijacked, json, ok};

pub async fn create(mut request: Request) -> Result<Response> {
    let config: ExecConfig = request.json().await?;
    let id = request.run(jobs::ExecCreate { container: request.parameter("name"), config }).await?;
    Ok(json(StatusCode::CREATED, &serde_json::json!({ "Id": id })))
}

pub async fn start(mut request: Request) -> Result<Response> {
    let ExecStart { detach, console_size, .. } = request.json_or_default().await?;
    let exec = request.parameter("id");
    if detach {
        request.run(jobs::ExecStart { exec, hijack: None, console_size }).await?;
        return Ok(empty(StatusCode::OK));
    }
    hijacked(request, |hijack| jobs::ExecStart { exec, hijack: Some(hijack), console_size }).await
}

pub async fn resize(request: Request) -> Result<Response> {
    let (rows, columns) = size(&request)?;
    request.run(jobs::ExecResize { exec: request.parameter("id"), rows, columns }).await?;
    Ok(empty(StatusCode::OK))
}

pub async fn inspect(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::ExecInspect { exec: request.parameter("id") }).await?))
}
