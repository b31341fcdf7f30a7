//! The client's end of a connection.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::{ClientTls, Endpoint, Error, Result, Stream, names, ssh, tls, unix};

/// The longest wait for whoever listens.
const DEADLINE: Duration = Duration::from_secs(15);

/// Connects to a daemon, over TLS where that is asked for and it is TCP.
///
/// # Errors
/// [`Error::NotRunning`] when nobody listens there, [`Error::Denied`] when the socket is not for this user,
/// [`Error::Handshake`] when one does not believe the other.
pub async fn connect(endpoint: &Endpoint, tls: Option<&ClientTls>) -> Result<Stream> {
    match endpoint {
        Endpoint::Unix(path) => connect_unix(path).await.map(Stream::Unix).map_err(|source| explain(endpoint, source)),
        Endpoint::Ssh(target) => ssh::dial(endpoint, target).map(Stream::Ssh),
        Endpoint::Fd(_) => {
            let reason = "it is a daemon's own end: give unix://, tcp:// or ssh://".to_owned();
            Err(Error::Handshake { endpoint: endpoint.clone(), reason })
        }
        Endpoint::Tcp { host, port } => match tls {
            None => connect_tcp(endpoint, host, *port).await.map(Stream::Tcp),
            Some(tls) => {
                // Files that cannot be used are told before anybody is called.
                let connector = tls.connector()?;
                encrypt(endpoint, host, &connector, tls, connect_tcp(endpoint, host, *port).await?).await
            }
        },
    }
}

async fn encrypt(
    endpoint: &Endpoint,
    host: &str,
    connector: &TlsConnector,
    tls: &ClientTls,
    stream: TcpStream,
) -> Result<Stream> {
    let handshake = tls::handshake(connector, host, stream);
    let error = match tokio::time::timeout(DEADLINE, handshake).await {
        Ok(Ok(stream)) => return Ok(Stream::Tls(stream)),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    let reason = match tls::rustls_error(&error) {
        Some(error) => tls::client_side(error, host, tls),
        None => match error.kind() {
            io::ErrorKind::TimedOut => "nobody answered in TLS: give the port of the daemon's TLS".to_owned(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the other end hung up in the TLS handshake: give the port of the daemon's TLS, or leave --tls and \
                 --tlsverify out (unset DOCKER_TLS_VERIFY)"
                    .to_owned()
            }
            _ => format!("the TLS handshake failed: {}", crate::error::reason(&error)),
        },
    };
    Err(Error::Handshake { endpoint: endpoint.clone(), reason })
}

/// A unix socket answers at once or never, unless so many wait there already that the kernel takes no more: then this waits, too,
/// in a thread.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let (address, now) = (unix::address(path)?, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, now, None)?;
    match rustix::net::connect(&socket, &address.address) {
        Ok(()) => {}
        Err(Errno::AGAIN) => {
            let waiting = tokio::task::spawn_blocking(move || {
                rustix::io::ioctl_fionbio(&socket, false)?;
                rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(DEADLINE))?;
                rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address.address)).map_err(|errno| {
                    // So the kernel says it of a wait that was too long.
                    if errno == Errno::AGAIN { io::ErrorKind::TimedOut.into() } else { io::Error::from(errno) }
                })?;
                rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, None)?;
                rustix::io::ioctl_fionbio(&socket, true)?;
                io::Result::Ok(socket)
            });
            return UnixStream::from_std(waiting.await.map_err(io::Error::other)??.into());
        }
        Err(errno) => return Err(errno.into()),
    }
    UnixStream::from_std(socket.into())
}

async fn connect_tcp(endpoint: &Endpoint, host: &str, port: u16) -> Result<TcpStream> {
    let unknown = |reason: String| Error::UnknownHost { host: host.to_owned(), reason };
    let found = tokio::time::timeout(DEADLINE, names::resolve(host)).await;
    let addresses = found.unwrap_or_else(|_| Err("DNS does not answer".to_owned())).map_err(unknown)?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let attempt = TcpStream::connect(SocketAddr::new(address, port));
        match tokio::time::timeout(DEADLINE, attempt).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|source| explain(endpoint, source))?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(explain(endpoint, last))
}

fn explain(endpoint: &Endpoint, source: io::Error) -> Error {
    let endpoint = endpoint.clone();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
            Error::NotRunning { endpoint, source }
        }
        io::ErrorKind::PermissionDenied => Error::Denied { advice: who_may(&endpoint), endpoint },
        _ => Error::Connect { endpoint, source },
    }
}

/// Whom the socket is for.
fn who_may(endpoint: &Endpoint) -> String {
    let status = match endpoint.path().map(rustix::fs::stat) {
        Some(Ok(status)) => status,
        Some(Err(Errno::ACCESS)) => return "its directory is closed to this user: run as root".to_owned(),
        _ => return "run as root".to_owned(),
    };
    if status.st_mode & 0o020 == 0 {
        return "it is for its owner only: run as root".to_owned();
    }
    let group = names::group_name(status.st_gid).unwrap_or_else(|| status.st_gid.to_string());
    format!("it is for the members of group {group}: join that group (usermod -aG {group} USER), or run as root")
}
