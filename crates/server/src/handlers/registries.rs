//! `/auth`, `/distribution`, `/images/search`, and the headers that carry credentials for registries.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use gantry_engine::jobs;
use serde::de::DeserializeOwned;

use crate::error::{Failure, Result};
use crate::request::Request;
use crate::respond::{Response, ok};

pub async fn auth(mut request: Request) -> Result<Response> {
    let auth = request.json::<AuthConfig>().await?;
    Ok(ok(&request.run(jobs::Auth { auth }).await?))
}

pub async fn search(request: Request) -> Result<Response> {
    let job = jobs::Search {
        term: request.query("term").unwrap_or_default(),
        limit: request.number("limit")?,
        filters: request.query("filters"),
        auth: registry_auth(&request)?,
    };
    Ok(ok(&request.run(job).await?))
}

pub async fn distribution(request: Request) -> Result<Response> {
    let name = request.parameter("name");
    let reference = Reference::parse(&name).map_err(|error| Failure::invalid(error.to_string()))?;
    let auth = registry_auth(&request)?;
    Ok(ok(&request.run(jobs::Distribution { reference, auth }).await?))
}

/// `X-Registry-Auth`: the credentials for the registry that is asked.
pub fn registry_auth(request: &Request) -> Result<Option<AuthConfig>> {
    header(request, "x-registry-auth", "X-Registry-Auth")
}

/// `X-Registry-Config`: credentials by registry, for others that have to be asked as well.
pub fn registry_config(request: &Request) -> Result<Vec<AuthConfig>> {
    let all: Option<BTreeMap<String, AuthConfig>> = header(request, "x-registry-config", "X-Registry-Config")?;
    let named = all.unwrap_or_default().into_iter().map(|(address, auth)| match auth.serveraddress.as_str() {
        "" => AuthConfig { serveraddress: address, ..auth },
        _ => auth,
    });
    Ok(named.collect())
}

/// base64url, with or without padding, of a JSON document; an empty one is none.
fn header<T: DeserializeOwned>(request: &Request, name: &str, shown: &str) -> Result<Option<T>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let Some(header) = request.headers.get(name).filter(|header| !header.is_empty()) else {
        return Ok(None);
    };
    let engine = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let standard = |byte: &u8| match byte {
        b'+' => b'-',
        b'/' => b'_',
        byte => *byte,
    };
    let text: Vec<u8> = header.as_bytes().iter().map(standard).collect();
    let decoded = engine.decode(text).map_err(|error| Failure::invalid(format!("invalid {shown} header: {error}")))?;
    if decoded.is_empty() || decoded == b"{}" {
        return Ok(None);
    }
    let parsed = gantry_api::json::from_slice(&decoded);
    // What serde would quote of it could be a password.
    parsed
        .map(Some)
        .map_err(|_| Failure::invalid(format!("invalid {shown} header: it is not the JSON that it should be")))
}
