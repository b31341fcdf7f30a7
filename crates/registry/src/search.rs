//! Search: `/v1/search`, as Docker Hub has it and other registries may.

use gantry_api::reference::DEFAULT_DOMAIN;
use gantry_api::registry::SearchResult;
use gantry_api::system::AuthConfig;
use reqwest::Url;
use serde::Deserialize;

use crate::http::{Outgoing, bounded, printable, shown};
use crate::session::Access;
use crate::{Error, Registry, Result};

/// Where Docker Hub is searched.
const HUB: &str = "https://index.docker.io/";
/// The most that is read of an answer.
const LIMIT: usize = 8 << 20;

#[derive(Deserialize)]
struct Found {
    results: Vec<SearchResult>,
}

impl Registry {
    /// Searches for `term` (`debian`, `registry.example:5000/debian`).
    ///
    /// # Errors
    /// When the registry cannot be reached or searched.
    pub async fn search(&self, term: &str, limit: u32, auth: Option<&AuthConfig>) -> Result<Vec<SearchResult>> {
        let (host, words) = split(term)?;
        let mut session = self.host_session(host, auth, Access::Search).await?;
        if host == DEFAULT_DOMAIN {
            session.base = Url::parse(HUB).expect("a URL");
        }
        let mut url = session.base.join("v1/search").expect("a path");
        url.query_pairs_mut().append_pair("q", words).append_pair("n", &limit.to_string());
        let answer = session.ask(Outgoing::get(url.clone())).await?;
        match answer.status() {
            status if status.is_success() => {}
            status if status == reqwest::StatusCode::NOT_FOUND => {
                return Err(Error::invalid(shown(&url), "this registry cannot be searched: it has no /v1/search"));
            }
            _ => return Err(session.failure(answer, "").await),
        }
        let body = bounded(answer, LIMIT, "answer to the search").await?;
        let found: Found = serde_json::from_slice(&body)
            .map_err(|error| Error::invalid(format!("answer of {}", shown(&url)), error.to_string()))?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(found.results.into_iter().take(limit).map(shown_safely).collect())
    }
}

/// The registry and the words of a term.
fn split(term: &str) -> Result<(&str, &str)> {
    if term.contains("://") {
        let reason = format!("invalid repository name: repository name ({term}) should not have a scheme");
        return Err(Error::invalid("search", reason));
    }
    let is_host = |first: &str| first == "localhost" || first.contains(['.', ':']);
    match term.split_once('/') {
        Some((first, rest)) if is_host(first) && !crate::credentials::Credentials::is_hub(first) => Ok((first, rest)),
        Some((first, rest)) if is_host(first) => Ok((DEFAULT_DOMAIN, official(rest))),
        _ => Ok((DEFAULT_DOMAIN, official(term))),
    }
}

fn official(words: &str) -> &str {
    words.strip_prefix("library/").unwrap_or(words)
}

/// A stranger's words on a person's terminal.
fn shown_safely(found: SearchResult) -> SearchResult {
    SearchResult { name: printable(&found.name), description: printable(&found.description), ..found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_begin_with_its_registry() {
        for (term, parts) in [
            ("debian", ("docker.io", "debian")),
            ("library/debian", ("docker.io", "debian")),
            ("me/app", ("docker.io", "me/app")),
            ("docker.io/debian", ("docker.io", "debian")),
            ("localhost:5000/app", ("localhost:5000", "app")),
            ("r.test/a/b", ("r.test", "a/b")),
        ] {
            assert_eq!(split(term).unwrap(), parts);
        }
        split("https://r.test/a").unwrap_err();
    }
}
