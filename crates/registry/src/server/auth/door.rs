//! `/token`: a password is shown for a token, which is shown for everything else.

use std::sync::Arc;

use gantry_transport::Peer;
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use super::super::answer::json_answer;
use super::super::limits::Limits;
use super::super::{Code, Door, Failure, Future, Name, Query, Request, Response, Result};
use super::policy::Policy;
use super::scope::{self, Grant};
use super::{Gate, Issuer, Shown, password, unauthorized};

/// The path.
const PATH: &str = "/token";

/// Issues tokens to whom the gate's policy knows; without an issuer in it there is no such path.
pub struct TokenDoor(pub Arc<Gate>);

impl Door for TokenDoor {
    fn answer<'a>(&'a self, request: &'a Request, form: &'a Query) -> Option<Future<'a, Result<Response>>> {
        let terms = self.0.terms();
        let policy = terms.policy.clone().filter(|policy| policy.issuer.is_some() && request.uri.path() == PATH)?;
        Some(Box::pin(async move { policy.token(&terms.limits, request, form).await }))
    }
}

impl Policy {
    async fn token(&self, limits: &Limits, request: &Request, form: &Query) -> Result<Response> {
        let Some(issuer) = &self.issuer else {
            return Err(Failure::new(Code::Unsupported, "no tokens are issued here"));
        };
        let (shown, query) = match request.method {
            Method::GET => (Shown::read(&request.headers), &request.query),
            Method::POST => (posted(form)?, form),
            _ => return Err(Failure::method(&request.method, PATH)),
        };
        let user = self.user(limits, &request.peer, shown).await?;
        let asked = scope::parse(query.all("scope"));
        let grants: Vec<Grant> = asked.into_iter().filter_map(|asked| self.grant(user.as_deref(), &asked)).collect();
        Ok(answer(issuer, user.as_deref(), &grants))
    }

    /// Whose password is shown; `None` when nothing is, and nobody may do something here.
    async fn user(&self, limits: &Limits, peer: &Peer, shown: Shown) -> Result<Option<String>> {
        let refuse = |message| Err(unauthorized(self.basic(), message));
        match shown {
            Shown::Nothing if self.rules.knows_anonymous() => Ok(None),
            Shown::Nothing => refuse("authentication required"),
            Shown::Password { user, password: shown } => {
                let Some(users) = &self.users else { return refuse("authentication required") };
                if password(users, limits, peer, &user, &shown).await? {
                    return Ok(Some(user));
                }
                refuse("incorrect username or password")
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

/// OAuth2's form, as containerd sends it before it tries anything else: a password is shown in it.
fn posted(form: &Query) -> Result<Shown> {
    let refuse = |message| Err(Failure::new(Code::Unsupported, message).status(StatusCode::BAD_REQUEST));
    match (form.get("grant_type"), form.get("username"), form.get("password")) {
        (Some("password"), Some(user), Some(password)) if !user.is_empty() => {
            Ok(Shown::Password { user: user.to_owned(), password: password.to_owned() })
        }
        (Some("password"), ..) => refuse("a form with grant_type=password has username and password"),
        _ => refuse("tokens are given for grant_type=password; there are no refresh tokens"),
    }
}

fn answer(issuer: &Issuer, user: Option<&str>, grants: &[Grant]) -> Response {
    let (token, issued) = issuer.issue(user, grants);
    let issued = Timestamp::try_from(issued).unwrap_or_default();
    let body = json!({
        "token": token,
        "access_token": token,
        "expires_in": issuer.lifetime().as_secs(),
        "issued_at": issued.to_string(),
    });
    let mut response = json_answer(StatusCode::OK, &body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().append(http::header::VARY, HeaderValue::from_name(AUTHORIZATION));
    response
}
