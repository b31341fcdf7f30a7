//! Packets between processes of the same machine: bytes and descriptors over `SOCK_SEQPACKET`, of any length.
//!
//! A packet up to [`INLINE`] bytes travels in the socket. A longer one travels in a sealed memfd, whose descriptor is the
//! last one of the packet: senders never split, receivers never assemble.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::{Error, Result, ResultExt};

/// The longest packet that travels in the socket itself.
pub const INLINE: usize = 60 * 1024;
/// The longest packet of all; a longer one is refused by both sides.
pub const LONGEST: usize = 64 * 1024 * 1024;
/// The kernel takes 253 descriptors in one message; one is for the memfd.
pub const MOST_FDS: usize = 252;

/// A received packet.
#[derive(Debug, Default)]
pub struct Packet {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Two connected packet sockets.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .during("make", "socket pair")
}

/// Two connected stream sockets.
pub fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .during("make", "socket pair")
}

/// Listens for packet connections at `name` in an open directory, however long the directory's path is.
pub fn listen(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    rustix::net::bind(&socket, &address(&directory, name)?).during("bind socket", name)?;
    rustix::net::listen(&socket, 16).during("listen on", name)?;
    Ok(socket)
}

/// How long one waits for a place in the queue of a listener that takes nobody from it; then it is `EAGAIN`.
const QUEUE_PATIENCE: Duration = Duration::from_secs(2);

/// Connects to the socket `name` in an open directory.
pub fn connect(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    let socket = new_socket(SocketFlags::CLOEXEC)?;
    set_timeouts(&socket, Some(QUEUE_PATIENCE), None)?;
    rustix::net::connect(&socket, &address(&directory, name)?).during("connect to", name)?;
    set_timeouts(&socket, None, None)?;
    Ok(socket)
}

/// Connects to the stream socket at `path`, within `limit`; later sends are bounded by it as well.
pub fn connect_stream(path: &Path, limit: Duration) -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .during("make", "socket")?;
    // Connecting waits for a place in the listener's queue as long as a send waits.
    set_timeouts(&socket, Some(limit), None)?;
    let address = SocketAddrUnix::new(path).during("connect to", path.display())?;
    rustix::net::connect(&socket, &address).during("connect to", path.display())?;
    Ok(socket)
}

/// Sends bytes on a stream, the descriptors with the first of them.
pub fn send_stream(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let socket = socket.as_fd();
    let mut sent = send_raw(socket, &[IoSlice::new(data)], fds, SendFlags::NOSIGNAL)?;
    while sent < data.len() {
        sent += send_raw(socket, &[IoSlice::new(&data[sent..])], &[], SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

fn new_socket(flags: SocketFlags) -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).during("make", "socket")
}

fn address(directory: impl AsFd, name: &str) -> Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd());
    SocketAddrUnix::new(Path::new(&path)).during("name socket", name)
}

/// Accepts a connection; `None` when there is none.
pub fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(error) => Err(Error::new("accept", "connection", error)),
    }
}

/// The user that the peer had when it connected.
pub fn peer_uid(socket: impl AsFd) -> Result<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(socket).during("read credentials of", "peer")?;
    Ok(credentials.uid.as_raw())
}

/// Bounds every later send and receive on a blocking socket.
pub fn set_timeouts(socket: impl AsFd, send: Option<Duration>, receive: Option<Duration>) -> Result<()> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    set_socket_timeout(&socket, Timeout::Send, send).during("set timeout of", "socket")?;
    set_socket_timeout(&socket, Timeout::Recv, receive).during("set timeout of", "socket")
}

/// Sends a packet, blocking as long as the socket does.
pub fn send(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_with(socket.as_fd(), data, fds, SendFlags::NOSIGNAL)
}

/// Sends a packet or fails with `EAGAIN` at once.
pub fn try_send(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_with(socket.as_fd(), data, fds, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<()> {
    if fds.len() > MOST_FDS {
        return Err(Error::new("send", format!("{} descriptors (at most {MOST_FDS})", fds.len()), Errno::INVAL));
    }
    if data.len() <= INLINE {
        // The first byte says where the rest is; an empty packet would look like the end of the stream.
        return send_raw(socket, &[IoSlice::new(&[0]), IoSlice::new(data)], fds, flags).map(drop);
    }
    if data.len() > LONGEST {
        return Err(Error::new("send", format!("packet of {} bytes (at most {LONGEST})", data.len()), Errno::MSGSIZE));
    }
    let long = sealed_memfd("packet", data)?;
    let all: Vec<BorrowedFd<'_>> = fds.iter().copied().chain([long.as_fd()]).collect();
    send_raw(socket, &[IoSlice::new(&[1])], &all, flags).map(drop)
}

fn send_raw(socket: BorrowedFd<'_>, data: &[IoSlice<'_>], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new("send", "descriptors", Errno::NOBUFS));
    }
    loop {
        match rustix::net::sendmsg(socket, data, &mut control, flags) {
            Ok(sent) => return Ok(sent),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::new("send", "packet", error)),
        }
    }
}

/// Receives a packet; `None` at the end of the stream.
pub fn receive(socket: impl AsFd) -> Result<Option<Packet>> {
    receive_with(socket.as_fd(), RecvFlags::CMSG_CLOEXEC)
}

/// Receives a packet or fails with `EAGAIN` at once.
pub fn try_receive(socket: impl AsFd) -> Result<Option<Packet>> {
    receive_with(socket.as_fd(), RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
}

fn receive_with(socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<Option<Packet>> {
    // Space for what has come, for most packets are short.
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC | (flags & RecvFlags::DONTWAIT);
    let length = loop {
        match rustix::net::recv(socket, &mut [0; 1], peek) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(None),
            Ok((_, length)) => break length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::new("receive", "packet", error)),
        }
    };
    let mut data = vec![0; length.min(INLINE + 1)];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut data)], &mut control, flags) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(Error::new("receive", "packet", error)),
        }
    };
    let mut fds = Vec::new();
    for entry in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = entry {
            fds.extend(received);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::new("receive", "packet: it was cut short", Errno::MSGSIZE));
    }
    data.truncate(message.bytes);
    if data[0] == 0 {
        data.remove(0);
        data.shrink_to_fit();
        return Ok(Some(Packet { data, fds }));
    }
    let long = fds.pop().ok_or_else(|| Error::new("receive", "packet: its memory is missing", Errno::BADMSG))?;
    Ok(Some(Packet { data: read_memfd(&long)?, fds }))
}

/// A memfd with this content that nobody can change any more.
pub fn sealed_memfd(name: &str, data: &[u8]) -> Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .during("make memory file", name)?;
    write_all(&memfd, data).during("write memory file", name)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    add_seals(&memfd, seals).during("seal memory file", name)?;
    Ok(memfd)
}

/// Writes everything to a blocking descriptor.
pub fn write_all(fd: impl AsFd, mut data: &[u8]) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(&fd, data) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => data = &data[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Seals a memory file. The kernel refuses with `EBUSY` while it holds one of the file's pages for a moment, as when it
/// moves pages in memory, and offers nothing to wait for: tried again for a second.
pub fn add_seals(memfd: impl AsFd, seals: SealFlags) -> rustix::io::Result<()> {
    for _ in 0..100 {
        match rustix::fs::fcntl_add_seals(&memfd, seals) {
            Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    rustix::fs::fcntl_add_seals(memfd, seals)
}

/// Reads a sealed memfd; one that its sender could still change, or that is too long, is refused.
pub fn read_memfd(memfd: &OwnedFd) -> Result<Vec<u8>> {
    let seals = rustix::fs::fcntl_get_seals(memfd).during("read seals of", "packet")?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::WRITE) {
        return Err(Error::new("receive", "packet: its memory is not sealed", Errno::PERM));
    }
    let size = rustix::fs::fstat(memfd).during("stat", "packet")?.st_size;
    let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST);
    let size = size.ok_or_else(|| Error::new("receive", "packet: it is too long", Errno::MSGSIZE))?;
    let mut data = vec![0; size];
    let mut done = 0;
    while done < size {
        match rustix::io::pread(memfd, &mut data[done..], done as u64).during("read", "packet")? {
            0 => return Err(Error::new("receive", "packet: it was cut short", Errno::MSGSIZE)),
            length => done += length,
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_any_length_arrive_whole_with_their_descriptors() {
        let (a, b) = pair().unwrap();
        for length in [0, 1, INLINE, INLINE + 1, 3 * 1024 * 1024] {
            let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            send(&a, &data, &[a.as_fd(), b.as_fd()]).unwrap();
            let packet = receive(&b).unwrap().unwrap();
            assert_eq!(packet.data, data);
            assert_eq!(packet.fds.len(), 2);
        }
        assert_eq!(try_receive(&b).unwrap_err().errno(), libc::EAGAIN);
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn sockets_work_in_directories_with_long_names() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120)).join("y".repeat(120));
        crate::fs::create_dir_all(&deep).unwrap();
        let fd = crate::fs::open(&deep).unwrap();
        let listener = listen(&fd, "s").unwrap();
        let client = connect(&fd, "s").unwrap();
        let server = accept(&listener).unwrap().unwrap();
        assert_eq!(peer_uid(&server).unwrap(), rustix::process::getuid().as_raw());
        send(&client, b"hello", &[]).unwrap();
        assert_eq!(receive(&server).unwrap().unwrap().data, b"hello");
    }
}
