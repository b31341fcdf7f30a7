//! A terminal's master end on its way to whoever will serve it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::{Result, ResultExt};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::ConsoleSocket;

/// A connection to it, made before there is a terminal to send.
pub fn connect(socket: &ConsoleSocket) -> Result<OwnedFd> {
    let path = match socket {
        ConsoleSocket::Connected(socket) => return socket.try_clone().during("duplicate", "console socket"),
        ConsoleSocket::Path(path) => path,
    };
    let address = SocketAddrUnix::new(path).during("name console socket", path.display())?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .during("make", "socket")?;
    rustix::net::connect(&socket, &address).during("connect to console socket", path.display())?;
    Ok(socket)
}

/// Sends it with a name as data, as runc does.
pub fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<()> {
    let fds = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"/dev/ptmx")], &mut control, SendFlags::NOSIGNAL)
        .during("send terminal to", "console socket")?;
    Ok(())
}
