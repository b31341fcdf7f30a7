//! Answers to challenges: basic, and tokens from the server that the registry itself named.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::credentials::{Credentials, basic, bearer};
use crate::http::{Http, Outgoing, bounded, printable, retry_after, shown};
use crate::options::{is_local, is_loopback};
use crate::redirect::same_origin;
use crate::renewed::Renewed;
use crate::{Error, Options, Result};

const TOKEN_LIMIT: usize = 1 << 20;
/// How long a token lives that does not say.
const DEFAULT_LIFE: u64 = 60;
/// A token is not used in its last seconds: it would end under way.
const MARGIN: u64 = 5;

/// What token servers are told about us.
const CLIENT: &str = "gantry";

/// Tokens that are still good.
#[derive(Default)]
pub struct Tokens {
    kept: Mutex<HashMap<Key, (HeaderValue, Instant)>>,
    renewed: Renewed,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    realm: String,
    service: String,
    scopes: Vec<String>,
    credentials: Credentials,
}

/// Who asks for what.
pub struct Question<'a> {
    pub http: &'a Http,
    /// The registry.
    pub base: &'a Url,
    /// What shall be allowed: `repository:library/debian:pull` and the like. They are ours, not what the registry would like
    /// us to ask for.
    pub scopes: &'a [String],
    pub credentials: &'a Credentials,
    /// What was shown already and did not do.
    pub rejected: Option<&'a HeaderValue>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    expires_in: Option<u64>,
}

impl Tokens {
    /// The header that answers the challenge in `headers`; `None` when there is nothing (else) to show.
    pub async fn answer(&self, question: &Question<'_>, headers: &HeaderMap) -> Result<Option<HeaderValue>> {
        let challenges = Challenge::all(headers);
        let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let fresh = |header: &HeaderValue| Some(header) != question.rejected;
        if let Some(challenge) = find("bearer") {
            if let Some(header) = question.credentials.token() {
                return Ok(Some(header).filter(fresh));
            }
            return self.token(question, challenge).await.map(Some);
        }
        if find("basic").is_some() {
            return Ok(question.credentials.basic().filter(fresh));
        }
        Ok(None)
    }

    /// Shows credentials to the token server that the challenge in `headers` names. A token for the registry, and what is to be
    /// kept instead of the password, if anything; `None` where there is no such server.
    pub async fn identity(
        &self,
        question: &Question<'_>,
        headers: &HeaderMap,
    ) -> Result<Option<(HeaderValue, Option<String>)>> {
        let challenges = Challenge::all(headers);
        let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == "bearer") else { return Ok(None) };
        if *question.credentials == Credentials::Anonymous {
            return Err(Error::Unauthorized { detail: "incorrect username or password".to_owned() });
        }
        let parameter = |name: &str| challenge.parameters.get(name).cloned().unwrap_or_default();
        let realm = realm(question, &parameter("realm"))?;
        let key = Key {
            realm: realm.to_string(),
            service: parameter("service"),
            scopes: Vec::new(),
            credentials: question.credentials.clone(),
        };
        let Given { header, refresh, .. } = self.request(question, &realm, &key, true).await?;
        Ok(Some((header, Some(refresh).filter(|refresh| !refresh.is_empty()))))
    }

    async fn token(&self, question: &Question<'_>, challenge: &Challenge) -> Result<HeaderValue> {
        let parameter = |name: &str| challenge.parameters.get(name).cloned().unwrap_or_default();
        let realm = realm(question, &parameter("realm"))?;
        let key = Key {
            realm: realm.to_string(),
            service: parameter("service"),
            scopes: question.scopes.to_vec(),
            credentials: question.credentials.clone(),
        };
        let known = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((header, end)) = known
            && end > Instant::now()
            && Some(&header) != question.rejected
        {
            return Ok(header);
        }
        let Given { header, life, .. } = self.request(question, &realm, &key, false).await?;
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (_, end)| *end > now);
        kept.insert(key, (header.clone(), now + life));
        Ok(header)
    }

    /// Asks a token server; with `is_login` also for what may be kept instead of a password.
    async fn request(&self, question: &Question<'_>, realm: &Url, key: &Key, is_login: bool) -> Result<Given> {
        let Credentials::Identity { .. } = key.credentials else {
            return ask(question, realm, key, is_login, None).await;
        };
        let place = self.renewed.of((key.realm.clone(), key.service.clone(), key.credentials.clone()));
        // Of two who show the same one at once the second is refused, and what the first got would be given up.
        let mut renewed = place.lock().await;
        let given = ask(question, realm, key, is_login, renewed.as_deref()).await;
        match &given {
            Ok(Given { refresh, .. }) if !refresh.is_empty() => *renewed = Some(refresh.clone()),
            // The caller's own is tried the next time.
            Err(Error::Unauthorized { .. }) => *renewed = None,
            _ => {}
        }
        given
    }
}

async fn ask(question: &Question<'_>, realm: &Url, key: &Key, is_login: bool, renewed: Option<&str>) -> Result<Given> {
    let mut answer = None;
    for form in forms(realm, key, is_login, renewed) {
        let sent = question.http.send(&form).await?;
        // There are servers that know only one of the forms.
        let is_unknown = matches!(sent.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        answer = Some(sent);
        if !is_unknown {
            break;
        }
    }
    given(question, realm, answer).await
}

/// What a token server gave.
struct Given {
    header: HeaderValue,
    life: Duration,
    /// To be kept instead of a password; mostly empty.
    refresh: String,
}

/// The forms in which a token server may be asked, the usual one first: OAuth2 has a form that is posted, and before there was that,
/// a query.
fn forms(realm: &Url, key: &Key, is_login: bool, renewed: Option<&str>) -> Vec<Outgoing> {
    let query = |account: &str, authorization: Option<HeaderValue>| {
        let mut url = realm.clone();
        let mut query = url.query_pairs_mut();
        if is_login {
            query.append_pair("account", account).append_pair("client_id", CLIENT).append_pair("offline_token", "true");
        }
        query.append_pair("service", &key.service).extend_pairs(key.scopes.iter().map(|scope| ("scope", scope)));
        drop(query);
        Outgoing { authorization, ..Outgoing::get(url) }
    };
    let post = |grant: &[(&str, &str)]| {
        let mut form = Url::parse("form:").expect("a URL");
        let mut pairs = form.query_pairs_mut();
        pairs.extend_pairs(grant).append_pair("service", &key.service).append_pair("client_id", CLIENT);
        pairs.append_pair("scope", &key.scopes.join(" "));
        drop(pairs);
        Outgoing::form(realm.clone(), form.query().unwrap_or_default())
    };
    match &key.credentials {
        Credentials::Anonymous | Credentials::Token(_) => vec![query("", None)],
        Credentials::Password { username, password } => {
            let kind = if is_login { "offline" } else { "online" };
            let grant =
                [("grant_type", "password"), ("access_type", kind), ("username", username), ("password", password)];
            vec![query(username, basic(username, password)), post(&grant)]
        }
        Credentials::Identity { username, token } => {
            let token = renewed.unwrap_or(token);
            let mut forms = vec![post(&[("grant_type", "refresh_token"), ("refresh_token", token)])];
            if !username.is_empty() {
                forms.push(query(username, basic(username, token)));
            }
            forms
        }
    }
}

/// What the answer of a token server gives.
async fn given(question: &Question<'_>, realm: &Url, answer: Option<Response>) -> Result<Given> {
    let subject = format!("token of {}", shown(realm));
    let answer = answer.ok_or_else(|| Error::invalid(&subject, "there is no way to ask for it"))?;
    let status = answer.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        let detail = match question.credentials {
            Credentials::Anonymous => "authentication required",
            Credentials::Identity { .. } => "what was kept of the login does not count any more: log in again",
            _ => "incorrect username or password",
        };
        return Err(Error::Unauthorized { detail: detail.to_owned() });
    }
    let retry_after = retry_after(answer.headers());
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Error::TooManyRequests { detail: format!("too many requests to {}", shown(realm)), retry_after });
    }
    if !status.is_success() {
        return Err(Error::Status { url: shown(realm), status, detail: String::new(), retry_after });
    }
    let body = bounded(answer, TOKEN_LIMIT, &subject).await?;
    // What serde would quote of it could be the token.
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| Error::invalid(&subject, "the answer is not a token's JSON"))?;
    let token = if answer.token.is_empty() { &answer.access_token } else { &answer.token };
    if token.is_empty() {
        return Err(Error::invalid(&subject, "the answer has no token in it"));
    }
    let header = bearer(token).ok_or_else(|| Error::invalid(&subject, "the token cannot be in a header"))?;
    let life = answer.expires_in.unwrap_or(DEFAULT_LIFE).clamp(DEFAULT_LIFE, 86400).saturating_sub(MARGIN);
    Ok(Given { header, life: Duration::from_secs(life), refresh: answer.refresh_token })
}

/// The token server that the registry named, if it may be asked.
fn realm(question: &Question<'_>, text: &str) -> Result<Url> {
    let refuse = |realm: String, reason| Error::Realm { registry: shown(question.base), realm, reason };
    let url = Url::parse(text).map_err(|_| refuse(printable(text), "that is not a URL"))?;
    check(question.base, &url, *question.credentials != Credentials::Anonymous, &question.http.options)
        .map_err(|reason| refuse(shown(&url), reason))?;
    Ok(url)
}

fn check(base: &Url, realm: &Url, credentials: bool, options: &Options) -> std::result::Result<(), &'static str> {
    let same_host = base.host_str() == realm.host_str();
    if !matches!(realm.scheme(), "http" | "https") || !realm.has_host() {
        return Err("only http and https are spoken");
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("the URL has credentials in it");
    }
    if is_local(realm) && !is_local(base) {
        return Err("it leads from another machine to this one");
    }
    if realm.scheme() == "http" && !same_origin(base, realm) && !(options.is_insecure(realm) && base.scheme() == "http")
    {
        return Err("it is not encrypted");
    }
    // Over plain http anybody on the way could have named it.
    if credentials && base.scheme() == "http" && !is_loopback(base) && !same_host {
        return Err("a registry without encryption names another host");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_only_to_realms_that_can_be_trusted() {
        let options = Options::parse(&["plain.test".to_owned()], &[]).unwrap();
        let verdict = |base: &str, realm: &str| {
            check(&Url::parse(base).unwrap(), &Url::parse(realm).unwrap(), true, &options).err().unwrap_or("ok")
        };
        for (base, realm) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
            ("http://127.0.0.1:5000", "https://auth.test/token"),
            ("http://plain.test", "http://plain.test/token"),
        ] {
            assert_eq!(verdict(base, realm), "ok", "{base} {realm}");
        }
        for (base, realm) in [
            ("https://a.test", "http://a.test/token"),
            ("https://a.test", "http://auth.test/token"),
            ("https://a.test", "https://127.0.0.1/token"),
            ("https://a.test", "http://169.254.169.254/latest"),
            ("https://a.test", "file:///etc/passwd"),
            ("https://a.test", "https://user:pw@auth.test/"),
            ("http://plain.test", "https://evil.test/token"),
            ("http://127.0.0.1:5000", "http://evil.test/token"),
        ] {
            assert_ne!(verdict(base, realm), "ok", "{base} {realm}");
        }
    }
}
