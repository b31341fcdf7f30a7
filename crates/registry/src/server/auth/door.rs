//! `/token`: a password, or what is kept in its place, is shown for a token, which is shown for everything else.

use std::sync::Arc;

use gantry_transport::Peer;
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use super::super::answer::json_answer;
use super::super::limits::Limits;
use super::super::{Code, Door, Failure, Future, Name, Query, Request, Response, Result};
use super::htpasswd::Entry;
use super::policy::Policy;
use super::scope::{self, Grant};
use super::{Gate, Issuer, Refresh, Shown, password, unauthorized};

/// The path.
const PATH: &str = "/token";

/// Issues tokens to whom the gate's policy knows; without an issuer in it there is no such path.
pub struct TokenDoor(pub Arc<Gate>);

impl Door for TokenDoor {
    fn is_at(&self, path: &str) -> bool {
        path == PATH && self.0.terms().policy.as_ref().is_some_and(|policy| policy.issuer.is_some())
    }

    fn answer<'a>(&'a self, request: &'a Request, form: &'a Query) -> Future<'a, Result<Response>> {
        let terms = self.0.terms();
        Box::pin(async move {
            match terms.policy.as_ref().and_then(|policy| Some((policy, policy.issuer.as_ref()?))) {
                Some((policy, issuer)) => policy.token(issuer, &terms.limits, request, form).await,
                None => Err(Failure::new(Code::Unsupported, "no tokens are issued here")),
            }
        })
    }
}

/// What is shown for a token.
enum Question {
    Shown {
        shown: Shown,
        /// Whether something is wanted that can be kept in place of a password.
        is_offline: bool,
    },
    Refresh(String),
}

impl Policy {
    async fn token(&self, issuer: &Issuer, limits: &Limits, request: &Request, form: &Query) -> Result<Response> {
        let is_true = |value: Option<&str>| value.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let (question, query) = match request.method {
            Method::GET => {
                let is_offline = is_true(request.query.get("offline_token"));
                (Question::Shown { shown: Shown::read(&request.headers), is_offline }, &request.query)
            }
            Method::POST => (posted(form)?, form),
            _ => return Err(Failure::method(&request.method, PATH)),
        };
        let (user, kept) = match question {
            Question::Refresh(token) => (Some(self.refreshed(issuer, limits, &request.peer, &token)?), None),
            Question::Shown { shown, is_offline } => {
                let entry = self.entry(limits, &request.peer, shown).await?;
                let kept = entry.as_ref().filter(|_| is_offline).and_then(|entry| to_be_kept(issuer, entry));
                (entry.map(|entry| entry.user), kept)
            }
        };
        let asked = scope::parse(query.all("scope"));
        let grants: Vec<Grant> = asked.into_iter().filter_map(|asked| self.grant(user.as_deref(), &asked)).collect();
        Ok(answer(issuer, user.as_deref(), &grants, kept))
    }

    /// Whose refresh token that is. It costs nothing to look at, so that neighbours who fail do no harm to who shows a good one.
    fn refreshed(&self, issuer: &Issuer, limits: &Limits, peer: &Peer, token: &str) -> Result<String> {
        let is_same = |kept: &Refresh| {
            let entry = self.users.as_ref().and_then(|users| users.entry(&kept.user));
            entry.is_some_and(|entry| entry.mark() == kept.entry)
        };
        if let Some(kept) = issuer.refreshed(token).filter(is_same) {
            return Ok(kept.user);
        }
        limits.may_log_in(peer)?;
        limits.failed(peer);
        Err(unauthorized(self.basic(), "the refresh token does not count, or no more: log in again"))
    }

    /// The entry of the user whose password is shown; `None` when nothing is, and nobody may do something here.
    async fn entry(&self, limits: &Limits, peer: &Peer, shown: Shown) -> Result<Option<Entry>> {
        let refuse = |message| Err(unauthorized(self.basic(), message));
        match shown {
            Shown::Nothing if self.rules.knows_anonymous() => Ok(None),
            Shown::Nothing => refuse("authentication required"),
            Shown::Password { user, password: shown } => {
                let Some(users) = &self.users else { return refuse("authentication required") };
                match password(users, limits, peer, &user, &shown).await? {
                    Some(entry) => Ok(Some(entry)),
                    None => refuse("incorrect username or password"),
                }
            }
            Shown::Token(_) | Shown::Nonsense => {
                limits.failed(peer);
                refuse("a password is wanted here, in one Authorization header")
            }
        }
    }

    /// As much of what is asked for as the rules allow.
    fn grant(&self, user: Option<&str>, asked: &Grant) -> Option<Grant> {
        if asked.shows_catalog() {
            // What the catalog then shows is what its reader may pull.
            return Some(asked.clone());
        }
        if !asked.is_for_repository() || asked.name.parse::<Name>().is_err() {
            return None;
        }
        let allowed: Vec<_> =
            asked.known_actions().filter(|action| self.rules.allow(user, &asked.name, *action)).collect();
        (!allowed.is_empty()).then(|| Grant::repository(&asked.name, &allowed))
    }
}

/// Bound to the entry that the password was compared with: the file may have another one by now.
fn to_be_kept(issuer: &Issuer, entry: &Entry) -> Option<String> {
    issuer.refresh_token(&Refresh { user: entry.user.clone(), entry: entry.mark() })
}

/// OAuth2's form, as containerd sends it before it tries anything else: a password is in it, or what was kept in its place.
fn posted(form: &Query) -> Result<Question> {
    let refuse = |message| Err(Failure::new(Code::Unsupported, message).status(StatusCode::BAD_REQUEST));
    match form.get("grant_type") {
        Some("password") => match (form.get("username"), form.get("password")) {
            (Some(user), Some(password)) if !user.is_empty() => {
                let shown = Shown::Password { user: user.to_owned(), password: password.to_owned() };
                Ok(Question::Shown { shown, is_offline: form.get("access_type") == Some("offline") })
            }
            _ => refuse("a form with grant_type=password has username and password"),
        },
        Some("refresh_token") => match form.get("refresh_token") {
            Some(token) => Ok(Question::Refresh(token.to_owned())),
            None => refuse("a form with grant_type=refresh_token has a refresh_token"),
        },
        _ => refuse("tokens are given for grant_type=password and grant_type=refresh_token"),
    }
}

fn answer(issuer: &Issuer, user: Option<&str>, grants: &[Grant], kept: Option<String>) -> Response {
    let (token, issued) = issuer.issue(user, grants);
    let issued = Timestamp::try_from(issued).unwrap_or_default();
    let scope = grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut body = json!({
        "token": token,
        "access_token": token,
        "expires_in": issuer.lifetime().as_secs(),
        "issued_at": issued.to_string(),
        "scope": scope,
    });
    if let Some(kept) = kept {
        body["refresh_token"] = kept.into();
    }
    let mut response = json_answer(StatusCode::OK, &body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().append(http::header::VARY, HeaderValue::from_name(AUTHORIZATION));
    response
}
