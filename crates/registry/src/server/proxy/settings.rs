//! Which registries are cached, and how.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Deserializer};

use crate::server::Name;
use crate::server::config::{Size, Span};

/// A registry that is cached: an entry `proxy` of the configuration, or `--proxy NAME[=URL]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProxySettings {
    /// What its repositories are below here: `docker.io`.
    pub name: Upstream,
    /// Where it is; `https://NAME` unless said.
    #[serde(default)]
    pub url: Option<Address>,
    /// Who this registry is there.
    #[serde(default)]
    pub username: Option<String>,
    /// The file with the password; nothing secret need be in the configuration.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Lets it speak http, and show any certificate.
    #[serde(default)]
    pub insecure: bool,
}

/// The section `cache`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheSettings {
    /// How much is kept; what was not asked for longest goes first. 0 is no bound.
    pub size: Size,
    /// How long a tag is believed before upstream is asked whether it still means the same.
    pub age: Span,
    /// How long upstream may be silent. A whole document may take twice as long, and so may a blob's beginning.
    pub timeout: Span,
    /// Names without a registry that are not here are taken for Docker Hub's, when that is cached: for
    /// `registry-mirrors` of a daemon.
    pub mirror: bool,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { size: Size(0), age: Span(Duration::from_secs(60)), timeout: Span(Duration::from_secs(30)), mirror: true }
    }
}

/// The name of an upstream, which is the first component of its repositories' names here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream(String);

impl Upstream {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = text.contains('.') && !text.contains('/') && text.parse::<Name>().is_ok();
        if is_name {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{text:.100?} is not the name of a registry: want a host name in lower case with a dot in it, like docker.io"
        ))
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a registry is: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(pub Url);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).ok().filter(|url| {
            let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
            let has_credentials = !url.username().is_empty() || url.password().is_some();
            matches!(url.scheme(), "http" | "https") && url.has_host() && is_bare && !has_credentials
        });
        // What was given may have a password in it, so it is not shown.
        url.map(Self).ok_or_else(|| "the URL of a registry: want https://host[:port], and nothing more".to_owned())
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for ProxySettings {
    type Err = String;

    /// `NAME` or `NAME=URL`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = match text.split_once('=') {
            Some((name, url)) => (name, Some(url.parse()?)),
            None => (text, None),
        };
        let name = name.parse()?;
        Ok(Self { name, url, username: None, password_file: None, insecure: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_host_with_a_dot_and_perhaps_a_url() {
        let hub: ProxySettings = "docker.io".parse().unwrap();
        assert_eq!((hub.name.as_str(), hub.url), ("docker.io", None));
        let near: ProxySettings = "hub.test=http://127.0.0.1:5001".parse().unwrap();
        assert_eq!(near.url.unwrap().0.as_str(), "http://127.0.0.1:5001/");
        for bad in [
            "",
            "localhost",
            "a.b/c",
            "A.b",
            "a.b:5000",
            "..",
            "a..b",
            ".a",
            "a.b=ftp://x",
            "a.b=https://x/y",
            "a.b=https://u:secret@x",
            "a.b=https://x?q",
            "=https://x",
        ] {
            let error = bad.parse::<ProxySettings>().unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
