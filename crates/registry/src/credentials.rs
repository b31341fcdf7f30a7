//! Who the caller is to a registry, from what `docker login` kept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_api::reference::DEFAULT_DOMAIN;
use gantry_api::system::AuthConfig;
use reqwest::header::HeaderValue;

/// Names under which clients keep the credentials of Docker Hub.
const HUB: [&str; 4] = [DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// What may be shown to one registry. Never logged: it has no `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// Nothing.
    Anonymous,
    /// Name and password.
    Password { username: String, password: String },
    /// A refresh token for the registry's token server, and whose it is where that is known.
    Identity { username: String, token: String },
    /// A token for the registry itself.
    Token(String),
}

impl Credentials {
    /// Those of `auth` that are for `domain`. Credentials that say they are for another host stay here.
    pub fn of(auth: Option<&AuthConfig>, domain: &str) -> Self {
        let Some(auth) = auth else { return Self::Anonymous };
        if !Self::are_for(auth, domain) {
            tracing::warn!(
                "credentials for {} are not sent to {domain}: going on without credentials",
                host_of(&auth.serveraddress)
            );
            return Self::Anonymous;
        }
        if !auth.registrytoken.is_empty() {
            return Self::Token(auth.registrytoken.clone());
        }
        let (username, password) = pair(auth);
        match auth.identitytoken.as_str() {
            "" if username.is_empty() => Self::Anonymous,
            "" => Self::Password { username, password },
            token => Self::Identity { username, token: token.to_owned() },
        }
    }

    /// Whether `auth` is for `domain`; one that does not say is for whatever it came with.
    pub fn are_for(auth: &AuthConfig, domain: &str) -> bool {
        auth.serveraddress.is_empty() || same_registry(&auth.serveraddress, domain)
    }

    /// Whether a host is one of Docker Hub's.
    pub fn is_hub(host: &str) -> bool {
        HUB.contains(&host)
    }

    /// The header of basic authentication.
    pub fn basic(&self) -> Option<HeaderValue> {
        let Self::Password { username, password } = self else { return None };
        basic(username, password)
    }

    /// The header of a token that was given by the caller.
    pub fn token(&self) -> Option<HeaderValue> {
        let Self::Token(token) = self else { return None };
        bearer(token)
    }
}

/// Name and password, also where they are encoded as one.
fn pair(auth: &AuthConfig) -> (String, String) {
    if !auth.username.is_empty() {
        return (auth.username.clone(), auth.password.clone());
    }
    let decoded = STANDARD.decode(auth.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let both = decoded.as_deref().and_then(|pair| pair.split_once(':')).unwrap_or_default();
    (both.0.to_owned(), both.1.trim_end_matches('\0').to_owned())
}

/// The header of basic authentication with this name and password.
pub fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// The header of a token.
pub fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The host of a registry's address, which may be a URL.
pub fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn same_registry(address: &str, domain: &str) -> bool {
    let host = host_of(address);
    let port = |host: &str| if address.starts_with("http://") { format!("{host}:80") } else { format!("{host}:443") };
    host.eq_ignore_ascii_case(domain)
        || port(host).eq_ignore_ascii_case(domain)
        || port(domain).eq_ignore_ascii_case(host)
        || (HUB.contains(&host) && HUB.contains(&domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(serveraddress: &str) -> AuthConfig {
        AuthConfig {
            username: "me".into(),
            password: "secret".into(),
            serveraddress: serveraddress.into(),
            ..AuthConfig::default()
        }
    }

    #[test]
    fn credentials_for_another_host_stay_here() {
        for (address, domain, sent) in [
            ("", "r.test", true),
            ("r.test", "r.test", true),
            ("https://r.test/v2/", "r.test", true),
            ("https://r.test", "r.test:443", true),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("https://index.docker.io/v1/", "evil.test", false),
            ("r.test", "r.test.evil.test", false),
            ("r.test:5000", "r.test", false),
        ] {
            let is_sent = Credentials::of(Some(&auth(address)), domain) != Credentials::Anonymous;
            assert_eq!(is_sent, sent, "{address} {domain}");
        }
    }

    #[test]
    fn the_encoded_pair_is_understood() {
        let encoded = AuthConfig { auth: STANDARD.encode("me:a:b"), ..AuthConfig::default() };
        let expected = Credentials::Password { username: "me".into(), password: "a:b".into() };
        assert!(Credentials::of(Some(&encoded), "x") == expected);
    }
}
