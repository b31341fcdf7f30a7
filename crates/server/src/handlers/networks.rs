//! `/networks…`.

use gantry_api::network::{NetworkConnect, NetworkCreate, NetworkDisconnect};
use gantry_engine::jobs;
use hyper::StatusCode;

use crate::error::Result;
use crate::request::Request;
use crate::respond::{Response, empty, json, ok};

pub async fn list(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::Networks { filters: request.query("filters") }).await?))
}

pub async fn inspect(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::NetworkInspect { network: request.parameter("id") }).await?))
}

pub async fn ports(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::NetworkPorts).await?))
}

pub async fn doctor(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::NetworkDoctor { container: request.parameter("name") }).await?))
}

pub async fn create(mut request: Request) -> Result<Response> {
    let network: NetworkCreate = request.json().await?;
    Ok(json(StatusCode::CREATED, &request.run(jobs::NetworkCreate { request: network }).await?))
}

pub async fn remove(request: Request) -> Result<Response> {
    request.run(jobs::NetworkRemove { network: request.parameter("id") }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn connect(mut request: Request) -> Result<Response> {
    let NetworkConnect { container, endpoint_config } = request.json().await?;
    let (network, settings) = (request.parameter("id"), endpoint_config.unwrap_or_default());
    request.run(jobs::NetworkConnect { network, container, settings }).await?;
    Ok(empty(StatusCode::OK))
}

pub async fn disconnect(mut request: Request) -> Result<Response> {
    let NetworkDisconnect { container, .. } = request.json().await?;
    request.run(jobs::NetworkDisconnect { network: request.parameter("id"), container }).await?;
    Ok(empty(StatusCode::OK))
}

pub async fn prune(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::NetworksPrune { filters: request.query("filters") }).await?))
}
