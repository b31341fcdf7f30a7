//! Manifests: served as they are kept, taken when all that they name is here, deleted with their tags.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};

use super::blobs::matches_etag;
use crate::server::answer::{Body, Response, empty, named, set};
use crate::server::connection::Counted;
use crate::server::document::{Descriptor, Document, is_manifest};
use crate::server::failure::{Code, Failure, Result};
use crate::server::names::{Algorithm, Digest, Name, Tag, Target};
use crate::server::repositories::{Manifest, Sparse, manifest_unknown};
use crate::server::request::{Request, whole};
use crate::server::serve::Server;

/// The most tags that one push gives.
const TAGS: usize = 64;
/// The most blobs or manifests that one manifest names: each is looked for.
const PARTS: usize = 10_000;

/// `GET` and `HEAD`. `Accept` is not negotiated: what was pushed is served, or its digest would be another one.
pub async fn get(server: &Arc<Server>, request: &Request, name: &Name, target: &Target) -> Result<Response> {
    let found = server.repositories.manifest(name, target).await?;
    Ok(respond(request, found.ok_or_else(|| manifest_unknown(name, target))?))
}

/// The answer with a manifest.
pub fn respond(request: &Request, manifest: Manifest) -> Response {
    let etag = format!("\"{}\"", manifest.digest);
    let known = request.header(&header::IF_NONE_MATCH).is_some_and(|known| matches_etag(known, &etag));
    let length = manifest.bytes.len();
    let mut response = if known {
        empty(StatusCode::NOT_MODIFIED)
    } else if request.is_head() {
        Response::default()
    } else {
        Response::new(Body::from(manifest.bytes))
    };
    set(&mut response, header::ETAG, &etag);
    set(&mut response, named::DIGEST, manifest.digest.as_str());
    if !known {
        set(&mut response, header::CONTENT_LENGTH, &length.to_string());
        set(&mut response, header::CONTENT_TYPE, &manifest.media_type);
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

/// `PUT`.
pub async fn put(
    server: &Arc<Server>,
    request: &Request,
    name: &Name,
    target: &Target,
    body: Counted,
) -> Result<Response> {
    let tags = tags(request, target)?;
    let bytes = whole(body, server.settings.manifest_limit, "the manifest").await?;
    let document = Document::read(&bytes, request.header(&header::CONTENT_TYPE))?;
    let parts = document.blobs.len() + document.manifests.len();
    if parts > PARTS {
        let message = format!("the manifest is refused: it names {parts} parts, and {PARTS} are the most");
        return Err(Failure::new(Code::ManifestInvalid, message));
    }
    let digest = match target {
        Target::Tag(_) => Digest::of(Algorithm::Sha256, &bytes),
        Target::Digest(digest) => {
            let found = Digest::of(digest.algorithm(), &bytes);
            if found != *digest {
                return Err(Failure::new(Code::DigestInvalid, format!("the manifest is {found}, not {digest}")));
            }
            found
        }
    };
    let missing = server.repositories.missing(name, &document).await?;
    let mut warnings = Vec::new();
    for part in missing {
        if !may_miss(server.settings.sparse, part, &document) {
            return Err(part_unknown(name, part));
        }
        warnings.push(part.digest.to_string());
    }
    let manifest = Manifest { digest, media_type: document.media_type.clone(), bytes };
    server.repositories.put_manifest(name, &manifest, &document, &tags).await?;
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, header::LOCATION, &format!("/v2/{name}/manifests/{}", manifest.digest));
    set(&mut response, named::DIGEST, manifest.digest.as_str());
    if let Some(subject) = &document.subject {
        set(&mut response, named::SUBJECT, subject.digest.as_str());
    }
    if matches!(target, Target::Digest(_)) && !tags.is_empty() {
        let names: Vec<_> = tags.iter().map(Tag::as_str).collect();
        set(&mut response, named::TAG, &names.join(", "));
    }
    if let Some(first) = warnings.first() {
        let text =
            format!("299 - \"kept, but {} of its parts are not here, {first} the first of them\"", warnings.len());
        set(&mut response, header::WARNING, &text);
    }
    Ok(response)
}

/// The tag of the path, or those of the query beside a digest.
fn tags(request: &Request, target: &Target) -> Result<Vec<Tag>> {
    if let Target::Tag(tag) = target {
        return Ok(vec![tag.clone()]);
    }
    let tags = request.query.all("tag").map(|tag| Ok(tag.parse()?)).collect::<Result<Vec<Tag>>>()?;
    if tags.len() > TAGS {
        let message = format!("{} tags are more than the {TAGS} that one request may give", tags.len());
        return Err(Failure::new(Code::TagInvalid, message).status(StatusCode::URI_TOO_LONG));
    }
    Ok(tags)
}

fn may_miss(sparse: Sparse, part: &Descriptor, document: &Document) -> bool {
    match sparse {
        Sparse::Nothing => false,
        // A document has either blobs or manifests.
        Sparse::Indexes => is_manifest(&part.media_type) && !document.manifests.is_empty(),
        Sparse::Anything => true,
    }
}

fn part_unknown(name: &Name, part: &Descriptor) -> Failure {
    let message = format!("the manifest names {}, which repository {name} does not have: push it first", part.digest);
    Failure::new(Code::ManifestBlobUnknown, message).detail(serde_json::json!({ "digest": part.digest.as_str() }))
}

/// `DELETE`: of a tag, the tag; of a digest, the manifest and what leads to it.
pub async fn delete(server: &Server, name: &Name, target: &Target) -> Result<Response> {
    let deleted = match target {
        Target::Tag(tag) => server.repositories.delete_tag(name, tag).await?,
        Target::Digest(digest) => server.repositories.delete_manifest(name, digest).await?,
    };
    if deleted { Ok(empty(StatusCode::ACCEPTED)) } else { Err(manifest_unknown(name, target)) }
}
