//! What the daemon was told about registries, and what follows for a host: may it be plain, may it be local.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use crate::certificates;
use crate::mirrors::Mirrored;
use crate::proxies::Proxies;

/// How to reach registries.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts that may speak http or show any certificate; loopback always may.
    insecure: Vec<Insecure>,
    /// Tried before Docker Hub, in this order.
    pub(crate) mirrors: Vec<Url>,
    /// Mirrors of any registry.
    pub(crate) registries: Vec<Mirrored>,
    /// Directories of `<host>/*.crt`, `*.cert` and `*.key`.
    pub(crate) certificates: Vec<PathBuf>,
    pub(crate) proxies: Proxies,
    pub(crate) user_agent: String,
    /// Layers that are downloaded at once.
    pub(crate) downloads: usize,
    /// Layers that are pushed at once.
    pub(crate) uploads: usize,
    /// The pause before the second attempt at what failed; each further one doubles.
    pub(crate) pause: Duration,
    /// The longest silence in the middle of a blob.
    pub(crate) silence: Duration,
    /// A blob of which so much is missing comes in several ranges at once.
    pub(crate) large: u64,
    /// Where unfinished downloads are.
    pub(crate) parts: Option<PathBuf>,
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// `--insecure-registry`.
    #[error("insecure registry {0:?}: want a host, host:port or CIDR, without http://")]
    Insecure(String),
    /// A mirror in `registries`.
    #[error(
        "mirror {0:?}: want http://host[:port][/path] or https://host[:port][/path], the path as names of repositories are"
    )]
    Location(String),
    /// What is mirrored in `registries`.
    #[error(
        "prefix {0:?}: want a registry, as docker.io, and after it nothing or the beginning of its repositories' names"
    )]
    Prefix(String),
    /// `--registry-mirror`.
    #[error("registry mirror {0:?}: want http://host[:port] or https://host[:port], without path or query")]
    Mirror(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Insecure {
    Host(String),
    Network(IpAddr, u8),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            registries: Vec::new(),
            certificates: certificates::DIRECTORIES.map(PathBuf::from).to_vec(),
            proxies: Proxies::default(),
            user_agent: concat!("gantry/", env!("CARGO_PKG_VERSION")).to_owned(),
            downloads: 3,
            uploads: 5,
            pause: Duration::from_millis(500),
            silence: Duration::from_secs(30),
            large: 64 << 20,
            parts: None,
        }
    }
}

impl Options {
    /// Reads the values of `--insecure-registry` and `--registry-mirror`.
    ///
    /// # Errors
    /// Names the value that is wrong.
    pub fn parse(insecure: &[String], mirrors: &[String]) -> Result<Self, OptionsError> {
        Ok(Self {
            insecure: insecure.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            mirrors: mirrors.iter().map(|text| mirror(text)).collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }

    /// With mirrors of any registry.
    #[must_use]
    pub fn registries(self, registries: Vec<Mirrored>) -> Self {
        Self { registries, ..self }
    }

    /// With what the registry is told about us.
    #[must_use]
    pub fn user_agent(self, user_agent: impl Into<String>) -> Self {
        Self { user_agent: user_agent.into(), ..self }
    }

    /// With this many layers downloaded at once; 3 unless told.
    #[must_use]
    pub fn concurrent_downloads(self, downloads: usize) -> Self {
        Self { downloads: downloads.max(1), ..self }
    }

    /// With the certificates of these directories; those of the machine unless told.
    #[must_use]
    pub fn certificates(self, certificates: Vec<PathBuf>) -> Self {
        Self { certificates, ..self }
    }

    /// With these proxies; those of the environment unless told.
    #[must_use]
    pub fn proxies(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// With this many layers pushed at once; 5 unless told.
    #[must_use]
    pub fn concurrent_uploads(self, uploads: usize) -> Self {
        Self { uploads: uploads.max(1), ..self }
    }

    /// With this pause before a second attempt; half a second unless told.
    #[must_use]
    pub fn retry_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// With this longest silence in the middle of a blob; 30 seconds unless told.
    #[must_use]
    pub fn longest_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// With blobs fetched in several ranges at once of which so many bytes are missing; 64 MiB unless told.
    #[must_use]
    pub fn large_blobs(self, large: u64) -> Self {
        Self { large, ..self }
    }

    /// With unfinished downloads in this directory: nothing is pulled without one.
    #[must_use]
    pub fn parts(self, directory: impl Into<PathBuf>) -> Self {
        Self { parts: Some(directory.into()), ..self }
    }

    /// Whether `url`'s host may speak http and show any certificate.
    pub(crate) fn is_insecure(&self, url: &Url) -> bool {
        is_loopback(url) || self.insecure.iter().any(|entry| entry.covers(url))
    }
}

fn mirror(text: &str) -> Result<Url, OptionsError> {
    let fail = || OptionsError::Mirror(text.to_owned());
    let url = Url::parse(text).map_err(|_| fail())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/";
    let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if plain && bare && url.password().is_none() { Ok(url) } else { Err(fail()) }
}

impl FromStr for Insecure {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, OptionsError> {
        let fail = || OptionsError::Insecure(text.to_owned());
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| fail())?;
            let bits: u8 = bits.parse().map_err(|_| fail())?;
            let limit = if address.is_ipv4() { 32 } else { 128 };
            return if bits <= limit { Ok(Self::Network(address, bits)) } else { Err(fail()) };
        }
        // What a URL makes of it is what it will be compared with.
        let url = Url::parse(&format!("https://{text}")).map_err(|_| fail())?;
        if text.is_empty() || url.path() != "/" || !url.username().is_empty() {
            return Err(fail());
        }
        Ok(Self::Host(text.to_ascii_lowercase()))
    }
}

impl Insecure {
    fn covers(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        match self {
            Self::Host(entry) => {
                let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
                entry == host || Some(entry) == with_port.as_ref()
            }
            Self::Network(network, bits) => address(url).is_some_and(|ip| contains(*network, *bits, ip)),
        }
    }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let prefix = |value: u128, width: u32| value.checked_shr(width - u32::from(bits)).unwrap_or(0);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            prefix(network.to_bits().into(), 32) == prefix(address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => prefix(network.to_bits(), 128) == prefix(address.to_bits(), 128),
        _ => false,
    }
}

/// The address, of a host that is one.
fn address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether the host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match address(url) {
        Some(address) => address.to_canonical().is_loopback(),
        None => url.host_str().is_some_and(|host| host == "localhost" || host.ends_with(".localhost")),
    }
}

/// Whether the host is this machine or its link, where clouds keep their metadata: not for a stranger to point at.
pub(crate) fn is_local(url: &Url) -> bool {
    let link = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
    };
    is_loopback(url) || address(url).is_some_and(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn loopback_and_what_was_listed_may_be_plain_and_nothing_else() {
        let listed = ["plain.test", "ported.test:5000", "10.1.0.0/16", "fd00::/8"].map(str::to_owned);
        let options = Options::parse(&listed, &[]).unwrap();
        for yes in [
            "http://localhost:5000",
            "http://127.8.8.8",
            "http://[::1]:5000",
            "http://plain.test:81",
            "http://ported.test:5000",
            "http://10.1.255.1:5000",
            "http://[fd12::1]",
        ] {
            assert!(options.is_insecure(&url(yes)), "{yes}");
        }
        for no in
            ["https://ported.test", "http://10.2.0.1", "http://xplain.test", "http://[fe80::1]", "http://docker.io"]
        {
            assert!(!options.is_insecure(&url(no)), "{no}");
        }
        let all = Options::parse(&["0.0.0.0/0".to_owned()], &[]).unwrap();
        assert!(all.is_insecure(&url("http://8.8.8.8")));
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for bad in ["http://x", "10.0.0.0/33", "x/y", "", "user@host"] {
            assert!(Options::parse(&[bad.to_owned()], &[]).is_err(), "{bad}");
        }
        for bad in ["ftp://x", "x", "https://x/path", "https://u:p@x", "https://x?q"] {
            assert!(Options::parse(&[], &[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(Options::parse(&[], &["http://127.0.0.1:5000".to_owned()]).is_ok());
    }

    #[test]
    fn metadata_addresses_are_local() {
        for yes in ["http://169.254.169.254/", "http://0.0.0.0/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1]/"] {
            assert!(is_local(&url(yes)), "{yes}");
        }
        assert!(!is_local(&url("https://auth.docker.io/token")));
    }
}
