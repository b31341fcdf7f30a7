//! The daemon's end: a listening socket with the right mode and group from its first moment, and who is calling.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener};

use crate::{Endpoint, Error, Result, Stream, names, unix};

const BACKLOG: i32 = 4096;

/// Who is at the other end of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Somebody at an address.
    Address(SocketAddr),
}

/// A door that is open. Closing it removes the socket's file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, identity: (u64, u64) },
    Tcp(TcpListener),
}

impl Listener {
    /// Opens the door. A unix socket gets `mode` and `group` before the first connection is possible; a file that was
    /// left there is removed when it is a socket on which nobody answers. TCP has no TLS yet, so it is for loopback only.
    ///
    /// # Errors
    /// When somebody else listens there, the address is not loopback, or the kernel refuses.
    pub fn bind(endpoint: &Endpoint, mode: u32, group: Option<u32>) -> Result<Self> {
        match endpoint {
            Endpoint::Unix(path) => {
                let (listener, identity) = bind_unix(path, mode, group).map_err(|e| Error::listen(endpoint, e))?;
                Ok(Self { socket: Socket::Unix { listener, identity }, endpoint: endpoint.clone() })
            }
            Endpoint::Tcp { host, port } => bind_tcp(endpoint, host, *port),
        }
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next connection and who made it. Dropping the future loses none.
    ///
    /// # Errors
    /// The kernel's: of `EMFILE` and its like the caller waits for a connection to end, and goes on.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
                let peer = Peer::Process { uid: credentials.uid(), gid: credentials.gid(), pid };
                Ok((Stream::Unix(stream), peer))
            }
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Peer::Address(address)))
            }
        }
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
        let (Socket::Unix { identity, .. }, Endpoint::Unix(path)) = (&self.socket, &self.endpoint) else { return };
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

fn bind_tcp(endpoint: &Endpoint, host: &str, port: u16) -> Result<Listener> {
    let addresses = names::addresses_of(host);
    let Some(&address) = addresses.first() else {
        return Err(Error::UnknownHost { host: host.to_owned() });
    };
    if !addresses.iter().all(std::net::IpAddr::is_loopback) {
        let reason = "whoever reaches the API is root on this machine, and TLS is not yet supported: \
                      listen on tcp://127.0.0.1 or a unix socket";
        return Err(Error::listen(endpoint, reason));
    }
    let open = || {
        let listener = std::net::TcpListener::bind(SocketAddr::new(address, port))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok((TcpListener::from_std(listener)?, port))
    };
    let (listener, port) = open().map_err(|error: io::Error| Error::listen(endpoint, error))?;
    Ok(Listener { socket: Socket::Tcp(listener), endpoint: Endpoint::Tcp { host: host.to_owned(), port } })
}
