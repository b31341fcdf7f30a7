//! The registry's policy: whom it believes, by what, and what the rules then allow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::HOST};
use serde::Deserialize;

use super::super::config::Span;
use super::super::limits::Limits;
use super::super::{Action, Ask, Code, Failure, Result, Who};
use super::htpasswd::{Htpasswd, HtpasswdError};
use super::rules::{Rule, Rules};
use super::tokens::{ForeignIssuer, Issuer, KeyError, Source, Verified, Verifier};
use super::{Shown, password, unauthorized};

/// The section `auth` of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AuthSettings {
    /// Users and their passwords, as `htpasswd -B` writes them.
    pub htpasswd: Option<PathBuf>,
    /// What `Basic` challenges say where the password is for.
    pub realm: Option<String>,
    /// Lets everybody pull everything. Needs `token`, or no password is ever asked for.
    pub anonymous_pull: bool,
    /// Passwords are shown for tokens, and tokens here.
    pub token: Option<TokenSettings>,
    /// What is allowed. Without any: everything to every user.
    pub rules: Vec<Rule>,
    /// Issuers elsewhere that are believed.
    pub issuers: Vec<ForeignIssuer>,
    /// Where clients get the tokens of those issuers.
    pub token_url: Option<String>,
}

/// The section `auth.token`: tokens that this registry issues itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TokenSettings {
    /// Who issues: `iss`.
    pub issuer: String,
    /// For whom: `aud`, and what clients are told to ask for.
    pub service: String,
    /// How long a token counts.
    pub lifetime: Span,
    /// How long what clients keep in place of a password counts; `0s`: nothing is given in its place.
    pub refresh: Span,
    /// The key that signs. Made when it is not there; in the registry's own directory unless said.
    pub key: Option<PathBuf>,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            issuer: "gantry-registry".to_owned(),
            service: "gantry-registry".to_owned(),
            lifetime: Span(Duration::from_secs(300)),
            refresh: Span(Duration::from_secs(90 * 86400)),
            key: None,
        }
    }
}

/// A policy that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The users' file.
    #[error(transparent)]
    Htpasswd(#[from] HtpasswdError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Settings that do not go together.
    #[error("auth: {0}")]
    Settings(&'static str),
}

/// Whom a registry believes and what it allows.
pub struct Policy {
    pub(super) users: Option<Htpasswd>,
    pub(super) issuer: Option<Issuer>,
    foreign: Vec<Verifier>,
    pub(super) rules: Rules,
    realm: String,
    token_url: Option<String>,
    /// As clients reach it, where the request's own `Host` is not to be believed.
    public_url: Option<String>,
    is_https: bool,
}

impl Policy {
    /// Reads what the settings name; none when they ask for no authentication.
    ///
    /// # Errors
    /// Files that cannot be used, settings that do not go together.
    pub fn open(
        settings: &AuthSettings,
        root: &Path,
        public_url: Option<String>,
        is_https: bool,
    ) -> std::result::Result<Option<Arc<Self>>, PolicyError> {
        settings.check()?;
        if settings.htpasswd.is_none() && settings.issuers.is_empty() {
            return Ok(None);
        }
        let own = |token: &TokenSettings| {
            let key = token.key.clone().unwrap_or_else(|| root.join("token.key"));
            let issuer = Issuer::open(&key, token.issuer.clone(), token.service.clone(), token.lifetime.0)?;
            Ok::<_, KeyError>(issuer.with_refresh(token.refresh.0))
        };
        Ok(Some(Arc::new(Self {
            users: settings.htpasswd.clone().map(Htpasswd::open).transpose()?,
            issuer: settings.token.as_ref().map(own).transpose()?,
            foreign: settings.issuers.iter().map(Verifier::open).collect::<std::result::Result<_, _>>()?,
            rules: Rules::new(settings.rules.clone(), settings.anonymous_pull),
            realm: settings.realm.clone().unwrap_or_else(|| "gantry registry".to_owned()),
            token_url: settings.token_url.clone(),
            public_url,
            is_https,
        })))
    }

    /// Who asks.
    pub(super) async fn identify(&self, limits: &Limits, ask: &Ask<'_>) -> Result<Who> {
        match Shown::read(ask.headers) {
            // Whoever is asked for nothing at the base never shows a password later.
            Shown::Nothing if ask.needs.is_some() && self.rules.knows_anonymous() => Ok(Who::default()),
            Shown::Nothing => Err(self.ask_for(ask, None, "authentication required")),
            Shown::Password { user, password: shown } if self.issuer.is_none() => {
                let Some(users) = &self.users else { return Err(self.refuse(limits, ask)) };
                if password(users, limits, ask.peer, &user, &shown).await?.is_some() {
                    return Ok(Who { user: Some(user), token: None });
                }
                Err(self.ask_for(ask, None, "incorrect username or password"))
            }
            Shown::Token(token) => {
                // It costs little, and who shows a good one has nothing to do with the failures of their neighbours.
                if let Some(verified) = self.verify(&token) {
                    return Ok(Who { user: verified.user.clone(), token: Some(Arc::new(verified)) });
                }
                if self.issuer.as_ref().is_some_and(|issuer| issuer.has_ended(&token)) {
                    return Err(self.ask_for(ask, Some("invalid_token"), "the token has expired"));
                }
                limits.may_log_in(ask.peer)?;
                Err(self.refuse(limits, ask))
            }
            Shown::Password { .. } | Shown::Nonsense => Err(self.refuse(limits, ask)),
        }
    }

    fn refuse(&self, limits: &Limits, ask: &Ask<'_>) -> Failure {
        limits.failed(ask.peer);
        self.ask_for(ask, Some("invalid_token"), "the credentials that were shown do not count here")
    }

    fn verify(&self, token: &str) -> Option<Verified> {
        let own = self.issuer.as_ref().and_then(|issuer| issuer.verify(token));
        if let Some(own) = own {
            // Who was removed from the file is nobody from then on, whatever tokens they still hold.
            let is_gone = |user: &String| self.users.as_ref().is_none_or(|users| !users.knows(user));
            return Some(own).filter(|own| !own.user.as_ref().is_some_and(is_gone));
        }
        self.foreign.iter().find_map(|verifier| verifier.verify(token))
    }

    /// Whether they may do what the request needs.
    pub(super) fn authorise(&self, who: &Who, ask: &Ask<'_>) -> Result<()> {
        let Some((name, action)) = &ask.needs else { return Ok(()) };
        let Some(name) = name else { return Ok(()) };
        if self.may(who, name.as_str(), *action) {
            return Ok(());
        }
        let could = match who.token.as_ref().map(|token| token.source) {
            Some(Source::Own) => self.rules.allow(who.user.as_deref(), name.as_str(), *action),
            // Its issuer may give another one.
            Some(Source::Grants) => true,
            Some(Source::Rules) => false,
            None => who.user.is_none() && self.token_server(ask.headers).is_some(),
        };
        if could || (who.user.is_none() && self.users.is_some()) {
            return Err(self.ask_for(ask, who.token.as_ref().map(|_| "insufficient_scope"), "authentication required"));
        }
        let message = format!("requested access to the resource is denied: {} of {name}", action.as_str());
        Err(Failure::new(Code::Denied, message))
    }

    /// Whether they may do that. In a list ([`Action::List`]) is what may be pulled; what is mirrored goes by the rules, for
    /// a token of ours names it otherwise, and by the grants of who issues those.
    pub(super) fn may(&self, who: &Who, repository: &str, action: Action) -> bool {
        let is_listed = action == Action::List;
        let is_implied = is_listed || action == Action::Mirror;
        let action = if is_implied { Action::Pull } else { action };
        let by_rules = || self.rules.allow(who.user.as_deref(), repository, action);
        let Some(token) = &who.token else { return by_rules() };
        match token.source {
            Source::Own => (is_implied || token.grants(repository, action)) && by_rules(),
            Source::Grants => {
                token.grants(repository, action) || (is_listed && token.grants.iter().any(super::Grant::shows_catalog))
            }
            Source::Rules => by_rules(),
        }
    }

    /// 401: what to show, and where to get it.
    fn ask_for(&self, ask: &Ask<'_>, error: Option<&str>, message: &str) -> Failure {
        let challenge = match self.token_server(ask.headers) {
            Some((realm, service)) => {
                let scope = scope_of(ask).map_or_else(String::new, |scope| format!(",scope=\"{scope}\""));
                let error = error.map_or_else(String::new, |error| format!(",error=\"{error}\""));
                format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}{error}")
            }
            None => format!("Basic realm=\"{}\"", self.realm),
        };
        match HeaderValue::try_from(challenge) {
            Ok(challenge) => unauthorized(challenge, message),
            // The settings were checked, so it can only be the request's own host.
            Err(_) => Failure::new(Code::Unauthorized, message),
        }
    }

    /// Where tokens are to be had, and the name of the service they are for.
    fn token_server(&self, headers: &HeaderMap) -> Option<(String, &str)> {
        if let Some(issuer) = &self.issuer {
            let base = self.public_url.clone().or_else(|| {
                let scheme = if self.is_https { "https" } else { "http" };
                Some(format!("{scheme}://{}", host(headers)?))
            })?;
            return Some((format!("{}/token", base.trim_end_matches('/')), issuer.service()));
        }
        Some((self.token_url.clone()?, self.foreign.first()?.audience()))
    }

    /// The challenge for a password.
    pub(super) fn basic(&self) -> HeaderValue {
        HeaderValue::try_from(format!("Basic realm=\"{}\"", self.realm)).expect("the settings were checked")
    }
}

impl AuthSettings {
    fn check(&self) -> std::result::Result<(), PolicyError> {
        let wrong = |reason| Err(PolicyError::Settings(reason));
        let words = [self.realm.as_deref(), self.token_url.as_deref(), self.token.as_ref().map(|t| t.service.as_str())];
        if words
            .into_iter()
            .flatten()
            .any(|word| word.is_empty() || word.chars().any(|c| c == '"' || c == '\\' || !(' '..='~').contains(&c)))
        {
            return wrong("realm, service and token-url are shown in a header: they must be printable, without quotes");
        }
        if self.token.is_some() && self.htpasswd.is_none() {
            return wrong("token needs htpasswd: without passwords there is nobody to give a token to");
        }
        let anonymous = self.anonymous_pull || Rules::new(self.rules.clone(), false).knows_anonymous();
        if anonymous && self.token.is_none() && self.htpasswd.is_some() {
            return wrong(
                "anonymous access needs token: a client that gets in without a password is never asked for one, and \
                 could not push",
            );
        }
        let nobody = self.htpasswd.is_none() && self.issuers.is_empty();
        if nobody && (anonymous || !self.rules.is_empty()) {
            return wrong("there are rules, and neither htpasswd nor issuers to know anybody by");
        }
        if self.token.as_ref().is_some_and(|token| !(10..=86400).contains(&token.lifetime.0.as_secs())) {
            return wrong("token.lifetime: want 10s to 24h");
        }
        if self.token.as_ref().is_some_and(|token| (1..3600).contains(&token.refresh.0.as_secs())) {
            return wrong("token.refresh: want 1h or more, or 0s for none");
        }
        Ok(())
    }
}

/// What a token must grant for this request.
fn scope_of(ask: &Ask<'_>) -> Option<String> {
    let (name, action) = ask.needs.as_ref()?;
    Some(match (name, action) {
        (Some(name), Action::Push) => format!("repository:{name}:pull,push"),
        (Some(name), action) => format!("repository:{name}:{}", action.as_str()),
        (None, _) => "registry:catalog:*".to_owned(),
    })
}

/// The host that the client asked, if it can be shown back to it.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b".:-_[]".contains(&b);
    (!host.is_empty() && host.len() <= 260 && host.bytes().all(is_plain)).then_some(host)
}
