//! One blob to a repository: a session that is taken up again where it broke off.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::reference::Digest;
use reqwest::header::{HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Body, Method, Response, StatusCode, Url};

use super::feed::{Data, Feed, Trace};
use crate::backoff::Backoff;
use crate::http::{Outgoing, shown};
use crate::progress::LayerReport;
use crate::session::Session;
use crate::{Error, Result, redirect};

/// Attempts that bring nothing.
const ATTEMPTS: u32 = 5;
/// Attempts that begin with the first byte, because the registry forgot the session or the bytes were others.
const BEGINNINGS: u32 = 3;
/// The longest time in which a registry takes not one byte.
const STALLED: Duration = Duration::from_secs(60);
/// The longest time that a registry may need for an answer when it has all bytes.
const FINISHING: Duration = Duration::from_secs(300);
/// Where the sessions of a repository are.
pub const UPLOADS: &str = "blobs/uploads/";
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Why a blob did not arrive.
pub enum Failure {
    /// There are no bytes to send.
    Source(Error),
    /// The registry did not take them.
    Target(Error),
}

type Outcome<T> = std::result::Result<T, Failure>;

/// A blob on its way.
pub struct Upload<'a> {
    session: &'a Session,
    data: &'a Data,
    report: &'a Arc<LayerReport>,
    /// Where the session goes on; none before there is one.
    location: Option<Url>,
    /// Bytes that the registry has.
    offset: u64,
    /// Digest and size of what was made on the way, once that is known.
    made: Option<(Digest, u64)>,
    beginnings: u32,
    renewals: u32,
    /// What the registry has must be asked before anything is sent.
    is_unsure: bool,
    /// The session had requests before that broke off.
    is_taken_up: bool,
}

/// What one attempt came to.
enum Step {
    Done,
    /// It goes on from where the registry is.
    Further,
}

impl<'a> Upload<'a> {
    /// Of these bytes; a mount that was refused leaves the `location` of a session.
    pub const fn new(
        session: &'a Session,
        data: &'a Data,
        report: &'a Arc<LayerReport>,
        location: Option<Url>,
    ) -> Self {
        Self {
            session,
            data,
            report,
            location,
            offset: 0,
            made: None,
            beginnings: 1,
            renewals: 0,
            is_unsure: false,
            is_taken_up: false,
        }
    }

    /// Sends everything. Returns digest and size of the blob, which are known before unless it is made on the way.
    pub async fn run(mut self, digest: Option<&Digest>) -> Outcome<(Digest, u64)> {
        let mut backoff = Backoff::new(self.session.pause(), ATTEMPTS);
        self.made = digest.cloned().zip(self.data.size());
        let mut reached = 0;
        loop {
            let outcome = self.attempt(digest).await;
            if self.offset > reached {
                reached = self.offset;
                backoff.reset();
            }
            let (error, wrap): (_, fn(Error) -> Failure) = match outcome {
                Ok(Step::Done) => break,
                Ok(Step::Further) => continue,
                Err(Failure::Source(error)) => (error, Failure::Source),
                Err(Failure::Target(error)) => (error, Failure::Target),
            };
            self.report.waits(&mut backoff, error).await.map_err(wrap)?;
            self.is_unsure = true;
        }
        self.made.ok_or_else(|| Failure::Target(Error::invalid("the blob", "its digest is not known")))
    }

    async fn attempt(&mut self, digest: Option<&Digest>) -> Outcome<Step> {
        if self.is_unsure {
            self.look().await.map_err(Failure::Target)?;
            if self.location.is_none()
                && let Some((digest, _)) = &self.made
                && is_there(self.session, digest).await.map_err(Failure::Target)?
            {
                return Ok(Step::Done);
            }
        }
        let Some(location) = self.location.clone() else {
            self.location = Some(begin(self.session, UPLOADS).await.map_err(Failure::Target)?);
            self.offset = 0;
            return Ok(Step::Further);
        };
        let is_whole = self.made.as_ref().is_some_and(|(_, size)| self.offset == *size);
        // Of nothing there is nothing to send.
        if is_whole {
            return self.finish(location).await.map_err(Failure::Target);
        }
        let feed = self.data.open(self.offset, self.report).await.map_err(Failure::Source)?;
        let trace = feed.trace();
        let answer = self.send(location, feed, &trace).await;
        if digest.is_none() {
            self.made = trace.made().or(self.made.take());
        }
        let answer = match (trace.failure(), answer) {
            // The connection breaks for this very reason.
            (Some(error), _) => return Err(Failure::Source(error)),
            (None, answer) => answer.map_err(Failure::Target)?,
        };
        let sent = trace.sent.load(Ordering::Acquire);
        self.judge(answer, self.offset + sent).await.map_err(Failure::Target)
    }

    /// What the registry says to the bytes up to `end`.
    async fn judge(&mut self, answer: Response, end: u64) -> Result<Step> {
        let status = answer.status();
        if status.is_success() {
            // A registry that does not say how far it is has all of it.
            let offset = received(answer.headers()).filter(|offset| *offset < end).unwrap_or(end);
            if let Some(next) = next_location(self.session, &answer)? {
                self.location = Some(next);
            }
            if offset <= self.offset {
                let reason = format!("it took no byte after the first {offset}");
                return Err(Error::Upload { url: shown(answer.url()), reason });
            }
            self.offset = offset;
            return Ok(Step::Further);
        }
        let rejected = self.session.authorization(&self.session.base);
        if self.renewals < BEGINNINGS && self.session.answered(&answer, rejected.as_ref()).await? {
            // The token ended under way.
            self.renewals += 1;
            self.is_unsure = true;
            return Ok(Step::Further);
        }
        match status {
            StatusCode::NOT_FOUND => self.begin_again(answer).await,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let known = self.offset;
                self.look().await?;
                if self.offset == known { self.begin_again(answer).await } else { Ok(Step::Further) }
            }
            _ => Err(self.session.failure(answer, UPLOADS).await),
        }
    }

    /// Forgets the session; gives the error when that was done often enough.
    async fn begin_again(&mut self, answer: Response) -> Result<Step> {
        (self.location, self.offset, self.is_taken_up) = (None, 0, false);
        if self.beginnings == BEGINNINGS {
            return Err(self.session.failure(answer, UPLOADS).await);
        }
        self.beginnings += 1;
        Ok(Step::Further)
    }

    async fn send(&self, url: Url, feed: Feed, trace: &Trace) -> Result<Response> {
        let mut request = Outgoing {
            content_type: Some(BYTES),
            authorization: self.session.authorization(&url),
            ..Outgoing::with_method(Method::PATCH, url)
        };
        // Said only where it tells the registry more than it knows: not all of them understand it.
        if let Some(size) = self.data.size().filter(|_| self.offset > 0 || self.is_taken_up) {
            let range = format!("{}-{}", self.offset, size - 1);
            request.content_range = Some(HeaderValue::try_from(range).expect("digits"));
        }
        let answer = self.session.http.stream(&request, Body::wrap(feed));
        tokio::select! {
            answer = answer => answer,
            () = stalled(trace) => {
                let reason = "timed out: it takes no more bytes, or does not answer".to_owned();
                Err(Error::Network { method: "Patch", url: shown(&request.url), reason })
            }
        }
    }

    async fn finish(&mut self, mut location: Url) -> Result<Step> {
        let Some((digest, _)) = self.made.clone() else { return Ok(Step::Further) };
        location.query_pairs_mut().append_pair("digest", digest.as_str());
        let request = Outgoing { content_type: Some(BYTES), ..Outgoing::with_method(Method::PUT, location) };
        let answer = self.session.ask(request).await?;
        match answer.status() {
            status if status.is_success() => Ok(Step::Done),
            // It may have done it and not been heard.
            StatusCode::NOT_FOUND if is_there(self.session, &digest).await? => Ok(Step::Done),
            // Not the bytes that it should have: what two connections wrote at once, say.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.begin_again(answer).await
            }
            _ => Err(self.session.failure(answer, UPLOADS).await),
        }
    }

    /// Asks where the session is; one that the registry does not know begins anew.
    async fn look(&mut self) -> Result<()> {
        let Some(location) = self.location.clone() else {
            self.is_unsure = false;
            return Ok(());
        };
        let answer = self.session.ask(Outgoing::get(location)).await?;
        let status = answer.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.session.failure(answer, UPLOADS).await);
        }
        self.is_unsure = false;
        match received(answer.headers()).filter(|_| status.is_success()) {
            None => (self.location, self.offset) = (None, 0),
            // "0-0" is said of one byte and of none, and while an earlier request still holds what it got. Where the size is
            // known, the range that goes along has the registry say which.
            Some(0 | 1) if self.data.size().is_none() => (self.location, self.offset) = (None, 0),
            Some(offset) => {
                self.offset = if offset == 1 { 0 } else { offset };
                self.is_taken_up = true;
                if let Some(next) = next_location(self.session, &answer)? {
                    self.location = Some(next);
                }
            }
        }
        Ok(())
    }
}

/// A small blob, whole.
pub async fn small(session: &Session, digest: &Digest, bytes: Bytes, location: Option<Url>) -> Result<()> {
    let mut backoff = Backoff::new(session.pause(), ATTEMPTS);
    let mut location = location;
    loop {
        let attempt = async {
            let mut url = match location.take() {
                Some(location) => location,
                None => begin(session, UPLOADS).await?,
            };
            url.query_pairs_mut().append_pair("digest", digest.as_str());
            let request =
                Outgoing { content_type: Some(BYTES), body: bytes.clone(), ..Outgoing::with_method(Method::PUT, url) };
            let answer = session.ask(request).await?;
            if answer.status().is_success() { Ok(()) } else { Err(session.failure(answer, UPLOADS).await) }
        };
        match attempt.await {
            Ok(()) => return Ok(()),
            Err(error) => session.wait(&mut backoff, error).await?,
        }
    }
}

/// Whether the repository has the blob.
pub async fn is_there(session: &Session, digest: &Digest) -> Result<bool> {
    let mut backoff = Backoff::new(session.pause(), ATTEMPTS);
    loop {
        match session.send(Method::HEAD, &format!("blobs/{digest}"), 0).await {
            Ok(_) => return Ok(true),
            Err(Error::BlobUnknown { .. } | Error::NameUnknown { .. }) => return Ok(false),
            Err(error) => session.wait(&mut backoff, error).await?,
        }
    }
}

/// Begins a session.
async fn begin(session: &Session, path: &str) -> Result<Url> {
    let answer = session.ask(Outgoing::with_method(Method::POST, session.url(path))).await?;
    if !answer.status().is_success() {
        return Err(session.failure(answer, path).await);
    }
    next_location(session, &answer)?.ok_or_else(|| Error::Upload {
        url: shown(answer.url()),
        reason: "the registry named no place to upload to".into(),
    })
}

/// Where an answer says that the session goes on. The registry's word is judged as a redirect is.
pub fn next_location(session: &Session, answer: &Response) -> Result<Option<Url>> {
    let Some(location) = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    redirect::judged(answer.url(), location, &session.http.options).map(Some)
}

/// The number of bytes that `Range: 0-N` speaks of.
fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?.trim();
    let (from, to) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let last: u64 = to.parse().ok()?;
    (from == "0").then(|| last.saturating_add(1))
}

/// Ends when the registry takes no bytes, or has all of them and does not answer.
async fn stalled(trace: &Trace) {
    let mut sent = 0;
    loop {
        let is_whole = trace.ended.load(Ordering::Acquire);
        tokio::time::sleep(if is_whole { FINISHING } else { STALLED }).await;
        let now = trace.sent.load(Ordering::Acquire);
        if now == sent && is_whole == trace.ended.load(Ordering::Acquire) {
            return;
        }
        sent = now;
    }
}
