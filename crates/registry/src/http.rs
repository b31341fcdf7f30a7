//! One request over HTTP: the right client for the host, redirects followed by our own rule, errors that name the URL.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url};

use crate::dns::Resolver;
use crate::{Error, Options, Result, redirect};

const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// For hosts that may be insecure: they are near, and one that speaks no TLS may leave its greeting unanswered.
const NEAR_DEADLINE: Duration = Duration::from_secs(10);
/// The longest silence in the middle of a body.
const READ_DEADLINE: Duration = Duration::from_secs(60);
/// Longest text of a registry's error that is shown.
const DETAIL_LIMIT: usize = 512;

/// The clients, each made when first needed: an idle daemon has none.
#[derive(Debug)]
pub struct Http {
    pub(crate) options: Options,
    strict: OnceLock<Client>,
    /// For hosts that may be insecure: any certificate, and no proxy, for they are near.
    lenient: OnceLock<Client>,
}

/// A request. Only its origin sees `authorization`.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub method: Method,
    pub url: Url,
    pub accept: Option<HeaderValue>,
    pub authorization: Option<HeaderValue>,
    /// The first byte wanted.
    pub from: u64,
    /// A form to post; such a request follows no redirect.
    pub form: Option<String>,
}

impl Outgoing {
    pub const fn get(url: Url) -> Self {
        Self { method: Method::GET, url, accept: None, authorization: None, from: 0, form: None }
    }
}

impl Http {
    pub fn new(options: Options) -> Self {
        Self { options, strict: OnceLock::new(), lenient: OnceLock::new() }
    }

    /// Sends a request and follows where it leads. The answer may be an error status.
    pub async fn send(&self, request: &Outgoing) -> Result<Response> {
        let mut url = request.url.clone();
        for _ in 0..=redirect::LIMIT {
            let answer = self.send_once(request, &url).await?;
            match redirect::target(&answer, &self.options)? {
                Some(next) if request.form.is_none() => url = next,
                _ => return Ok(answer),
            }
        }
        let reason = "there were too many redirects before it";
        Err(Error::Redirect { from: shown(&request.url), to: shown(&url), reason })
    }

    async fn send_once(&self, request: &Outgoing, url: &Url) -> Result<Response> {
        let mut headers = HeaderMap::new();
        // What is hashed must be what was stored.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(accept) = &request.accept {
            headers.insert(ACCEPT, accept.clone());
        }
        if let Some(authorization) = &request.authorization
            && redirect::same_origin(&request.url, url)
        {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if request.from > 0 {
            headers.insert(RANGE, HeaderValue::try_from(format!("bytes={}-", request.from)).expect("digits"));
        }
        let mut builder = self.client(url)?.request(request.method.clone(), url.clone()).headers(headers);
        if let Some(form) = &request.form {
            builder =
                builder.header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
        }
        builder.send().await.map_err(|error| network(&request.method, url, &error))
    }

    fn client(&self, url: &Url) -> Result<&Client> {
        let insecure = self.options.is_insecure(url);
        let cell = if insecure { &self.lenient } else { &self.strict };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let mut builder = Client::builder()
            .user_agent(&self.options.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_DEADLINE)
            .read_timeout(READ_DEADLINE)
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(self.options.downloads)
            .dns_resolver(Resolver);
        if insecure {
            builder = builder.danger_accept_invalid_certs(true).no_proxy().connect_timeout(NEAR_DEADLINE);
        }
        let client = builder.build().map_err(|error| network(&Method::GET, url, &error))?;
        Ok(cell.get_or_init(|| client))
    }
}

/// A URL without its query, which may be a signature.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Neither can fail on a URL with a host; such a URL is shown with what it has otherwise.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

/// The error of a connection that failed, with the deepest cause that is known.
pub fn network(method: &Method, url: &Url, error: &reqwest::Error) -> Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let mut reason = cause.to_string();
    if reason.contains("InvalidContentType") {
        reason = "http: server gave HTTP response to HTTPS client: name the host in --insecure-registry to allow that"
            .to_owned();
    } else if error.is_timeout() {
        reason = "timed out waiting for an answer".to_owned();
    }
    let method = if *method == Method::HEAD { "Head" } else { "Get" };
    Error::Network { method, url: shown(url), reason }
}

/// The seconds of `Retry-After`.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// A body of at most `limit` bytes.
pub async fn bounded(mut answer: Response, limit: usize, subject: &str) -> Result<Vec<u8>> {
    let too_large =
        || Error::invalid(subject, format!("it is larger than {limit} bytes, which is the most that is read"));
    if answer.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let url = answer.url().clone();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| network(&Method::GET, &url, &error))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A registry's words, fit for a person's terminal.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(DETAIL_LIMIT).collect()
}
