//! `/images/…`.

use gantry_api::container::Config;
use gantry_api::image::GraphNode;
use gantry_api::reference::{Digest, Reference};
use gantry_engine::jobs;
use hyper::StatusCode;

use crate::body::Body;
use crate::error::{Failure, Result};
use crate::handlers::registries::{registry_auth, registry_config};
use crate::request::Request;
use crate::respond::{Response, checked, empty, json, ok, reading, set, streamed};

pub async fn list(request: Request) -> Result<Response> {
    let job =
        jobs::Images { name: request.query("filter"), all: request.flag("all"), filters: request.query("filters") };
    Ok(ok(&request.run(job).await?))
}

/// The graph for graphviz, or with `format=json` as it is.
pub async fn viz(request: Request) -> Result<Response> {
    let nodes = request.run(jobs::Viz).await?;
    match request.query("format").as_deref() {
        None | Some("" | "dot") => {
            let mut response = hyper::Response::new(Body::from(GraphNode::dot(&nodes).into_bytes()));
            set(&mut response, "content-type", "text/vnd.graphviz; charset=utf-8");
            Ok(response)
        }
        Some("json") => Ok(ok(&nodes)),
        Some(other) => Err(Failure::invalid(format!("invalid format {other:?}: want dot or json"))),
    }
}

pub async fn pull_or_import(request: Request) -> Result<Response> {
    match request.query("fromImage").filter(|image| !image.is_empty()) {
        Some(image) => pull(request, &image).await,
        None => import(request).await,
    }
}

async fn pull(request: Request, image: &str) -> Result<Response> {
    let tag = request.query("tag").unwrap_or_default();
    let parsed = Reference::parse(image).map_err(|error| Failure::invalid(error.to_string()))?;
    let reference = match tag.as_str() {
        "" => parsed,
        text if text.starts_with("sha256:") => match text.parse::<Digest>() {
            Ok(digest) => parsed.with_digest(digest),
            Err(error) => return Err(Failure::invalid(error.to_string())),
        },
        text => parsed.with_tag(text).map_err(|error| Failure::invalid(error.to_string()))?,
    };
    let platform = request.query("platform").unwrap_or_default();
    let auth = registry_auth(&request)?;
    streamed(&request, "application/json", |outlet| jobs::Pull { reference, platform, auth, outlet }).await
}

pub async fn push(request: Request) -> Result<Response> {
    let name = request.parameter("name");
    let repository = Reference::parse(&name).map_err(|error| Failure::invalid(error.to_string()))?;
    let platform = platform(&request)?;
    let (auth, others) = (registry_auth(&request)?, registry_config(&request)?);
    let tag = request.query("tag").unwrap_or_default();
    let job = |outlet| jobs::Push { repository, tag, platform, auth, others, outlet };
    streamed(&request, "application/json", job).await
}

async fn import(mut request: Request) -> Result<Response> {
    let source = match request.query("fromSrc") {
        Some(source) if source == "-" => jobs::ImportSource::Body(request.inlet()),
        Some(url) if !url.is_empty() => jobs::ImportSource::Url(url),
        _ => return Err(Failure::invalid("one of fromImage and fromSrc is needed")),
    };
    let (repository, tag) = name_of(&request.query("repo").unwrap_or_default(), request.query("tag"));
    let (message, changes) = (request.query("message").unwrap_or_default(), request.query_all("changes"));
    let platform = request.query("platform").unwrap_or_default();
    reading(&request, |outlet| jobs::Import { repository, tag, message, changes, platform, source, outlet }).await
}

/// The repository may carry its tag.
fn name_of(repository: &str, tag: Option<String>) -> (String, String) {
    let tag = tag.unwrap_or_default();
    match repository.rfind(':') {
        Some(colon) if tag.is_empty() && !repository[colon..].contains('/') => {
            (repository[..colon].to_owned(), repository[colon + 1..].to_owned())
        }
        _ => (repository.to_owned(), tag),
    }
}

pub async fn inspect(request: Request) -> Result<Response> {
    let platform = platform(&request)?;
    Ok(ok(&request.run(jobs::ImageInspect { image: request.parameter("name"), platform }).await?))
}

pub async fn history(request: Request) -> Result<Response> {
    let platform = platform(&request)?;
    Ok(ok(&request.run(jobs::History { image: request.parameter("name"), platform }).await?))
}

pub async fn tag(request: Request) -> Result<Response> {
    let (repository, tag) = name_of(&request.query("repo").unwrap_or_default(), request.query("tag"));
    request.run(jobs::ImageTag { image: request.parameter("name"), repository, tag }).await?;
    Ok(empty(StatusCode::CREATED))
}

pub async fn delete(request: Request) -> Result<Response> {
    let job = jobs::ImageDelete {
        image: request.parameter("name"),
        force: request.flag("force"),
        prune: !request.flag("noprune"),
    };
    Ok(ok(&request.run(job).await?))
}

pub async fn get(request: Request) -> Result<Response> {
    let name = request.parameter("name");
    let images = if name.is_empty() { request.query_all("names") } else { vec![name] };
    // An old client names them all in one parameter.
    let images = images.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
    let platform = platform(&request)?;
    checked(&request, "application/x-tar", |outlet| jobs::ImageExport { images, platform, outlet }).await
}

pub async fn load(mut request: Request) -> Result<Response> {
    let quiet = request.query("quiet").is_none() || request.flag("quiet");
    let platform = platform(&request)?;
    let body = request.inlet();
    reading(&request, |outlet| jobs::Load { quiet, platform, body, outlet }).await
}

pub async fn commit(mut request: Request) -> Result<Response> {
    let (repository, tag) = name_of(&request.query("repo").unwrap_or_default(), request.query("tag"));
    let job = jobs::Commit {
        container: request.query("container").unwrap_or_default(),
        repository,
        tag,
        comment: request.query("comment").unwrap_or_default(),
        author: request.query("author").unwrap_or_default(),
        pause: request.query("pause").is_none() || request.flag("pause"),
        changes: request.query_all("changes"),
        config: request.json_or_default::<Option<Config>>().await?.filter(|config| *config != Config::default()),
    };
    Ok(json(StatusCode::CREATED, &request.run(job).await?))
}

pub async fn prune(request: Request) -> Result<Response> {
    Ok(ok(&request.run(jobs::ImagesPrune { filters: request.query("filters") }).await?))
}

/// `platform` as text (`linux/amd64`) or as OCI's document.
fn platform(request: &Request) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Platform {
        os: String,
        architecture: String,
        #[serde(default)]
        variant: String,
    }
    let text = request.query("platform").unwrap_or_default();
    if !text.starts_with('{') {
        return Ok(text);
    }
    let parsed: Platform = gantry_api::json::from_slice(text.as_bytes())
        .map_err(|error| Failure::invalid(format!("invalid platform {text}: {error}")))?;
    let Platform { os, architecture, variant } = parsed;
    Ok(if variant.is_empty() { format!("{os}/{architecture}") } else { format!("{os}/{architecture}/{variant}") })
}
