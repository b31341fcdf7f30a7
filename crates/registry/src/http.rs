//! One request over HTTP: the right client for the host, redirects followed by our own rule, errors that name the URL.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, IF_RANGE, RANGE,
    RETRY_AFTER,
};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode, Url};

use crate::byte_range::first_byte;
use crate::certificates::Certificates;
use crate::dns::Resolver;
use crate::options::is_loopback;
use crate::session::Span;
use crate::{Error, Options, Result, redirect};

const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// For hosts that may be insecure: they are near, and one that speaks no TLS may leave its greeting unanswered.
const NEAR_DEADLINE: Duration = Duration::from_secs(10);
/// The longest silence in an answer, by that within a blob, which notices it first and asks again.
const SILENCES: u32 = 2;
/// Longest text of a registry's error that is shown.
const DETAIL_LIMIT: usize = 512;

/// The clients, each made when first needed: an idle daemon has none.
#[derive(Debug)]
pub struct Http {
    pub(crate) options: Options,
    clients: Mutex<HashMap<Kind, Client>>,
}

/// What a client is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// For hosts that may be insecure: any certificate.
    lenient: bool,
    /// For this machine, where no proxy leads.
    here: bool,
    /// For a host that has certificates of its own; they are shown to no other.
    host: Option<(String, Certificates)>,
    /// For bodies that are sent piece by piece: while one is on its way no answer is expected, and who sends it watches it.
    sends: bool,
}

/// A request. Only its origin sees `authorization`.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub method: Method,
    pub url: Url,
    pub accept: Option<HeaderValue>,
    pub authorization: Option<HeaderValue>,
    /// The bytes wanted.
    pub span: Span,
    pub content_type: Option<HeaderValue>,
    pub content_range: Option<HeaderValue>,
    /// What is sent as a whole. Only requests that read (`GET`, `HEAD`) follow redirects.
    pub body: Bytes,
}

impl Outgoing {
    pub const fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            accept: None,
            authorization: None,
            span: Span { from: 0, to: None, same_as: None },
            content_type: None,
            content_range: None,
            body: Bytes::new(),
        }
    }

    pub fn with_method(method: Method, url: Url) -> Self {
        Self { method, ..Self::get(url) }
    }

    /// A form to post.
    pub fn form(url: Url, form: &str) -> Self {
        let content_type = Some(HeaderValue::from_static("application/x-www-form-urlencoded"));
        Self { content_type, body: Bytes::copy_from_slice(form.as_bytes()), ..Self::with_method(Method::POST, url) }
    }

    fn reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

impl Http {
    pub fn new(options: Options) -> Self {
        Self { options, clients: Mutex::default() }
    }

    /// Sends a request and follows where it leads. The answer may be an error status.
    pub async fn send(&self, request: &Outgoing) -> Result<Response> {
        let mut url = request.url.clone();
        for _ in 0..=redirect::LIMIT {
            let mut builder = self.builder(request, &url, false)?;
            if !request.body.is_empty() {
                builder = builder.body(request.body.clone());
            }
            let answer = builder.send().await.map_err(|error| network(&request.method, &url, &error))?;
            if !request.reads() {
                return Ok(answer);
            }
            match redirect::target(&answer, &self.options)? {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        let reason = "there were too many redirects before it";
        Err(Error::Redirect { from: shown(&request.url), to: shown(&url), reason })
    }

    /// Sends a request whose body comes piece by piece. No redirect is followed, and how long it may take is the caller's
    /// business.
    pub async fn stream(&self, request: &Outgoing, body: Body) -> Result<Response> {
        let builder = self.builder(request, &request.url, true)?.body(body);
        builder.send().await.map_err(|error| network(&request.method, &request.url, &error))
    }

    fn builder(&self, request: &Outgoing, url: &Url, sends: bool) -> Result<RequestBuilder> {
        let mut headers = HeaderMap::new();
        // What is hashed must be what was stored.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let authorization = request.authorization.as_ref().filter(|_| redirect::same_origin(&request.url, url));
        for (name, value) in [
            (ACCEPT, request.accept.as_ref()),
            (AUTHORIZATION, authorization),
            (CONTENT_TYPE, request.content_type.as_ref()),
            (CONTENT_RANGE, request.content_range.as_ref()),
        ] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        let Span { from, to, same_as } = &request.span;
        if *from > 0 || to.is_some() {
            let last = to.map(|to| to.saturating_sub(1).to_string()).unwrap_or_default();
            headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-{last}")).expect("digits"));
            if let Some(tag) = same_as {
                headers.insert(IF_RANGE, tag.clone());
            }
        }
        Ok(self.client(url, sends)?.request(request.method.clone(), url.clone()).headers(headers))
    }

    fn client(&self, url: &Url, sends: bool) -> Result<Client> {
        let certificates = Certificates::of(url, &self.options.certificates)?;
        let host = (!certificates.is_empty()).then(|| (url.authority().to_owned(), certificates));
        let kind = Kind { lenient: self.options.is_insecure(url), here: is_loopback(url), host, sends };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .user_agent(&self.options.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_DEADLINE)
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(self.options.downloads.max(self.options.uploads))
            .dns_resolver(Resolver);
        if !kind.sends {
            builder = builder.read_timeout(self.options.silence.saturating_mul(SILENCES));
        }
        if kind.lenient {
            builder = builder.tls_danger_accept_invalid_certs(true).connect_timeout(NEAR_DEADLINE);
        }
        builder = if kind.here { builder.no_proxy() } else { self.options.proxies.add_to(builder)? };
        if let Some((authority, certificates)) = &kind.host {
            builder = certificates.add_to(builder)?;
            // Those that were replaced are of no use.
            clients.retain(|known, _| {
                known.sends != sends || known.host.as_ref().is_none_or(|(other, _)| other != authority)
            });
        }
        let client = builder.build().map_err(|error| network(&Method::GET, url, &error))?;
        clients.insert(kind, client.clone());
        Ok(client)
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
    } else if reason.contains("CaUsedAsEndEntity") {
        reason = "the registry shows the certificate of an authority (CA:TRUE) as its own, which is not taken: have that authority sign one for \
            the registry, or make it with `-addext basicConstraints=critical,CA:FALSE`"
            .to_owned();
    } else if error.is_timeout() {
        reason = "timed out waiting for an answer".to_owned();
    }
    let method = match *method {
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        _ => "Get",
    };
    Error::Network { method, url: shown(url), reason }
}

/// How long `Retry-After` asks to wait: seconds, or a date (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    // A date that has passed asks for no pause.
    Some(Duration::try_from(until.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

/// Whether an answer is the part of something that begins at byte `from`; false where it is no part, but all of it.
pub fn is_part(answer: &Response, from: u64) -> Result<bool> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(false);
    }
    if first_byte(answer.headers()) == Some(from) {
        return Ok(true);
    }
    let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Err(Error::invalid("answer of the registry", format!("byte {from} was asked for, and it sent range {range:.80?}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_in_seconds_or_by_a_date_how_long_to_wait() {
        let asked = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(asked(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = jiff::Timestamp::now() + Duration::from_secs(100);
        let text = later.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let pause = asked(&text).unwrap();
        assert!((90..=100).contains(&pause.as_secs()), "{pause:?}");
        for text in ["", "soon", "-1", "7s"] {
            assert_eq!(asked(text), None, "{text}");
        }
    }
}
