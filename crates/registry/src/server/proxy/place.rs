//! One upstream: how it is asked, and what its refusals mean to who asks here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use gantry_linux::fs;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::{Response, Url};
use tokio::sync::Semaphore;

use super::settings::{CacheSettings, ProxySettings};
use crate::http::network;
use crate::registry::Source;
use crate::server::{Code, Failure, Name};
use crate::session::Session;
use crate::{Error, Options, Registry};

/// Sessions that are kept: each knows what its repository's token is.
const SESSIONS: usize = 1024;
/// Blobs that come from it at once; others wait their turn.
const CONCURRENT: usize = 16;
/// For how long who has not answered is not asked again, where what is here will do.
const PAUSE: Duration = Duration::from_secs(5);
/// What "too many requests" means that does not say until when, and the longest that is believed.
const USUAL_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// The largest file with a password.
const PASSWORD_LIMIT: usize = 64 << 10;

/// Why upstream did not give something.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub failure: Failure,
    pub kind: Kind,
}

/// What may be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It says that there is no such thing: it is not here either, from now on.
    Gone,
    /// It cannot be asked now: what is here will do.
    Away,
    /// It sent what nobody may get, or does not let us in.
    Refused,
}

/// One upstream.
pub struct Place {
    pub name: String,
    client: Registry,
    url: Url,
    auth: Option<AuthConfig>,
    timeout: Duration,
    /// Its blobs that come: an upstream that drips holds up nobody else's.
    pub slots: Semaphore,
    sessions: Mutex<HashMap<Name, Arc<Session>>>,
    rest: Mutex<Option<Rest>>,
}

/// Until when it is left alone, and why.
#[derive(Clone)]
struct Rest {
    until: Instant,
    trouble: Trouble,
}

impl Place {
    /// With what the settings say.
    pub fn open(settings: &ProxySettings, cache: &CacheSettings) -> Result<Self, String> {
        let name = settings.name.as_str();
        let url = match &settings.url {
            Some(address) => address.0.clone(),
            None => Registry::home(name).map_err(|error| error.to_string())?,
        };
        let host = url.host_str().unwrap_or_default();
        let insecure: Vec<String> = settings.insecure.then(|| host.to_owned()).into_iter().collect();
        let options = Options::parse(&insecure, &[]).map_err(|error| error.to_string())?;
        let client = Registry::new(options.retry_pause(Duration::from_millis(100)));
        Ok(Self {
            name: name.to_owned(),
            client,
            url,
            auth: credentials(settings)?,
            timeout: cache.timeout.0,
            slots: Semaphore::new(CONCURRENT),
            sessions: Mutex::default(),
            rest: Mutex::default(),
        })
    }

    /// Asks for something of a repository, which has its whole name. The answer is a success.
    pub async fn ask(&self, repository: &Name, method: Method, path: &str, from: u64) -> Result<Response, Trouble> {
        if let Some(Rest { until, mut trouble }) = self.rest()
            && trouble.failure.code == Code::TooManyRequests
        {
            trouble.failure.headers.retain(|(name, _)| name != RETRY_AFTER);
            let left = until.saturating_duration_since(Instant::now()).as_secs() + 1;
            trouble.failure = trouble.failure.header(RETRY_AFTER, HeaderValue::from(left));
            return Err(trouble);
        }
        let asked = async {
            let session = self.session(repository).await?;
            session.send(method.clone(), path, from).await
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Ok(answer)) => {
                *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.trouble(&error)),
            Err(_) => {
                Err(self.away(StatusCode::GATEWAY_TIMEOUT, &format!("it did not answer within {:?}", self.timeout)))
            }
        }
    }

    /// The next bytes of an answer; none at its end.
    pub async fn chunk(&self, answer: &mut Response) -> Result<Option<Bytes>, Trouble> {
        match tokio::time::timeout(self.timeout, answer.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(self.trouble(&network(&Method::GET, &answer.url().clone(), &error))),
            Err(_) => Err(self.away(StatusCode::GATEWAY_TIMEOUT, &format!("it was silent for {:?}", self.timeout))),
        }
    }

    /// How long anybody waits for a whole document, or for the beginning of a blob.
    pub const fn patience(&self) -> Duration {
        self.timeout.saturating_mul(2)
    }

    /// A whole answer of at most `limit` bytes, which may not come in drops for ever.
    pub async fn whole(&self, answer: Response, limit: usize, what: &str) -> Result<Bytes, Trouble> {
        match tokio::time::timeout(self.patience(), self.body(answer, limit, what)).await {
            Ok(body) => body,
            Err(_) => {
                let reason = format!("{what} was not whole within {:?}", self.patience());
                Err(self.away(StatusCode::GATEWAY_TIMEOUT, &reason))
            }
        }
    }

    async fn body(&self, mut answer: Response, limit: usize, what: &str) -> Result<Bytes, Trouble> {
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk(&mut answer).await? {
            if body.len() + bytes.len() > limit {
                return Err(
                    self.refused(&format!("{what} is larger than {limit} bytes, which is the most that is taken"))
                );
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.into())
    }

    /// Why it should be left alone now, where what is here will do.
    pub fn resting(&self) -> Option<Trouble> {
        self.rest().map(|rest| rest.trouble)
    }

    fn rest(&self) -> Option<Rest> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rest.filter(|rest| rest.until > Instant::now())
    }

    /// What it sent is not what it must be.
    pub fn refused(&self, reason: &str) -> Trouble {
        let message = format!("{}: {reason}", self.name);
        tracing::error!("upstream {message}");
        let failure = Failure::new(Code::Unknown, message).status(StatusCode::BAD_GATEWAY);
        Trouble { failure, kind: Kind::Refused }
    }

    /// It cannot be asked now.
    pub fn away(&self, status: StatusCode, reason: &str) -> Trouble {
        let trouble = self.late(status, reason);
        self.leave_alone(PAUSE, &trouble);
        trouble
    }

    /// It did not come in time, perhaps only because so much else does.
    pub fn late(&self, status: StatusCode, reason: &str) -> Trouble {
        let message = format!("{} cannot be asked now, and this is not kept here: {reason}", self.name);
        Trouble { failure: Failure::new(Code::Unavailable, message).status(status), kind: Kind::Away }
    }

    fn leave_alone(&self, pause: Duration, trouble: &Trouble) {
        let rest = Rest { until: Instant::now() + pause, trouble: trouble.clone() };
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    }

    fn trouble(&self, error: &Error) -> Trouble {
        let name = &self.name;
        let gone = |code| Trouble { failure: Failure::new(code, format!("{name}: {error}")), kind: Kind::Gone };
        match error {
            Error::ManifestUnknown { .. } => gone(Code::ManifestUnknown),
            Error::NameUnknown { .. } => gone(Code::NameUnknown),
            Error::BlobUnknown { .. } => gone(Code::BlobUnknown),
            Error::AccessDenied { .. } | Error::Unauthorized { .. } => {
                let message = format!("{name} does not let this registry read that, or it does not exist: {error}");
                Trouble { failure: Failure::new(Code::Denied, message), kind: Kind::Refused }
            }
            Error::TooManyRequests { retry_after, .. } => {
                let pause = retry_after.unwrap_or(USUAL_REST).min(LONGEST_REST);
                let message =
                    format!("{name} says that this registry asks too often, and this is not kept here: {error}");
                let seconds = HeaderValue::from(pause.as_secs());
                let failure = Failure::new(Code::TooManyRequests, message).header(RETRY_AFTER, seconds);
                let trouble = Trouble { failure, kind: Kind::Away };
                self.leave_alone(pause, &trouble);
                trouble
            }
            Error::Network { .. } => self.away(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            Error::Status { status, .. } if status.is_server_error() => {
                self.away(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
            }
            other => self.refused(&other.to_string()),
        }
    }

    async fn session(&self, repository: &Name) -> crate::Result<Arc<Session>> {
        let known = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(repository).cloned();
        if let Some(session) = known {
            return Ok(session);
        }
        let reference: Reference = repository
            .as_str()
            .parse()
            .map_err(|error| Error::invalid(repository.as_str(), format!("no name of an image: {error}")))?;
        let session =
            self.client.session(&Source::at(self.url.clone(), &reference), &reference, self.auth.as_ref()).await?;
        let session = Arc::new(session);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= SESSIONS {
            sessions.clear();
        }
        sessions.insert(repository.clone(), session.clone());
        Ok(session)
    }
}

fn credentials(settings: &ProxySettings) -> Result<Option<AuthConfig>, String> {
    let name = &settings.name;
    match (&settings.username, &settings.password_file) {
        (None, None) => Ok(None),
        (Some(username), Some(file)) => {
            let password = fs::read_to_string_up_to(file, PASSWORD_LIMIT).map_err(|error| error.to_string())?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            Ok(Some(AuthConfig { username: username.clone(), password, ..AuthConfig::default() }))
        }
        _ => Err(format!("proxy {name}: username and password-file go together")),
    }
}
