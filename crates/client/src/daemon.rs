//! The daemon as commands see it: requests by path and query, answers as types or failures.

use gantry_api::ErrorBody;
use gantry_transport::{ClientTls, Endpoint, Hijacked, HttpClient, Upgrade};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::Body;
use crate::config::Config;
use crate::failure::{Failure, Result};

/// How much of an error's text is read.
const ERROR_LIMIT: usize = 1 << 20;

/// A daemon.
#[derive(Debug, Clone)]
pub struct Daemon {
    http: HttpClient,
    /// `/v1.44` when `DOCKER_API_VERSION` asks for it; without one the daemon speaks its newest.
    prefix: String,
    headers: HeaderMap,
}

/// A query string in the making.
#[derive(Debug, Default, Clone)]
pub struct Query(String);

impl Query {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        escape(value.as_ref(), &mut self.0, false);
        self
    }

    /// With a parameter unless it is empty.
    #[must_use]
    pub fn with_text(self, name: &str, value: impl AsRef<str>) -> Self {
        if value.as_ref().is_empty() { self } else { self.with(name, value) }
    }

    /// With a parameter that is 1 when it is on.
    #[must_use]
    pub fn with_flag(self, name: &str, on: bool) -> Self {
        if on { self.with(name, "1") } else { self }
    }
}

/// One segment of a path.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape(text, &mut out, true);
    out
}

fn escape(text: &str, out: &mut String, path: bool) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if plain || path && matches!(byte, b'/' | b':' | b'@') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

impl Daemon {
    /// A daemon there; nothing is sent yet.
    pub fn new(endpoint: Endpoint, tls: Option<ClientTls>, config: &Config) -> Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in &config.http_headers {
            let bad = || Failure::new(format!("config.json: {name:?} in HttpHeaders is not a header"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| bad())?);
        }
        let agent = concat!("Gantry-Client/", env!("CARGO_PKG_VERSION"), " (linux)");
        headers.insert(http::header::USER_AGENT, HeaderValue::from_static(agent));
        let version = std::env::var("DOCKER_API_VERSION").unwrap_or_default();
        let prefix = match version.strip_prefix('v').unwrap_or(&version) {
            "" => String::new(),
            text => {
                let version: gantry_api::ApiVersion =
                    text.parse().map_err(|error| Failure::new(format!("DOCKER_API_VERSION: {error}")))?;
                format!("/v{version}")
            }
        };
        Ok(Self { http: HttpClient::new(endpoint).with_tls(tls), prefix, headers })
    }

    /// Where it is.
    pub const fn endpoint(&self) -> &Endpoint {
        self.http.endpoint()
    }

    /// How TLS is spoken with it.
    pub fn tls(&self) -> Option<&ClientTls> {
        self.http.tls()
    }

    fn build(&self, method: Method, path: &str, query: &Query, body: Body) -> Result<Request<Body>> {
        let uri = format!("{}{path}{}", self.prefix, query.0);
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(body)
            .map_err(|error| Failure::new(format!("cannot ask the daemon for {path}: {error}")))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    /// Sends a request; an answer of 400 or more is a failure with the daemon's message.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let answer = self.http.request(request).await?;
        if answer.status().as_u16() < 400 {
            return Ok(answer);
        }
        Err(refusal(answer).await)
    }

    /// GET, as it comes.
    pub async fn get_stream(&self, path: &str, query: &Query) -> Result<Response<Incoming>> {
        self.send(self.build(Method::GET, path, query, Body::empty())?).await
    }

    /// HEAD: the headers.
    pub async fn head(&self, path: &str, query: &Query) -> Result<HeaderMap> {
        let answer = self.http.request(self.build(Method::HEAD, path, query, Body::empty())?).await?;
        if answer.status().as_u16() >= 400 {
            let status = answer.status();
            return Err(Failure::daemon(status, status.canonical_reason().unwrap_or("refused")));
        }
        Ok(answer.headers().clone())
    }

    /// GET, the bytes.
    pub async fn get_bytes(&self, path: &str, query: &Query) -> Result<Vec<u8>> {
        collect(self.get_stream(path, query).await?).await
    }

    /// GET, as a type.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &Query) -> Result<T> {
        Ok(gantry_api::json::from_slice(&self.get_bytes(path, query).await?)?)
    }

    /// GET with further headers, as a type.
    pub async fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Query,
        headers: &[(&'static str, &str)],
    ) -> Result<T> {
        let mut request = self.build(Method::GET, path, query, Body::empty())?;
        add_headers(&mut request, headers)?;
        Ok(gantry_api::json::from_slice(&collect(self.send(request).await?).await?)?)
    }

    /// POST without a body, when the answer does not matter.
    pub async fn post(&self, path: &str, query: &Query) -> Result<StatusCode> {
        let answer = self.post_stream(path, query, Body::empty(), &[]).await?;
        let status = answer.status();
        collect(answer).await?;
        Ok(status)
    }

    /// POST of a document, answered by a type.
    pub async fn post_json<T: DeserializeOwned>(&self, path: &str, query: &Query, body: &impl Serialize) -> Result<T> {
        let body = Body::bytes(serde_json::to_vec(body)?);
        let answer = self.post_stream(path, query, body, &[("content-type", "application/json")]).await?;
        let bytes = collect(answer).await?;
        Ok(gantry_api::json::from_slice(if bytes.is_empty() { b"null" } else { &bytes })?)
    }

    /// POST, answered by a stream.
    pub async fn post_stream(
        &self,
        path: &str,
        query: &Query,
        body: Body,
        headers: &[(&'static str, &str)],
    ) -> Result<Response<Incoming>> {
        let mut request = self.build(Method::POST, path, query, body)?;
        add_headers(&mut request, headers)?;
        self.send(request).await
    }

    /// PUT of a stream.
    pub async fn put(&self, path: &str, query: &Query, body: Body) -> Result<()> {
        let mut request = self.build(Method::PUT, path, query, body)?;
        add_headers(&mut request, &[("content-type", "application/x-tar")])?;
        collect(self.send(request).await?).await.map(drop)
    }

    /// DELETE, the bytes of the answer.
    pub async fn delete(&self, path: &str, query: &Query) -> Result<Vec<u8>> {
        collect(self.send(self.build(Method::DELETE, path, query, Body::empty())?).await?).await
    }

    /// POST that takes the connection over.
    pub async fn hijack(&self, path: &str, query: &Query, body: Option<Vec<u8>>) -> Result<(HeaderMap, Hijacked)> {
        let mut request = self.build(Method::POST, path, query, body.map_or_else(Body::empty, Body::bytes))?;
        add_headers(&mut request, &[("content-type", "application/json")])?;
        match self.http.upgrade(request).await? {
            Upgrade::Hijacked(head, stream) => Ok((head.headers, stream)),
            Upgrade::Answered(answer) if answer.status().as_u16() >= 400 => Err(refusal(answer).await),
            Upgrade::Answered(answer) => {
                Err(Failure::new(format!("unable to upgrade to tcp, received {}", answer.status().as_u16())))
            }
        }
    }
}

fn add_headers(request: &mut Request<Body>, headers: &[(&'static str, &str)]) -> Result<()> {
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|_| Failure::new(format!("{name}: not a header's value")))?;
        request.headers_mut().insert(*name, value);
    }
    Ok(())
}

/// The whole body.
pub async fn collect(answer: Response<Incoming>) -> Result<Vec<u8>> {
    let body = answer.into_body().collect().await.map_err(broken)?;
    Ok(body.to_bytes().to_vec())
}

/// The stream from the daemon ended before its end.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn broken(error: hyper::Error) -> Failure {
    Failure::new(format!("the connection to the daemon broke off: {error}"))
}

async fn refusal(answer: Response<Incoming>) -> Failure {
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), ERROR_LIMIT).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) if !body.message.is_empty() => body.message,
        _ if !bytes.trim_ascii().is_empty() => String::from_utf8_lossy(bytes.trim_ascii()).into_owned(),
        _ => status.canonical_reason().unwrap_or("refused").to_owned(),
    };
    if message.contains("HTTP request to an HTTPS server") {
        let way_out = "it speaks TLS there: give --tlsverify with its certificates (or DOCKER_TLS_VERIFY and \
                       DOCKER_CERT_PATH), or --tls";
        return Failure::daemon(status, &format!("{} {way_out}", message.trim_end()));
    }
    Failure::daemon(status, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_paths_are_escaped() {
        assert_eq!(Query::new().with("a", "x y&").with_text("b", "").with_flag("c", true).0, "?a=x%20y%26&c=1");
        assert_eq!(segment("reg:5000/a b@sha256:0"), "reg:5000/a%20b@sha256:0");
    }
}
