//! Lists: tags, referrers, repositories, and a search as Docker Hub answers it.

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::server::answer::{Response, json_answer, named, set};
use crate::server::document::OCI_INDEX;
use crate::server::failure::{Code, Failure, Result};
use crate::server::hooks::Action;
use crate::server::names::{Digest, Name, Tag};
use crate::server::request::Request;
use crate::server::route::percent_encode;
use crate::server::serve::Server;

/// The most that one answer lists of repositories.
const PAGE: usize = 1000;
/// What a search finds when it does not say how much; and the most.
const FOUND: usize = 25;
const MOST_FOUND: usize = 100;

/// `/v2/<name>/tags/list`.
pub async fn tags(server: &Server, request: &Request, name: &Name) -> Result<Response> {
    let count = count(request)?;
    let mut tags = server.repositories.tags(name).await?;
    if tags.is_empty() && !server.repositories.exists(name).await? {
        return Err(Failure::new(Code::NameUnknown, format!("there is no repository {name} here"))
            .detail(json!({ "name": name.as_str() })));
    }
    if let Some(last) = request.query.get("last") {
        tags.drain(..tags.partition_point(|tag| tag.as_str() <= last));
    }
    let more = count.is_some_and(|count| tags.len() > count);
    tags.truncate(count.unwrap_or(usize::MAX));
    let mut response = json_answer(StatusCode::OK, &json!({ "name": name.as_str(), "tags": tags }));
    if let (true, Some(last), Some(count)) = (more, tags.last().map(Tag::as_str), count) {
        link(&mut response, &format!("/v2/{name}/tags/list"), count, last);
    }
    Ok(response)
}

/// `/v2/_catalog`: only what the caller may pull.
pub async fn catalog(server: &Server, request: &Request) -> Result<Response> {
    let wanted = count(request)?.unwrap_or(PAGE).min(PAGE);
    let last = request.query.get("last").map(|last| last.split('/').collect::<Vec<_>>());
    let names = server.repositories.all_names().await?.into_iter();
    let later = names.filter(|name| last.as_ref().is_none_or(|last| name.as_str().split('/').gt(last.iter().copied())));
    let mut seen = later.filter(|name| server.access.may(&request.who, name, Action::List));
    let names: Vec<Name> = seen.by_ref().take(wanted).collect();
    let more = wanted > 0 && seen.next().is_some();
    let mut response = json_answer(StatusCode::OK, &json!({ "repositories": names }));
    if let (true, Some(last)) = (more, names.last()) {
        link(&mut response, "/v2/_catalog", wanted, last.as_str());
    }
    Ok(response)
}

fn count(request: &Request) -> Result<Option<usize>> {
    let Some(text) = request.query.get("n") else { return Ok(None) };
    let invalid = || {
        Failure::new(Code::PaginationNumberInvalid, format!("n={text:.50?}: want how many entries to list"))
            .detail(json!({ "n": text.chars().take(50).collect::<String>() }))
    };
    text.parse().map(Some).map_err(|_| invalid())
}

pub fn link(response: &mut Response, path: &str, count: usize, last: &str) {
    let next = format!("<{path}?n={count}&last={}>; rel=\"next\"", percent_encode(last));
    set(response, header::LINK, &next);
}

/// `/v2/<name>/referrers/<digest>`: always an index, in pages when there is much of it.
pub async fn referrers(server: &Server, request: &Request, name: &Name, digest: &Digest) -> Result<Response> {
    let filter = request.query.get("artifactType");
    let after = request.query.get("last").map(str::parse::<Digest>).transpose()?;
    let (manifests, more) = server.repositories.referrers(name, digest, filter, after.as_ref()).await?;
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    let mut response = json_answer(StatusCode::OK, &index);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
    if filter.is_some() {
        response.headers_mut().insert(named::FILTERS, HeaderValue::from_static("artifactType"));
    }
    if let (true, Some(last)) = (more, manifests.last()) {
        let filter = filter.map(|kind| format!("&artifactType={}", percent_encode(kind))).unwrap_or_default();
        let next = format!("</v2/{name}/referrers/{digest}?last={}{filter}>; rel=\"next\"", last.digest);
        set(&mut response, header::LINK, &next);
    }
    Ok(response)
}

/// `/v1/search?q=&n=&page=`: repositories whose name contains the words.
pub async fn search(server: &Server, request: &Request) -> Result<Response> {
    let number = |name: &str, otherwise: usize| request.query.get(name).map_or(Ok(otherwise), str::parse);
    let invalid =
        |_| Failure::new(Code::PaginationNumberInvalid, "n and page are numbers").status(StatusCode::BAD_REQUEST);
    let size = number("n", FOUND).map_err(invalid)?.clamp(1, MOST_FOUND);
    let page = number("page", 1).map_err(invalid)?.max(1);
    let query = request.query.get("q").unwrap_or_default();
    let wanted = query.to_lowercase();
    let names = server.repositories.all_names().await?;
    let found = names.into_iter().filter(|name| name.as_str().contains(&wanted));
    let found: Vec<_> = found.filter(|name| server.access.may(&request.who, name, Action::List)).collect();
    let results: Vec<Value> = found.iter().skip((page - 1).saturating_mul(size)).take(size).map(result).collect();
    let answer = json!({
        "query": query,
        "num_results": found.len(),
        "num_pages": found.len().div_ceil(size),
        "page": page,
        "page_size": size,
        "results": results,
    });
    Ok(json_answer(StatusCode::OK, &answer))
}

/// Nothing here is official, automated or starred.
fn result(name: &Name) -> Value {
    json!({
        "name": name.as_str(),
        "description": "",
        "star_count": 0,
        "is_official": false,
        "is_automated": false,
        "is_trusted": false,
    })
}
