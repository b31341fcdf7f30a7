//! Finding the route of a request: the version prefix, then the table, segment by segment.

use std::collections::HashMap;

use gantry_api::{ApiVersion, ErrorKind};
use hyper::Method;

use crate::error::{Failure, Result};
use crate::routes::{ROUTES, Route};

/// What a path leads to.
pub struct Found {
    /// The entry of the table.
    pub route: &'static Route,
    /// The version that the path names.
    pub version: Option<ApiVersion>,
    /// The path's parameters, decoded.
    pub parameters: HashMap<&'static str, String>,
}

/// Finds the route.
pub fn find(method: &Method, path: &str) -> Result<Found> {
    let (version, path) = split_version(path)?;
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut other_method = false;
    for route in ROUTES {
        let Some(parameters) = matches(route.path, &segments) else { continue };
        if method.as_str() == route.method
            || (method == Method::HEAD && route.method == "GET" && route.path == "/_ping")
        {
            return Ok(Found { route, version, parameters: decode(parameters)? });
        }
        other_method = true;
    }
    if other_method {
        return Err(Failure::new(ErrorKind::NotAllowed, format!("{method} is not allowed for {path}")));
    }
    Err(Failure::new(ErrorKind::NotFound, "page not found"))
}

/// `/v1.44/containers/json` → 1.44, `/containers/json`.
fn split_version(path: &str) -> Result<(Option<ApiVersion>, &str)> {
    let Some(rest) = path.strip_prefix("/v") else { return Ok((None, path)) };
    let (text, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Ok(version) = text.parse::<ApiVersion>() else { return Ok((None, path)) };
    if version > ApiVersion::NEWEST {
        return Err(Failure::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {}",
            ApiVersion::NEWEST
        )));
    }
    if version < ApiVersion::OLDEST {
        return Err(Failure::invalid(format!(
            "client version {version} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            ApiVersion::OLDEST
        )));
    }
    Ok((Some(version), if rest.is_empty() { "/" } else { rest }))
}

type Raw<'a> = Vec<(&'static str, Vec<&'a str>)>;

/// `{name}` takes one segment, `{name...}` one or more.
fn matches<'a>(pattern: &'static str, segments: &[&'a str]) -> Option<Raw<'a>> {
    let pattern: Vec<&'static str> = pattern.split('/').skip(1).collect();
    let mut raw = Vec::new();
    let mut at = 0;
    for (index, part) in pattern.iter().enumerate() {
        let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
        let taken = match name.map(|name| (name, name.strip_suffix("..."))) {
            Some((_, Some(name))) => {
                let count = (segments.len() - at).checked_sub(pattern.len() - index - 1).filter(|count| *count > 0)?;
                let parts = &segments[at..at + count];
                if parts.iter().all(|part| part.is_empty()) {
                    return None;
                }
                raw.push((name, parts.to_vec()));
                count
            }
            Some((name, None)) => {
                raw.push((name, vec![*segments.get(at).filter(|segment| !segment.is_empty())?]));
                1
            }
            None if segments.get(at) == Some(part) => 1,
            None => return None,
        };
        at += taken;
    }
    (at == segments.len()).then_some(raw)
}

fn decode(raw: Raw<'_>) -> Result<HashMap<&'static str, String>> {
    raw.into_iter().map(|(name, parts)| Ok((name, percent_decode(&parts.join("/"), false)?))).collect()
}

/// Undoes percent-encoding; in queries `+` is a blank.
pub fn percent_decode(text: &str, query: bool) -> Result<String> {
    gantry_transport::percent_decode(text, query)
        .ok_or_else(|| Failure::invalid(format!("invalid URL escape in {text:?}")))
}

/// The query's parameters.
pub fn parse_query(query: Option<&str>) -> Result<HashMap<String, Vec<String>>> {
    let mut parsed: HashMap<String, Vec<String>> = HashMap::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parsed.entry(percent_decode(name, true)?).or_default().push(percent_decode(value, true)?);
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> Option<(&'static str, HashMap<&'static str, String>)> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        find(&method, path).ok().map(|found| (found.route.path, found.parameters))
    }

    #[test]
    fn names_may_contain_slashes() {
        let (path, parameters) = found("GET", "/v1.44/images/localhost:5000/a/b%2Fc/json").unwrap();
        assert_eq!((path, parameters["name"].as_str()), ("/images/{name...}/json", "localhost:5000/a/b/c"));
        assert_eq!(found("GET", "/images/json").unwrap().0, "/images/json");
        // What may be a container's name or an image's is asked for as a container's first.
        let (path, parameters) = found("GET", "/containers/localhost:5000/a/json").unwrap();
        assert_eq!((path, parameters["name"].as_str()), ("/containers/{name...}/json", "localhost:5000/a"));
    }

    #[test]
    fn versions_outside_the_range_are_refused_and_none_is_fine() {
        assert!(found("GET", "/v1.23/info").is_none());
        assert!(found("GET", "/v1.99/info").is_none());
        assert!(found("GET", "/v1.24/info").is_some());
        assert!(found("GET", "/info").is_some());
        assert!(found("GET", "/vx/info").is_none());
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        for path in ["/", "/containers", "/containers//json", "/images//json", "/nope", "/_ping/x"] {
            assert!(found("GET", path).is_none(), "{path}");
        }
        assert!(found("HEAD", "/_ping").is_some());
        assert!(found("PATCH", "/_ping").is_none());
    }
}
