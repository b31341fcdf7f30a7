//! `/containers/…`.

use base64::Engine as _;
use gantry_api::container::{CreateRequest, PathStat};
use gantry_engine::jobs;
use gantry_engine::stream::{Outlet, OutletReader};
use hyper::StatusCode;
use tokio_util::sync::CancellationToken;

use super::moment;
use crate::body::Body;
use crate::error::{Failure, Result};
use crate::request::Request;
use crate::respond::{self, Response, empty, hijacked, json, ok, streamed, streamed_with};

pub async fn list(request: Request) -> Result<Response> {
    let job = jobs::Containers {
        all: request.flag("all"),
        limit: request.number("limit")?.unwrap_or(0),
        size: request.flag("size"),
        filters: request.query("filters"),
    };
    Ok(ok(&request.run(job).await?))
}

pub async fn create(mut request: Request) -> Result<Response> {
    let body = request.json_bytes().await?;
    let create = CreateRequest::from_slice(&body).map_err(|e| Failure::invalid(format!("invalid JSON: {e}")))?;
    let job = jobs::Create {
        name: request.query("name").filter(|name| !name.is_empty()),
        platform: request.query("platform"),
        request: create,
    };
    Ok(json(StatusCode::CREATED, &request.run(job).await?))
}

pub async fn inspect(request: Request) -> Result<Response> {
    let job = jobs::ContainerInspect { container: request.parameter("name"), size: request.flag("size") };
    Ok(ok(&request.run(job).await?))
}

pub async fn top(request: Request) -> Result<Response> {
    let arguments = request.query("ps_args").unwrap_or_default();
    Ok(ok(&request.run(jobs::Top { container: request.parameter("name"), arguments }).await?))
}

pub async fn logs(request: Request) -> Result<Response> {
    let tail = match request.query("tail").as_deref() {
        None | Some("" | "all") => None,
        // Docker takes what is no number, and negative numbers, for everything.
        Some(text) => text.parse().ok(),
    };
    let query = jobs::LogQuery {
        stdout: request.flag("stdout"),
        stderr: request.flag("stderr"),
        since: moment(&request, "since")?,
        until: moment(&request, "until")?,
        tail,
        timestamps: request.flag("timestamps"),
        framed: true,
    };
    let (container, follow) = (request.parameter("name"), request.flag("follow"));
    let kind = |opening| respond::stream_type(&request, opening);
    streamed_with(&request, kind, |outlet| jobs::Logs { container, query, follow, outlet }).await
}

pub async fn changes(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::ContainerChanges { container: request.parameter("name") }).await?))
}

pub async fn prune(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::ContainersPrune { filters: request.query("filters") }).await?))
}

pub async fn export(request: Request) -> Result<Response> {
    let container = request.parameter("name");
    respond::checked(&request, "application/octet-stream", |outlet| jobs::Export { container, outlet }).await
}

pub async fn stats(request: Request) -> Result<Response> {
    let (container, one_shot) = (request.parameter("name"), request.flag("one-shot"));
    let stream = request.query("stream").is_none() || request.flag("stream");
    streamed(&request, "application/json", |outlet| jobs::Stats { container, stream, one_shot, outlet }).await
}

pub async fn resize(request: Request) -> Result<Response> {
    let (rows, columns) = size(&request)?;
    request.run(jobs::Resize { container: request.parameter("name"), rows, columns }).await?;
    Ok(empty(StatusCode::OK))
}

/// Lines and columns of a resize.
pub(super) fn size(request: &Request) -> Result<(u16, u16)> {
    let missing = |name: &str| Failure::invalid(format!("invalid resize: {name} is missing"));
    let rows = request.number("h")?.ok_or_else(|| missing("h"))?;
    let columns = request.number("w")?.ok_or_else(|| missing("w"))?;
    Ok((rows, columns))
}

pub async fn start(request: Request) -> Result<Response> {
    request.run(jobs::Start { container: request.parameter("name") }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn stop(request: Request) -> Result<Response> {
    let job = jobs::Stop {
        container: request.parameter("name"),
        signal: request.query("signal").filter(|signal| !signal.is_empty()),
        timeout: request.number("t")?,
    };
    request.run(job).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn restart(request: Request) -> Result<Response> {
    let job = jobs::Restart {
        container: request.parameter("name"),
        signal: request.query("signal").filter(|signal| !signal.is_empty()),
        timeout: request.number("t")?,
    };
    request.run(job).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn kill(request: Request) -> Result<Response> {
    let signal = request.query("signal").unwrap_or_default();
    request.run(jobs::Kill { container: request.parameter("name"), signal }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn rename(request: Request) -> Result<Response> {
    let name = request.query("name").unwrap_or_default();
    request.run(jobs::Rename { container: request.parameter("name"), name }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn update(mut request: Request) -> Result<Response> {
    let wanted = request.json().await?;
    Ok(ok(&request.run(jobs::Update { container: request.parameter("name"), wanted }).await?))
}

pub async fn pause(request: Request) -> Result<Response> {
    request.run(jobs::Pause { container: request.parameter("name") }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn unpause(request: Request) -> Result<Response> {
    request.run(jobs::Unpause { container: request.parameter("name") }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub async fn attach(request: Request) -> Result<Response> {
    let container = request.parameter("name");
    let (stdin, stdout, stderr) = (request.flag("stdin"), request.flag("stdout"), request.flag("stderr"));
    let (logs, stream) = (request.flag("logs"), request.flag("stream"));
    hijacked(request, |hijack| jobs::Attach { container, stdin, stdout, stderr, logs, stream, hijack }).await
}

pub async fn wait(request: Request) -> Result<Response> {
    let container = request.parameter("name");
    let condition = request.query("condition").unwrap_or_default().parse::<jobs::WaitCondition>()?;
    streamed(&request, "application/json", |outlet| jobs::Wait { container, condition, outlet }).await
}

pub async fn delete(request: Request) -> Result<Response> {
    let job = jobs::Delete {
        container: request.parameter("name"),
        force: request.flag("force"),
        volumes: request.flag("v"),
        link: request.flag("link"),
    };
    request.run(job).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The path of an archive request.
fn archive_path(request: &Request) -> Result<String> {
    match request.query("path").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path),
        None => Err(Failure::invalid("missing required query parameter: path")),
    }
}

fn set_stat(response: &mut Response, stat: &PathStat) {
    let encoded = base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(stat).unwrap_or_default());
    respond::set(response, "x-docker-container-path-stat", &encoded);
}

pub async fn archive_stat(request: Request) -> Result<Response> {
    let path = archive_path(&request)?;
    let stat = request.run(jobs::ArchiveStat { container: request.parameter("name"), path }).await?;
    let mut response = empty(StatusCode::OK);
    set_stat(&mut response, &stat);
    Ok(response)
}

pub async fn archive_get(request: Request) -> Result<Response> {
    let path = archive_path(&request)?;
    let turn = request.seat.archive().await?;
    let (stat, known) = tokio::sync::oneshot::channel();
    let (outlet, OutletReader { bytes, .. }) = Outlet::new();
    let job = jobs::ArchiveGet { container: request.parameter("name"), path, stat, outlet };
    let task = respond::spawn(&request.engine, job, request.environment.clone(), turn);
    let Ok(stat) = known.await else {
        return match task.await {
            Ok(Err(error)) => Err(error.into()),
            _ => Err(Failure::new(gantry_api::ErrorKind::System, "the archive ended before it began")),
        };
    };
    let mut response = hyper::Response::new(Body::Checked(bytes, task));
    respond::set(&mut response, "content-type", "application/x-tar");
    set_stat(&mut response, &stat);
    Ok(response)
}

pub async fn archive_put(mut request: Request) -> Result<Response> {
    let path = archive_path(&request)?;
    let turn = request.seat.archive().await?;
    let mut body = request.inlet();
    let left = CancellationToken::new();
    body.cancel_with(left.clone());
    // Ends with the client: what it sent may inflate to more than anybody wants.
    let _left = left.drop_guard();
    let job = jobs::ArchivePut {
        container: request.parameter("name"),
        path,
        no_overwrite_dir_non_dir: request.flag("noOverwriteDirNonDir"),
        copy_uid_gid: request.flag("copyUIDGID"),
        body,
    };
    let task = respond::spawn(&request.engine, job, request.environment.clone(), turn);
    respond::finished(task).await?;
    Ok(empty(StatusCode::OK))
}
