//! The configuration file of `gantry registry serve`, TOML or JSON.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use gantry_linux::fs;
use serde::{Deserialize, Deserializer};

use super::access_log::LogSettings;
use super::auth::AuthSettings;
use super::gc::{GcSettings, Quota};
use super::limits::LimitSettings;
use super::metrics::MetricsFor;
use super::proxy::{CacheSettings, ProxySettings};

/// The largest file that is read.
const FILE_LIMIT: usize = 4 << 20;
/// S3 refuses requests of clocks that differ by more than a quarter of an hour.
#[cfg(feature = "s3")]
const LEAST_GRACE: Duration = Duration::from_secs(3600);

/// Everything that can be set in the file. A key that is not here is an error.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where it listens.
    pub addr: Option<String>,
    /// Where everything is kept.
    pub root: Option<PathBuf>,
    /// Where images are kept, if not in `root`.
    pub storage: StorageSettings,
    /// Nothing can be pushed or deleted.
    pub read_only: bool,
    /// The address that clients reach it by, where that is not the one that they ask for: behind a proxy.
    pub public_url: Option<String>,
    /// Lets it listen beyond loopback without authentication or TLS.
    pub insecure: bool,
    /// Certificate and key.
    pub tls: Option<TlsSettings>,
    /// Who may do what.
    pub auth: AuthSettings,
    /// How much one caller may ask for.
    pub limits: LimitSettings,
    /// Registries that are cached.
    pub proxy: Vec<ProxySettings>,
    /// How they are cached.
    pub cache: CacheSettings,
    /// Garbage: what goes when.
    pub gc: GcSettings,
    /// How much repositories may have.
    pub quota: Vec<Quota>,
    /// The access log.
    pub access_log: LogSettings,
    /// Who may read `/metrics`: `loopback`, `all` or `none`.
    pub metrics: MetricsFor,
}

/// The section `storage`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StorageSettings {
    /// A bucket of S3, or of what speaks its protocol.
    #[cfg(feature = "s3")]
    pub s3: Option<super::store::S3Settings>,
}

/// The section `tls`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsSettings {
    /// The certificate and those between it and the authority, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Clients must show a certificate that one of these authorities signed.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] gantry_linux::Error),
    /// It is not what it should be.
    #[error("configuration {path}: {reason}")]
    Wrong {
        /// The file.
        path: String,
        /// Where and what.
        reason: String,
    },
    /// It would let strangers in.
    #[error("listen on {addr}: {reason}")]
    Open {
        /// Where.
        addr: SocketAddr,
        /// Why not, and what to do.
        reason: &'static str,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, a key is unknown, or a value is not one.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string_up_to(path, FILE_LIMIT)?;
        text.parse().map_err(|reason| ConfigError::Wrong { path: path.display().to_string(), reason })
    }

    /// Whether it may listen there. Whoever reaches a registry without authentication may replace every image in it, and
    /// whoever is on the way of one without TLS reads every password.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn may_listen(&self, addr: SocketAddr) -> Result<(), ConfigError> {
        if addr.ip().to_canonical().is_loopback() || self.insecure {
            return Ok(());
        }
        let has_auth = self.auth.htpasswd.is_some()
            || !self.auth.issuers.is_empty()
            || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let reason = match (has_auth, &self.tls) {
            (true, Some(_)) => return Ok(()),
            (false, Some(_)) => {
                "everybody who reaches it could replace every image: set auth.htpasswd, or listen on 127.0.0.1, or \
                 allow it with --insecure"
            }
            (true, None) => {
                "passwords and images would go over the network for all to read and change: set tls.cert and tls.key, \
                 or listen on 127.0.0.1, or allow it with --insecure"
            }
            (false, None) => {
                "everybody on the network could replace every image, and read what goes by: set auth.htpasswd, \
                 tls.cert and tls.key, or listen on 127.0.0.1, or allow it with --insecure"
            }
        };
        Err(ConfigError::Open { addr, reason })
    }

    fn check(&self) -> Result<(), String> {
        if let Some(url) = &self.public_url {
            let is_plain = url.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
            if !is_plain || !(url.starts_with("https://") || url.starts_with("http://")) {
                return Err(format!("public-url {url:?}: want https://host or http://host"));
            }
        }
        #[cfg(feature = "s3")]
        if let Some(s3) = &self.storage.s3 {
            s3.check()?;
            if self.gc.grace.0 < LEAST_GRACE {
                return Err("gc.grace of a bucket is at least 1h: its clock may differ from this machine's".to_owned());
            }
        }
        let mut names: Vec<&str> = self.proxy.iter().map(|proxy| proxy.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("proxy: {} is there twice", pair[0])),
            None => Ok(()),
        }
    }
}

impl FromStr for Config {
    type Err = String;

    /// JSON when it begins with a brace, else TOML.
    fn from_str(text: &str) -> Result<Self, String> {
        let config: Self = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            toml::from_str(text).map_err(|error| in_one_line(text, &error))?
        };
        config.check()?;
        Ok(config)
    }
}

/// Where and what, fit for a log.
fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or_else(String::new, |before| format!(" at line {}", before.matches('\n').count() + 1));
    format!("{}{line}", error.message().replace('\n', " "))
}

/// A span of time: `90s`, `5m`, `12h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:.40?} is not a span of time: want a number with s, m, h or d, like 5m");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match &text[digits..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86400,
            _ => return Err(wrong()),
        };
        let seconds = number.checked_mul(unit).filter(|seconds| *seconds <= 100 * 366 * 86400).ok_or_else(wrong)?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A number of bytes: `500`, `64KiB`, `20GiB`, `1TB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:.40?} is not a size: want a number of bytes, or one with KiB, MiB, GiB, TiB");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit: u64 = match text[digits..].trim_start() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(from)? {
            Either::Number(bytes) => Ok(Self(bytes)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests;
