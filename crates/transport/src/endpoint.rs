//! The name of a door: `unix:///var/run/docker.sock`, `tcp://127.0.0.1:2375`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, Result};

/// Where Docker's clients look when they are told nothing.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The port of `tcp://host`.
pub const DEFAULT_TCP_PORT: u16 = 2375;
const DEFAULT_TCP_HOST: &str = "127.0.0.1";

/// One end of the API. What is to come gets a variant here: `fd://` (a socket that systemd opened), `ssh://`
/// (`docker system dial-stdio` at the other end), and TLS as settings of `Tcp`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address; the host is a name or an IP address without brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 when listening means any.
        port: u16,
    },
}

impl Endpoint {
    /// The endpoint of a unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into())
    }

    /// The socket's path, of a unix socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp { .. } => None,
        }
    }

    /// The host, of a TCP address.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp { host, .. } => Some(host),
        }
    }

    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port } => host_and_port(host, *port),
        }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::unix(DEFAULT_SOCKET)
    }
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } => write!(f, "tcp://{}", host_and_port(host, *port)),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// As `-H` and `DOCKER_HOST` are read: without a scheme it is tcp; an empty rest means the default.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let fail = |reason: String| Error::Endpoint { text: text.to_owned(), reason };
        let later = |what: &str| fail(format!("{what} is not yet supported; use unix:// or tcp://"));
        match text.split_once("://") {
            Some(("unix", "")) => Ok(Self::default()),
            Some(("unix", path)) if path.contains('\0') => Err(fail("a path has no NUL byte".to_owned())),
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::unix(path)),
            Some(("unix", _)) => Err(fail("the path of a unix socket must be absolute: unix:///path".to_owned())),
            Some(("tcp", address)) => tcp(address).map_err(fail),
            Some(("fd", _)) => Err(later("fd:// (socket activation)")),
            Some(("ssh", _)) => Err(later("ssh://")),
            Some(("npipe", _)) => Err(later("npipe:// (a Windows pipe)")),
            Some(("http" | "https", _)) => Err(fail("write tcp://host:port".to_owned())),
            Some((scheme, _)) => Err(fail(format!("unknown scheme {scheme:?}; use unix:// or tcp://"))),
            None if text.is_empty() => Err(fail("it is empty; use unix:// or tcp://".to_owned())),
            None if text.starts_with('/') => Err(fail(format!("for a unix socket write unix://{text}"))),
            None => tcp(text).map_err(fail),
        }
    }
}

/// `host`, `host:port`, `:port`, `[v6]`, `[v6]:port`.
fn tcp(address: &str) -> std::result::Result<Endpoint, String> {
    let address = address.strip_suffix('/').unwrap_or(address);
    if address.contains(['/', '?', '#', '@']) {
        return Err("only host and port may follow tcp://".to_owned());
    }
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket of an IPv6 address is not closed")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
        let port = after.strip_prefix(':');
        if port.is_none() && !after.is_empty() {
            return Err("only :port may follow the address".to_owned());
        }
        (host, port)
    } else {
        match address.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("write an IPv6 address in brackets".to_owned()),
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    let host = if host.is_empty() { DEFAULT_TCP_HOST } else { host };
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':')) {
        return Err(format!("{host:?} is not a host name or address"));
    }
    let port = match port {
        None | Some("") => DEFAULT_TCP_PORT,
        Some(text) => text.parse().map_err(|_| format!("{text:?} is not a port"))?,
    };
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_accepts_is_understood() {
        for (text, means) in [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("unix://", "unix:///var/run/docker.sock"),
            ("tcp://", "tcp://127.0.0.1:2375"),
            ("tcp://:4000", "tcp://127.0.0.1:4000"),
            ("tcp://example.test", "tcp://example.test:2375"),
            ("tcp://10.0.0.1:99/", "tcp://10.0.0.1:99"),
            ("10.0.0.1:99", "tcp://10.0.0.1:99"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("tcp://[::1]:99", "tcp://[::1]:99"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), means, "{text}");
        }
    }

    #[test]
    fn what_is_not_an_endpoint_is_refused_with_its_reason() {
        for (text, says) in [
            ("ssh://me@host", "ssh:// is not yet supported"),
            ("fd://", "fd:// (socket activation) is not yet supported"),
            ("npipe:////./pipe/x", "not yet supported"),
            ("gopher://x", "unknown scheme"),
            ("https://x", "tcp://host:port"),
            ("unix://relative", "absolute"),
            ("/run/x.sock", "write unix:///run/x.sock"),
            ("tcp://x:99999", "not a port"),
            ("tcp://x/v1", "only host and port"),
            ("tcp://::1", "brackets"),
            ("tcp://[zz]:1", "not an IPv6 address"),
            ("", "empty"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
