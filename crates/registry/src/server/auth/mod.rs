//! Who asks, and what they may do here: passwords, tokens, rules.

mod door;
mod htpasswd;
mod policy;
mod rules;
mod scope;
mod tokens;

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_transport::Peer;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

pub use door::TokenDoor;
pub use htpasswd::{Htpasswd, HtpasswdError};
pub use policy::{AuthSettings, Policy, PolicyError, TokenSettings};
pub use rules::{Pattern, Rule, Rules};
pub use scope::Grant;
pub use tokens::{ForeignIssuer, Issuer, KeyError, Refresh, Source, Trust, Verified, Verifier};

use htpasswd::Entry;

use super::limits::{LimitSettings, Limits};
use super::{Access, Action, Ask, Code, Failure, Future, Name, Result, Route, Who};

/// The longest `Authorization` that is looked at.
const HEADER_LIMIT: usize = 20 << 10;

/// The gate of the registry. What it goes by can be changed while it stands.
pub struct Gate {
    now: RwLock<Arc<Terms>>,
}

/// What the gate goes by.
struct Terms {
    /// None: whoever comes may do everything.
    policy: Option<Arc<Policy>>,
    limits: Limits,
    request_bytes: u64,
    connections: Option<usize>,
    is_read_only: bool,
}

impl Gate {
    /// A gate that goes by these terms.
    #[must_use]
    pub fn new(policy: Option<Arc<Policy>>, limits: &LimitSettings, is_read_only: bool) -> Self {
        Self { now: RwLock::new(Arc::new(Terms::new(policy, limits, is_read_only))) }
    }

    /// Goes by other terms from here on; full buckets again.
    pub fn change(&self, policy: Option<Arc<Policy>>, limits: &LimitSettings, is_read_only: bool) {
        let terms = Arc::new(Terms::new(policy, limits, is_read_only));
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = terms;
    }

    fn terms(&self) -> Arc<Terms> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn decide(&self, ask: Ask<'_>) -> Result<Who> {
        let terms = self.terms();
        terms.limits.request(ask.peer)?;
        terms.bounds(&ask)?;
        let Some(policy) = &terms.policy else { return Ok(Who::default()) };
        // Whether the registry lives is nobody's secret; doors have keys of their own.
        if matches!(ask.route, Route::Health | Route::Other) {
            return Ok(Who::default());
        }
        let who = policy.identify(&terms.limits, &ask).await?;
        if let Some(user) = &who.user {
            terms.limits.user(user)?;
        }
        policy.authorise(&who, &ask)?;
        Ok(who)
    }
}

impl Access for Gate {
    fn admit<'a>(&'a self, ask: Ask<'a>) -> Future<'a, Result<Who>> {
        Box::pin(self.decide(ask))
    }

    fn may(&self, who: &Who, repository: &Name, action: Action) -> bool {
        self.terms().policy.as_ref().is_none_or(|policy| policy.may(who, repository.as_str(), action))
    }

    fn body_limit(&self) -> Option<u64> {
        Some(self.terms().request_bytes).filter(|limit| *limit > 0)
    }

    fn connection_limit(&self) -> Option<usize> {
        self.terms().connections
    }

    fn may_pull_all(&self, _: &Who) -> bool {
        self.terms().policy.is_none()
    }
}

impl Terms {
    fn new(policy: Option<Arc<Policy>>, limits: &LimitSettings, is_read_only: bool) -> Self {
        let LimitSettings { request_bytes, connections, .. } = *limits;
        Self { policy, limits: Limits::new(limits), request_bytes: request_bytes.0, connections, is_read_only }
    }

    /// What is refused whoever asks for it.
    fn bounds(&self, ask: &Ask<'_>) -> Result<()> {
        let changes = matches!(ask.needs, Some((_, Action::Push | Action::Delete)));
        if self.is_read_only && changes {
            let message = "this registry is read-only: nothing can be pushed or deleted now";
            return Err(Failure::new(Code::Unsupported, message));
        }
        let length = ask.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if self.request_bytes > 0 && length.is_some_and(|length| length > self.request_bytes) {
            return Err(Failure::body_too_large(self.request_bytes));
        }
        Ok(())
    }
}

/// What a caller shows.
enum Shown {
    Nothing,
    Password {
        user: String,
        password: String,
    },
    Token(String),
    /// What is no credential that is known here.
    Nonsense,
}

impl Shown {
    fn read(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = all.next() else { return Self::Nothing };
        // Of two, something before us might have believed the one that we do not.
        if all.next().is_some() || value.len() > HEADER_LIMIT {
            return Self::Nonsense;
        }
        let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return Self::Nonsense;
        };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::Token(rest.to_owned());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Self::Nonsense;
        }
        let pair = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match pair.as_deref().and_then(|pair| pair.split_once(':')) {
            Some((user, password)) if !user.is_empty() => {
                Self::Password { user: user.to_owned(), password: password.to_owned() }
            }
            _ => Self::Nonsense,
        }
    }
}

/// 401, with what to show.
fn unauthorized(challenge: HeaderValue, message: &str) -> Failure {
    Failure::new(Code::Unauthorized, message).header(WWW_AUTHENTICATE, challenge)
}

/// The entry that this is the password of, counting wrong ones. One of an address at a time: else many at once would all be
/// tried before the first is known to be wrong.
async fn password(users: &Htpasswd, limits: &Limits, peer: &Peer, user: &str, password: &str) -> Result<Option<Entry>> {
    if let Some(entry) = users.remembers(user, password) {
        return Ok(Some(entry));
    }
    let _turn = limits.turn(peer).await;
    limits.may_log_in(peer)?;
    let entry = users.check(user, password).await;
    if entry.is_none() {
        limits.failed(peer);
    }
    Ok(entry)
}

#[cfg(test)]
mod tests;
