//! `/volumes…`.

use gantry_api::volume::VolumeCreate;
use gantry_engine::jobs;
use hyper::StatusCode;

use crate::error::Result;
use crate::request::Request;
use crate::respond::{Response, empty, json, ok};

pub async fn list(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::Volumes { filters: request.query("filters") }).await?))
}

pub async fn create(mut request: Request) -> Result<Response> {
    let volume: VolumeCreate = request.json().await?;
    Ok(json(StatusCode::CREATED, &request.run(jobs::VolumeCreate { request: volume }).await?))
}

pub async fn inspect(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::VolumeInspect { name: request.parameter("name") }).await?))
}

pub async fn delete(request: Request) -> Result<Response> {
    request.run(jobs::VolumeDelete { name: request.parameter("name"), force: request.flag("force") }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn prune(request: Request) -> Result<Response> {
    let all = !request.environment.version().at_least(42);
    Ok(ok(&request.run(jobs::VolumesPrune { filters: request.query("filters"), all }).await?))
}
