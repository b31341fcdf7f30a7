//! The person's `config.json`: headers, detach keys, formats, credentials.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use serde::Deserialize;

use crate::failure::{Failure, Result, reason};

/// The key of Docker Hub's credentials.
const HUB: &str = "https://index.docker.io/v1/";

/// What is read of config.json.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    auths: BTreeMap<String, Auth>,
    /// Added to each request.
    #[serde(rename = "HttpHeaders")]
    pub http_headers: BTreeMap<String, String>,
    /// Instead of ctrl-p,ctrl-q.
    #[serde(rename = "detachKeys")]
    pub detach_keys: String,
    /// Default of `ps --format`.
    #[serde(rename = "psFormat")]
    pub ps_format: String,
    /// Default of `images --format`.
    #[serde(rename = "imagesFormat")]
    pub images_format: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Config {
    /// Reads it from that directory, `DOCKER_CONFIG` or `~/.docker`; one that is not there is empty.
    pub fn load(directory: Option<&str>) -> Result<Self> {
        let directory = match directory {
            Some(directory) => PathBuf::from(directory),
            None => match std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()) {
                Some(directory) => directory.into(),
                None => match std::env::var_os("HOME") {
                    Some(home) => PathBuf::from(home).join(".docker"),
                    None => return Ok(Self::default()),
                },
            },
        };
        let path = directory.join("config.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display()))),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Ok(Self::default())
            }
            Err(error) => Err(Failure::new(format!("cannot read {}: {}", path.display(), reason(&error)))),
        }
    }

    /// `X-Registry-Auth` for the registry of that image.
    pub fn registry_auth(&self, image: &Reference) -> Option<String> {
        let domain = image.domain();
        let key = if domain == gantry_api::reference::DEFAULT_DOMAIN { HUB } else { domain };
        let auth = self
            .auths
            .get(key)
            .or_else(|| self.auths.iter().find(|(name, _)| host_of(name) == domain).map(|(_, auth)| auth))?;
        let (username, password) = auth.credentials();
        let config = AuthConfig {
            username,
            password,
            identitytoken: auth.identitytoken.clone(),
            serveraddress: key.to_owned(),
            ..AuthConfig::default()
        };
        Some(URL_SAFE.encode(serde_json::to_vec(&config).ok()?))
    }
}

/// Keys of old files are URLs.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

impl Auth {
    fn credentials(&self) -> (String, String) {
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => (username.to_owned(), password.trim_matches('\0').to_owned()),
            None => (self.username.clone(), self.password.clone()),
        }
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
    }
}
