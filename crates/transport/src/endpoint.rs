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

/// The port of `tcp://host` where TLS is spoken.
pub const DEFAULT_TLS_PORT: u16 = 2376;

/// One end of the API. Whether TCP is encrypted is no part of its name.
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
    /// A socket that whoever started the daemon has opened: its name or number, empty for all of them.
    Fd(String),
    /// A daemon behind ssh: `system dial-stdio` is run there.
    Ssh(SshTarget),
}

/// Whom ssh is told to speak to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshTarget {
    /// The user there; ssh's own choice where none is given.
    pub user: Option<String>,
    /// Name or address, or a name in ssh's configuration.
    pub host: String,
    /// Its port; ssh's own choice where none is given.
    pub port: Option<u16>,
    /// The daemon's socket over there; the usual one where none is given.
    pub socket: Option<String>,
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
            _ => None,
        }
    }

    /// The host, of a TCP address.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            _ => None,
        }
    }

    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } => host_and_port(host, *port),
            _ => "localhost".to_owned(),
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
            Self::Fd(name) => write!(f, "fd://{name}"),
            Self::Ssh(SshTarget { user, host, port, socket }) => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                write!(f, "ssh://{user}{host}{port}{}", socket.as_deref().unwrap_or_default())
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// As [`Endpoint::parse`] without TLS.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, false)
    }
}

impl Endpoint {
    /// As `-H` and `DOCKER_HOST` are read: without a scheme it is tcp; an empty rest means the default.
    ///
    /// # Errors
    /// What is wrong, and how to write it.
    pub fn parse(text: &str, tls: bool) -> Result<Self> {
        let text = text.trim();
        let port = if tls { DEFAULT_TLS_PORT } else { DEFAULT_TCP_PORT };
        let fail = |reason: String| Error::Endpoint { text: text.to_owned(), reason };
        match text.split_once("://") {
            Some(("unix", "")) => Ok(Self::default()),
            Some(("unix", path)) if path.contains('\0') => Err(fail("a path has no NUL byte".to_owned())),
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::unix(path)),
            Some(("unix", _)) => Err(fail("the path of a unix socket must be absolute: unix:///path".to_owned())),
            Some(("tcp", address)) => tcp(address, port).map_err(fail),
            Some(("fd", "*")) => Ok(Self::Fd(String::new())),
            Some(("fd", name)) if name.contains(['/', ':']) => {
                Err(fail("only a socket's name or number may follow fd://".to_owned()))
            }
            Some(("fd", name)) => Ok(Self::Fd(name.to_owned())),
            Some(("ssh", target)) => ssh(target).map(Self::Ssh).map_err(fail),
            Some(("npipe", _)) => Err(fail("a Windows pipe: use unix://, tcp:// or ssh://".to_owned())),
            Some(("http" | "https", _)) => Err(fail("write tcp://host:port".to_owned())),
            Some((scheme, _)) => Err(fail(format!("unknown scheme {scheme:?}; use unix://, tcp:// or ssh://"))),
            None if text.is_empty() => Err(fail("it is empty; use unix:// or tcp://".to_owned())),
            None if text.starts_with('/') => Err(fail(format!("for a unix socket write unix://{text}"))),
            None => tcp(text, port).map_err(fail),
        }
    }
}

/// `host`, `user@host`, `host:port`, `[v6]`, and a socket's path behind them.
fn ssh(target: &str) -> std::result::Result<SshTarget, String> {
    let (target, socket) = match target.find('/') {
        Some(at) => (&target[..at], Some(&target[at..]).filter(|path| *path != "/")),
        None => (target, None),
    };
    let (user, host) = match target.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => {
            return Err("a password cannot be given: use a key, or ssh's agent".to_owned());
        }
        Some((user, host)) => (Some(user), host),
        None => (None, target),
    };
    if host.is_empty() || user == Some("") {
        return Err("write ssh://user@host".to_owned());
    }
    // What begins with a dash would be an option of ssh.
    if host.starts_with('-') || user.is_some_and(|user| user.starts_with('-')) {
        return Err("neither user nor host begin with a dash".to_owned());
    }
    // The path goes through a shell over there.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'+');
    if !socket.unwrap_or_default().bytes().all(plain) {
        return Err("the socket's path has characters that are not for ssh".to_owned());
    }
    let Endpoint::Tcp { host, port } = tcp(host, 0)? else { return Err("write ssh://user@host".to_owned()) };
    Ok(SshTarget {
        user: user.map(str::to_owned),
        host,
        port: Some(port).filter(|port| *port != 0),
        socket: socket.map(str::to_owned),
    })
}

/// `host`, `host:port`, `:port`, `[v6]`, `[v6]:port`.
fn tcp(address: &str, default_port: u16) -> std::result::Result<Endpoint, String> {
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
        None | Some("") => default_port,
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
            ("fd://", "fd://"),
            ("fd://*", "fd://"),
            ("fd://api", "fd://api"),
            ("ssh://ann@build.example:2222/run/x.sock", "ssh://ann@build.example:2222/run/x.sock"),
            ("ssh://build", "ssh://build"),
            ("ssh://[::1]:22/", "ssh://[::1]:22"),
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
    fn a_daemon_with_tls_has_a_port_of_its_own() {
        assert_eq!(Endpoint::parse("tcp://build.example", true).unwrap().to_string(), "tcp://build.example:2376");
        assert_eq!(Endpoint::parse("tcp://build.example:1", true).unwrap().to_string(), "tcp://build.example:1");
    }

    #[test]
    fn what_is_not_an_endpoint_is_refused_with_its_reason() {
        for (text, says) in [
            ("ssh://", "write ssh://user@host"),
            ("ssh://ann:secret@host", "a password cannot be given"),
            ("ssh://-oProxyCommand=x", "dash"),
            ("ssh://-l@host", "dash"),
            ("ssh://host/a b", "characters"),
            ("fd://a/b", "name or number"),
            ("npipe:////./pipe/x", "use unix://"),
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
