//! The daemon's end: a listening socket with the right mode and group from its first moment, and who is calling.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::{Endpoint, Error, Result, ServerTls, Stream, names, unix};

const BACKLOG: i32 = 4096;

/// More descriptors than these are not reckoned with.
const MOST: usize = 1 << 20;

/// A TCP peer that is silent for so long is asked whether it is still there, and given up a minute later.
const KEEPALIVE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// Who is at the other end of an accepted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine, as the kernel attests it.
    Process {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its id, where it has one here.
        pid: Option<u32>,
    },
    /// Somebody on the network.
    Remote {
        /// From where.
        address: SocketAddr,
        /// Whom the certificate is for that it showed.
        subject: Option<Arc<str>>,
    },
}

/// Who may come in by a door.
#[derive(Debug, Clone)]
pub struct Access {
    /// Mode of a unix socket.
    pub mode: u32,
    /// Group of a unix socket.
    pub group: Option<u32>,
    /// What protects a TCP address.
    pub protection: Protection,
}

/// What protects a TCP address: whoever reaches the API is root.
#[derive(Debug, Clone)]
pub enum Protection {
    /// Only this machine reaches it: other addresses than loopback are refused.
    Loopback,
    /// Nothing, and somebody said that this is wanted.
    Nothing,
    /// TLS.
    Tls(Arc<ServerTls>),
}

impl Access {
    /// Of a unix socket; TCP is for loopback only.
    #[must_use]
    pub const fn local(mode: u32, group: Option<u32>) -> Self {
        Self { mode, group, protection: Protection::Loopback }
    }
}

/// A door that is open. Closing it removes the socket's file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
    tls: Option<Arc<ServerTls>>,
}

#[derive(Debug)]
enum Socket {
    /// Its file goes with it where it made one.
    Unix {
        listener: UnixListener,
        identity: Option<(u64, u64)>,
    },
    Tcp(TcpListener),
}

/// Somebody at the door, who has not said a word yet.
#[derive(Debug)]
pub struct Arrival {
    stream: Knock,
    tls: Option<Arc<ServerTls>>,
}

#[derive(Debug)]
enum Knock {
    Unix(tokio::net::UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Arrival {
    /// Lets it in: finds out who it is, which over TLS takes its cooperation, for ten seconds at most. Other arrivals
    /// should not wait for that.
    ///
    /// # Errors
    /// Why it does not come in.
    pub async fn enter(self) -> io::Result<(Stream, Peer)> {
        match self.stream {
            Knock::Unix(stream) => {
                let credentials = stream.peer_cred()?;
                let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
                let peer = Peer::Process { uid: credentials.uid(), gid: credentials.gid(), pid };
                Ok((Stream::Unix(stream), peer))
            }
            Knock::Tcp(stream, address) => {
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                let Some(tls) = self.tls else {
                    return Ok((Stream::Tcp(stream), Peer::Remote { address, subject: None }));
                };
                let (stream, subject) = tls.accept(stream).await?;
                Ok((Stream::Tls(stream), Peer::Remote { address, subject }))
            }
        }
    }

    /// From where, where that is known already.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match &self.stream {
            Knock::Unix(_) => None,
            Knock::Tcp(_, address) => Some(*address),
        }
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    Ok(sockopt::set_tcp_keepcnt(stream, PROBES)?)
}

impl Listener {
    /// Opens the door. A unix socket gets its mode and group before the first connection is possible; a file that was
    /// left there is removed when it is a socket on which nobody answers.
    ///
    /// # Errors
    /// When somebody else listens there, the address is not loopback and unprotected, or the kernel refuses.
    pub fn bind(endpoint: &Endpoint, access: &Access) -> Result<Self> {
        match endpoint {
            Endpoint::Unix(path) => {
                let (listener, identity) =
                    bind_unix(path, access.mode, access.group).map_err(|e| Error::listen(endpoint, e))?;
                Ok(Self {
                    socket: Socket::Unix { listener, identity: Some(identity) },
                    endpoint: endpoint.clone(),
                    tls: None,
                })
            }
            Endpoint::Tcp { host, port } => bind_tcp(endpoint, host, *port, &access.protection),
            Endpoint::Fd(_) => Err(Error::listen(endpoint, "its socket was not given to this process")),
            Endpoint::Ssh(_) => {
                Err(Error::listen(endpoint, "ssh is for clients: serve a unix socket, which they reach through it"))
            }
        }
    }

    /// Whether such a door may be opened at all, before anything else is done for it.
    ///
    /// # Errors
    /// When the address is not loopback and unprotected, or nobody knows it.
    pub fn check(endpoint: &Endpoint, access: &Access) -> Result<()> {
        let Endpoint::Tcp { host, .. } = endpoint else { return Ok(()) };
        let addresses = names::addresses_of(host);
        if addresses.is_empty() {
            return Err(names::unknown(host));
        }
        let loopback = addresses.iter().all(std::net::IpAddr::is_loopback);
        protect(endpoint, loopback, &access.protection).map(drop)
    }

    /// Takes over a socket on which somebody else has begun to listen (socket activation). TCP is protected as one's own
    /// is; who may use a unix socket was said when it was made.
    ///
    /// # Errors
    /// When it is none that connections can come in by, or TCP that is not loopback and unprotected.
    pub fn adopt(socket: OwnedFd, name: &str, access: &Access) -> Result<Self> {
        let told = Endpoint::Fd(name.to_owned());
        let failed = |reason: String| Error::listen(&told, reason);
        let broken = |error: io::Error| failed(crate::error::reason(&error));
        let stream = sockopt::socket_type(&socket).map(|kind| kind == SocketType::STREAM);
        if !(stream.unwrap_or(false) && sockopt::socket_acceptconn(&socket).unwrap_or(false)) {
            return Err(failed("it is no stream socket that listens (ListenStream=)".to_owned()));
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| broken(errno.into()))?;
        if sockopt::socket_domain(&socket).map_err(|errno| broken(errno.into()))? == AddressFamily::UNIX {
            let listener = UnixListener::from_std(socket.into()).map_err(broken)?;
            let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
            let endpoint = path.map_or(told, Endpoint::Unix);
            return Ok(Self { socket: Socket::Unix { listener, identity: None }, endpoint, tls: None });
        }
        let listener = TcpListener::from_std(socket.into()).map_err(broken)?;
        let address = listener.local_addr().map_err(broken)?;
        let endpoint = Endpoint::Tcp { host: address.ip().to_string(), port: address.port() };
        let tls = protect(&endpoint, address.ip().is_loopback(), &access.protection)?;
        Ok(Self { socket: Socket::Tcp(listener), endpoint, tls })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The next one at the door. Dropping the future loses none.
    ///
    /// # Errors
    /// The kernel's: of `EMFILE` and its like the caller waits for a connection to end, and goes on.
    pub async fn accept(&self) -> io::Result<Arrival> {
        let stream = match &self.socket {
            Socket::Unix { listener, .. } => Knock::Unix(listener.accept().await?.0),
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Knock::Tcp(stream, address)
            }
        };
        Ok(Arrival { stream, tls: self.tls.clone() })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix { listener, .. } => listener.as_fd(),
            Socket::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let (Socket::Unix { identity: Some(identity), .. }, Endpoint::Unix(path)) = (&self.socket, &self.endpoint)
        else {
            return;
        };
        // Only our own file: a newer daemon may have put its socket there.
        if identity_of(path).ok() == Some(*identity) {
            // In drop there is nobody to tell; a file that stays is recognised as stale by the next bind.
            let _ = rustix::fs::unlink(path);
        }
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let status = rustix::fs::lstat(path)?;
    Ok((status.st_dev, status.st_ino))
}

fn bind_unix(path: &Path, mode: u32, group: Option<u32>) -> io::Result<(UnixListener, (u64, u64))> {
    let address = unix::address(path)?;
    let socket = unix_socket()?;
    match rustix::net::bind(&socket, &address.address) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path, &address)?;
            rustix::net::bind(&socket, &address.address)?;
        }
        other => other?,
    }
    let identity = identity_of(path)?;
    let opened = open_for(path, mode, group).and_then(|()| Ok(rustix::net::listen(&socket, BACKLOG)?));
    if let Err(error) = opened {
        rustix::fs::unlink(path)?;
        return Err(error);
    }
    Ok((UnixListener::from_std(socket.into())?, identity))
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Group before mode: in no moment has the wrong group access.
fn open_for(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o600))?;
    if let Some(group) = group {
        rustix::fs::chownat(CWD, path, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

fn remove_stale(path: &Path, address: &unix::Address) -> io::Result<()> {
    let status = rustix::fs::lstat(path)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Socket {
        return Err(io::Error::other("a file that is not a socket is in the way: remove it, or choose another path"));
    }
    match rustix::net::connect(&unix_socket()?, &address.address) {
        Err(Errno::CONNREFUSED) => Ok(rustix::fs::unlink(path)?),
        Err(Errno::NOENT) => Ok(()),
        // A full queue is somebody, too.
        Ok(()) | Err(Errno::AGAIN) => {
            Err(io::Error::other("another daemon is listening there: stop it, or choose another path"))
        }
        Err(errno) => Err(errno.into()),
    }
}

fn bind_tcp(endpoint: &Endpoint, host: &str, port: u16, protection: &Protection) -> Result<Listener> {
    let addresses = names::addresses_of(host);
    let Some(&address) = addresses.first() else {
        return Err(names::unknown(host));
    };
    let loopback = addresses.iter().all(std::net::IpAddr::is_loopback);
    let tls = protect(endpoint, loopback, protection)?;
    let open = || {
        let listener = std::net::TcpListener::bind(SocketAddr::new(address, port))?;
        // The library's queue is for 128; the kernel lets it be changed.
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok((TcpListener::from_std(listener)?, port))
    };
    let (listener, port) = open().map_err(|error: io::Error| Error::listen(endpoint, crate::error::reason(&error)))?;
    Ok(Listener { socket: Socket::Tcp(listener), endpoint: Endpoint::Tcp { host: host.to_owned(), port }, tls })
}

/// What a TCP address speaks; one that others reach is not opened to everybody by oversight.
fn protect(endpoint: &Endpoint, loopback: bool, protection: &Protection) -> Result<Option<Arc<ServerTls>>> {
    match protection {
        Protection::Loopback if !loopback => {
            let reason = "whoever reaches the API is root on this machine, and nothing protects this address: give \
                          --tlsverify with certificates (gantry system tls-init makes them), listen on \
                          tcp://127.0.0.1 or a unix socket, or say --insecure-no-tls";
            Err(Error::listen(endpoint, reason))
        }
        Protection::Loopback | Protection::Nothing => Ok(None),
        Protection::Tls(tls) => Ok(Some(Arc::clone(tls))),
    }
}

/// Lets this process have as many descriptors as it may have without asking anybody. Where a program calls `select` that is for it to
/// decide, so this is for servers that start none.
///
/// # Errors
/// The kernel's.
pub fn raise_descriptor_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// How many descriptors this process may have, as the kernel says; a listener takes no more connections than fit.
#[must_use]
pub fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // No limit is one that memory sets.
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MOST).min(MOST)
}
