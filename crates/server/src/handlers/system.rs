//! `_ping`, `version`, `info`, `events`, `jobs`, and honest answers for what this product does not have.

use gantry_api::ErrorKind;
use gantry_engine::jobs;
use hyper::StatusCode;

use super::moment;
use crate::ServeApi;
use crate::body::Body;
use crate::error::{Failure, Result};
use crate::request::Request;
use crate::respond::{Response, empty, ok, set, streamed};

pub async fn ping(_: Request) -> Result<Response> {
    let mut response = hyper::Response::new(Body::from(b"OK".to_vec()));
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("builder-version", "1"),
        ("swarm", "inactive"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
    ] {
        set(&mut response, name, value);
    }
    Ok(response)
}

pub async fn version(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::Version).await?))
}

pub async fn info(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::Info).await?))
}

pub async fn disk_usage(request: Request) -> Result<Response> {
    let verbose = request.flag("verbose");
    Ok(ok(&request.run(jobs::SystemDf { kinds: request.query_all("type"), verbose }).await?))
}

pub async fn fsck(request: Request) -> Result<Response> {
    let (repair, remove) = (request.flag("repair"), request.flag("remove"));
    streamed(&request, "application/json", |outlet| jobs::Fsck { repair, remove, outlet }).await
}

/// There is no build cache yet, so there is nothing in it to remove.
pub async fn build_prune(_: Request) -> Result<Response> {
    Ok(ok(&gantry_api::prune::PrunedCaches::default()))
}

pub async fn events(request: Request) -> Result<Response> {
    let (since, until) = (moment(&request, "since")?, moment(&request, "until")?);
    let filters = request.query("filters");
    streamed(&request, "application/json", |outlet| jobs::Events { since, until, filters, outlet }).await
}

pub async fn jobs(request: Request) -> Result<Response> {
    let all = request.flag("all");
    Ok(ok(&request.run(jobs::Jobs { all }).await?))
}

pub async fn job_handlers(request: Request) -> Result<Response> {
    let mut handlers = request.run(jobs::JobHandlers).await?;
    handlers.push(gantry_engine::handler::<ServeApi>().describe());
    handlers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(ok(&handlers))
}

pub async fn cancel_job(request: Request) -> Result<Response> {
    let id = request.parameter("id");
    let id = id.parse().map_err(|_| Failure::invalid(format!("invalid job number: {id:?}")))?;
    request.run(jobs::CancelJob { id }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn no_plugins(_: Request) -> Result<Response> {
    Ok(ok(&serde_json::json!([])))
}

/// `swarm/init`, `join` and their like.
pub async fn never_swarm(_: Request) -> Result<Response> {
    Err(Failure::new(
        ErrorKind::Unavailable,
        "swarm is not a part of Gantry, which runs containers on one machine: this node cannot be made a manager or worker",
    ))
}

pub async fn no_swarm(_: Request) -> Result<Response> {
    Err(Failure::new(
        ErrorKind::Unavailable,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
         swarm and try again.",
    ))
}
