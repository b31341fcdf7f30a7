//! Credentials for registries: from config.json, or from the helper that it names (`docker-credential-…`).

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use gantry_api::reference::{DEFAULT_DOMAIN, Reference};
use gantry_api::system::AuthConfig;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::{Auth, Config};
use crate::failure::{Failure, Result, reason};
use crate::printer;

/// The key of Docker Hub's credentials.
pub const HUB: &str = "https://index.docker.io/v1/";
/// Hosts that mean it.
const HUB_HOSTS: [&str; 3] = [DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io"];
/// What a helper has as the name where the secret is a token.
const TOKEN: &str = "<token>";
/// What helpers say of what they do not have.
const NOT_FOUND: &str = "credentials not found";

/// What a helper is told and tells.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Kept {
    #[serde(rename = "ServerURL")]
    server: String,
    username: String,
    secret: String,
}

/// The key under which credentials for a registry are kept: Docker Hub's, or the host.
pub fn key_of(server: &str) -> &str {
    let host = host_of(server);
    if server.is_empty() || HUB_HOSTS.contains(&host) { HUB } else { host }
}

/// Keys of old files are URLs.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

impl Config {
    /// What is known for that key.
    pub fn credentials(&self, key: &str) -> Result<Option<AuthConfig>> {
        let server = AuthConfig { serveraddress: key.to_owned(), ..AuthConfig::default() };
        if let Some(helper) = self.helper(key) {
            let kept = ask(helper, "get", key)?.map(|text| serde_json::from_str::<Kept>(&text));
            // What serde would quote of it could be the secret.
            let kept = kept.transpose().map_err(|_| broken(helper, "its answer is not the JSON that it should be"))?;
            return Ok(kept.map(|Kept { username, secret, .. }| match username.as_str() {
                TOKEN => AuthConfig { identitytoken: secret, ..server },
                _ => AuthConfig { username, password: secret, ..server },
            }));
        }
        let by_host = || self.auths.iter().find(|(name, _)| host_of(name) == host_of(key)).map(|(_, auth)| auth);
        let Some(auth) = self.auths.get(key).or_else(by_host) else { return Ok(None) };
        let (username, password) = auth.pair();
        let (identitytoken, registrytoken) = (auth.identitytoken.clone(), auth.registrytoken.clone());
        let found = AuthConfig { username, password, identitytoken, registrytoken, ..server };
        let is_empty = found.username.is_empty() && found.identitytoken.is_empty() && found.registrytoken.is_empty();
        Ok(Some(found).filter(|_| !is_empty))
    }

    /// Keeps credentials; says where a person finds them as they are, if they can be read there.
    pub fn keep(&self, auth: &AuthConfig) -> Result<Option<String>> {
        let key = &auth.serveraddress;
        if let Some(helper) = self.helper(key) {
            let (username, secret) = match auth.identitytoken.as_str() {
                "" => (auth.username.clone(), auth.password.clone()),
                token => (TOKEN.to_owned(), token.to_owned()),
            };
            let kept = Kept { server: key.clone(), username, secret };
            ask(helper, "store", &serde_json::to_string(&kept)?)?;
            // That there are some is in the file, too.
            self.set_auth(key, Some(json!({})))?;
            return Ok(None);
        }
        let pair = STANDARD.encode(format!("{}:{}", auth.username, auth.password));
        let mut value = json!({ "auth": pair });
        if !auth.identitytoken.is_empty() {
            value["identitytoken"] = auth.identitytoken.clone().into();
        }
        self.set_auth(key, Some(value))?;
        Ok(Some(self.path()?.display().to_string()))
    }

    /// Forgets them; false where there were none.
    pub fn forget(&self, key: &str) -> Result<bool> {
        let by_helper = match self.helper(key) {
            Some(helper) => ask(helper, "erase", key)?.is_some(),
            None => false,
        };
        let mut known: Vec<String> = self.auths.keys().filter(|name| host_of(name) == host_of(key)).cloned().collect();
        known.push(key.to_owned());
        let mut forgot = by_helper;
        for name in known {
            forgot |= self.path().is_ok() && self.set_auth(&name, None)?;
        }
        Ok(forgot)
    }

    /// `X-Registry-Auth` for the registry of that image. A helper that fails is told of, and its registry asked without.
    pub fn registry_auth(&self, image: &Reference) -> Option<String> {
        let known = self.for_registry(image.domain())?;
        Some(URL_SAFE.encode(serde_json::to_vec(&known).ok()?))
    }

    /// The same, as it is.
    pub fn for_registry(&self, domain: &str) -> Option<AuthConfig> {
        self.credentials(key_of(domain)).unwrap_or_else(|failure| {
            printer::error_line(&format!("WARNING: going on without credentials for {domain}: {}", failure.message));
            None
        })
    }

    fn helper(&self, key: &str) -> Option<&str> {
        let own = self.cred_helpers.get(key).or_else(|| self.cred_helpers.get(host_of(key)));
        own.or(Some(&self.creds_store)).map(String::as_str).filter(|name| !name.is_empty())
    }
}

impl Auth {
    fn pair(&self) -> (String, String) {
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => (username.to_owned(), password.trim_matches('\0').to_owned()),
            None => (self.username.clone(), self.password.clone()),
        }
    }
}

fn broken(helper: &str, why: &str) -> Failure {
    Failure::new(format!("docker-credential-{helper}: {why}"))
}

/// Has a helper do something; `None` where it does not know of such credentials.
fn ask(helper: &str, verb: &str, input: &str) -> Result<Option<String>> {
    if helper.contains('/') {
        return Err(broken(helper, "this is no name of a helper"));
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| broken(helper, &format!("cannot be started: {}", reason(&error))))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing says in its answer what it thinks of that.
        let _ = stdin.write_all(input.as_bytes());
    }
    let answer = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    match answer.status.success() {
        true => Ok(Some(text)),
        false if text.starts_with(NOT_FOUND) => Ok(None),
        false => Err(broken(
            helper,
            &format!("{verb} failed: {}", if text.is_empty() { "it does not say why" } else { &text }),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_host_also_under_the_url_of_old_files() {
        let text = r#"{"auths": {"https://reg.example:5000/v1/": {"auth": "bWU6c2VjcmV0"}, "other": {}}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        let header = config.registry_auth(&Reference::parse("reg.example:5000/app").unwrap()).unwrap();
        let auth: AuthConfig = serde_json::from_slice(&URL_SAFE.decode(header).unwrap()).unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("me", "secret"));
        assert!(config.registry_auth(&Reference::parse("debian").unwrap()).is_none());
        assert!(config.registry_auth(&Reference::parse("other.test/x").unwrap()).is_none());
    }

    #[test]
    fn every_name_of_docker_hub_means_the_same_credentials() {
        for server in ["", "docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"] {
            assert_eq!(key_of(server), HUB);
        }
        assert_eq!(key_of("https://reg.test:5000/v2/"), "reg.test:5000");
    }
}
