//! One repository at one registry: requests that know how to authenticate, and what the registry's errors mean.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_api::progress::Progress;
use gantry_api::reference::{Digest, Reference};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use crate::auth::{Question, Tokens};
use crate::backoff::Backoff;
use crate::challenge::Challenge;
use crate::credentials::Credentials;
use crate::http::{Http, Outgoing, bounded, printable, retry_after, shown};
use crate::manifest::{ACCEPT, DOCUMENT_LIMIT, Parsed, digest_of};
use crate::progress::{NOTICED, ProgressFn, reason, waiting};
use crate::redirect::same_origin;
use crate::{Descriptor, Document, Error, Result};

/// Most of an error's body that is read.
const ERROR_LIMIT: usize = 64 << 10;
/// Attempts at one document, and at what is only asked.
const ATTEMPTS: u32 = 3;
/// Docker's words.
const DENIED: &str = "requested access to the resource is denied";
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Which bytes of a blob are asked for.
#[derive(Debug, Clone, Default)]
pub struct Span {
    pub from: u64,
    /// The first byte that is not asked for; none for all that there is.
    pub to: Option<u64>,
    /// Only of what has this entity tag; all of it where it has another one.
    pub same_as: Option<HeaderValue>,
}

/// What is done at the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Pull,
    /// It is written.
    Push,
    /// The registry is only asked whether it knows who asks.
    Login,
    /// The registry is searched.
    Search,
}

/// Shared by all requests of one pull or push.
pub struct Session {
    pub http: Arc<Http>,
    pub tokens: Arc<Tokens>,
    /// `https://host[:port]/`.
    pub base: Url,
    pub reference: Reference,
    /// The repository's path there: a mirror may have it under another one.
    pub repository: String,
    pub credentials: Credentials,
    pub access: Access,
    /// Other repositories of the registry that are read meanwhile: what is mounted comes from there.
    pub reads: Vec<String>,
    /// Told when the registry has us wait.
    pub progress: Option<ProgressFn>,
    /// Whether to wait when there were too many requests: nobody else is there to be asked.
    pub patient: bool,
    /// What the registry accepted last.
    pub header: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Session {
    /// Asks for something of the repository; the answer is a success.
    pub async fn send(&self, method: Method, path: &str, from: u64) -> Result<Response> {
        self.send_span(method, path, Span { from, ..Span::default() }).await
    }

    /// Asks for some bytes of a blob.
    pub async fn send_span(&self, method: Method, path: &str, span: Span) -> Result<Response> {
        let url = self.url(path);
        let accept = path.starts_with("manifests/").then(|| HeaderValue::from_static(ACCEPT));
        let request = Outgoing { accept, span, ..Outgoing::with_method(method, url) };
        let answer = self.ask(request).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.failure(answer, path).await) }
    }

    /// The answer to a request, whatever it is; a challenge of the registry is answered as far as that is possible.
    pub async fn ask(&self, mut request: Outgoing) -> Result<Response> {
        request.authorization = self.authorization(&request.url);
        let answer = self.http.send(&request).await?;
        if !self.answered(&answer, request.authorization.as_ref()).await? {
            return Ok(answer);
        }
        request.authorization = self.authorization(&request.url);
        self.http.send(&request).await
    }

    /// The same with the right to read another repository of the registry, too.
    pub fn reading(&self, repository: &str) -> Self {
        Self {
            http: Arc::clone(&self.http),
            tokens: Arc::clone(&self.tokens),
            base: self.base.clone(),
            reference: self.reference.clone(),
            repository: self.repository.clone(),
            progress: self.progress.clone(),
            patient: self.patient,
            credentials: self.credentials.clone(),
            access: self.access,
            reads: vec![repository.to_owned()],
            // A token that allows less would be taken, and what is to be read left alone.
            header: Mutex::new(self.header.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(is_basic)),
        }
    }

    /// What the registry accepted last; nothing for other hosts.
    pub fn authorization(&self, url: &Url) -> Option<HeaderValue> {
        let shown = self.header.lock().unwrap_or_else(PoisonError::into_inner).clone();
        shown.filter(|_| same_origin(url, &self.base))
    }

    /// Whether the answer was a challenge of the registry that can be answered by something else than what was shown: it
    /// is what is shown from now on.
    pub async fn answered(&self, answer: &Response, rejected: Option<&HeaderValue>) -> Result<bool> {
        if answer.status() != StatusCode::UNAUTHORIZED || !same_origin(answer.url(), &self.base) {
            return Ok(false);
        }
        self.challenged(answer.headers(), rejected).await
    }

    /// Answers a challenge; false where there is nothing else to show.
    pub async fn challenged(&self, headers: &HeaderMap, rejected: Option<&HeaderValue>) -> Result<bool> {
        let header = self.tokens.answer(&self.question(&self.scopes(), rejected), headers).await?;
        let is_new = header.is_some();
        if is_new {
            *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
        }
        Ok(is_new)
    }

    /// What is asked of a token server.
    pub fn question<'a>(&'a self, scopes: &'a [String], rejected: Option<&'a HeaderValue>) -> Question<'a> {
        Question { http: &self.http, base: &self.base, scopes, credentials: &self.credentials, rejected }
    }

    fn scopes(&self) -> Vec<String> {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
            Access::Login => return Vec::new(),
            Access::Search => return vec!["registry:catalog:search".to_owned()],
        };
        let own = format!("repository:{}:{actions}", self.repository);
        let others = self.reads.iter().map(|repository| format!("repository:{repository}:pull"));
        std::iter::once(own).chain(others).collect()
    }

    /// Where something of the repository is.
    pub fn url(&self, path: &str) -> Url {
        let relative = format!("v2/{}/{path}", self.repository);
        self.base.join(&relative).expect("names, tags and digests are words of a path by their grammar")
    }

    /// The manifest or index of the reference, or the one with `digest`.
    pub async fn manifest(&self, digest: Option<&Digest>) -> Result<(Document, Parsed)> {
        let expected = digest.or(self.reference.digest());
        let wanted = expected.map(Digest::as_str).or(self.reference.tag()).unwrap_or("latest");
        let (raw, answer) = self.document(&format!("manifests/{wanted}"), "manifest").await?;
        let digest = digest_of(&raw);
        for expected in expected.into_iter().chain(answer.digest.as_ref()) {
            if *expected != digest {
                let found = digest.to_string();
                return Err(Error::Digest { subject: "manifest", expected: expected.clone(), found });
            }
        }
        let (parsed, media_type) = Parsed::read(&raw, &answer.content_type, &self.reference)?;
        let descriptor = Descriptor { media_type, digest, size: raw.len() as u64 };
        Ok((Document { descriptor, raw }, parsed))
    }

    /// A manifest of whatever kind, verified.
    pub async fn any_manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.verified(&format!("manifests/{}", descriptor.digest), descriptor, "manifest").await
    }

    /// A small blob, verified.
    pub async fn blob(&self, descriptor: &Descriptor, subject: &'static str) -> Result<Vec<u8>> {
        if descriptor.size > DOCUMENT_LIMIT as u64 {
            let reason = format!("it is {} bytes, at most {DOCUMENT_LIMIT} are read", descriptor.size);
            return Err(Error::invalid(subject, reason));
        }
        self.verified(&format!("blobs/{}", descriptor.digest), descriptor, subject).await
    }

    async fn verified(&self, path: &str, descriptor: &Descriptor, subject: &'static str) -> Result<Vec<u8>> {
        let (raw, _) = self.document(path, subject).await?;
        let digest = digest_of(&raw);
        if digest != descriptor.digest || raw.len() as u64 != descriptor.size {
            let found = format!("{digest} ({} bytes)", raw.len());
            return Err(Error::Digest { subject, expected: descriptor.digest.clone(), found });
        }
        Ok(raw)
    }

    /// What a `HEAD` says of the reference; `None` when the registry does not say enough.
    pub async fn describe(&self) -> Result<Option<Descriptor>> {
        let wanted = self.reference.digest().map(Digest::as_str).or(self.reference.tag()).unwrap_or("latest");
        let answer = self.send(Method::HEAD, &format!("manifests/{wanted}"), 0).await?;
        let size = answer.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let head = Head::of(&answer);
        Ok(head.digest.zip(size).map(|(digest, size)| Descriptor { media_type: head.content_type, digest, size }))
    }

    async fn document(&self, path: &str, subject: &str) -> Result<(Vec<u8>, Head)> {
        let mut backoff = Backoff::new(self.http.options.pause, ATTEMPTS);
        loop {
            let attempt = async {
                let answer = self.send(Method::GET, path, 0).await?;
                let head = Head::of(&answer);
                Ok((bounded(answer, DOCUMENT_LIMIT, subject).await?, head))
            };
            match attempt.await {
                Ok(found) => return Ok(found),
                // Nobody there: a person waits, and would rather know. Too many without saying until when: the same.
                Err(error @ (Error::Network { .. } | Error::TooManyRequests { retry_after: None, .. })) => {
                    return Err(error);
                }
                Err(error @ Error::TooManyRequests { .. }) if !self.patient => return Err(error),
                Err(error) => self.wait(&mut backoff, error).await?,
            }
        }
    }

    /// Attempts something once, and again after each pause that is asked for; whatever else goes wrong is its outcome.
    pub async fn patiently<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        let mut backoff = Backoff::new(self.pause(), ATTEMPTS);
        loop {
            match attempt().await {
                Err(error @ Error::TooManyRequests { retry_after: Some(_), .. }) if self.patient => {
                    self.wait(&mut backoff, error).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits before another attempt, telling that where a person would notice; the error when no further one is made.
    pub async fn wait(&self, backoff: &mut Backoff, error: Error) -> Result<()> {
        let why = reason(&error);
        let pause = backoff.pause(error)?;
        if let Some(progress) = self.progress.as_ref().filter(|_| pause >= NOTICED) {
            progress(Progress::status(waiting(pause, why.as_deref())));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// What an answer that is no success means.
    pub async fn failure(&self, answer: Response, path: &str) -> Error {
        let (status, url, pause) = (answer.status(), shown(answer.url()), retry_after(answer.headers()));
        let ours = same_origin(answer.url(), &self.base);
        let challenge = refusal(answer.headers());
        // An error whose body does not come either is still that error.
        let body = bounded(answer, ERROR_LIMIT, "error of the registry").await.unwrap_or_default();
        let first = serde_json::from_slice::<Errors>(&body).ok().and_then(|all| all.errors.into_iter().next());
        let (code, message) = first.map(|entry| (entry.code, printable(&entry.message))).unwrap_or_default();
        let or = |usual: &str| if message.is_empty() { usual.to_owned() } else { message.clone() };
        let repository = self.reference.familiar_repository();
        match (status.as_u16(), code.as_str()) {
            (401, _) if ours && self.access == Access::Push => match challenge {
                Refusal::Scope => Error::Denied { detail: DENIED.to_owned() },
                Refusal::Basic if self.credentials == Credentials::Anonymous => Error::NoCredentials,
                _ => Error::Unauthorized { detail: or("authentication required") },
            },
            (403, _) if ours && self.access == Access::Push => Error::Denied { detail: or(DENIED) },
            (401, _) if ours && self.credentials != Credentials::Anonymous => {
                Error::Unauthorized { detail: or("authentication required") }
            }
            (401, _) if ours => {
                Error::AccessDenied { repository, detail: format!("unauthorized: {}", or("authentication required")) }
            }
            (403, _) if ours => Error::AccessDenied { repository, detail: format!("denied: {}", or(DENIED)) },
            (404, "NAME_UNKNOWN") => {
                Error::NameUnknown { repository, detail: or("repository name not known to registry") }
            }
            (404, _) if path.starts_with("manifests/") => {
                Error::ManifestUnknown { reference: self.reference.familiar(), detail: or("manifest unknown") }
            }
            (404, _) => Error::BlobUnknown { repository, path: path.to_owned() },
            (429, _) => Error::TooManyRequests { detail: or("too many requests to the registry"), retry_after: pause },
            _ => {
                let detail = if message.is_empty() { String::new() } else { format!(": {message}") };
                Error::Status { url, status, detail, retry_after: pause }
            }
        }
    }

    /// The first pause between attempts.
    pub fn pause(&self) -> Duration {
        self.http.options.pause
    }
}

fn is_basic(header: &HeaderValue) -> bool {
    header.as_bytes().starts_with(b"Basic ")
}

/// Why a registry refuses by a challenge.
enum Refusal {
    /// The token is good, and not for this.
    Scope,
    /// It wants a name and a password.
    Basic,
    Other,
}

fn refusal(headers: &HeaderMap) -> Refusal {
    let challenges = Challenge::all(headers);
    if challenges.iter().any(|challenge| challenge.parameters.get("error").is_some_and(|e| e == "insufficient_scope")) {
        return Refusal::Scope;
    }
    let basic = challenges.first().is_some_and(|challenge| challenge.scheme == "basic");
    if basic { Refusal::Basic } else { Refusal::Other }
}

struct Head {
    content_type: String,
    digest: Option<Digest>,
}

impl Head {
    fn of(answer: &Response) -> Self {
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        Self {
            content_type: text(CONTENT_TYPE.as_str()).unwrap_or_default().to_owned(),
            digest: text(CONTENT_DIGEST).and_then(|value| value.parse().ok()),
        }
    }
}
