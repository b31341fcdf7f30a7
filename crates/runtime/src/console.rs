//! Terminals between processes: who gets the master end, and descriptors over `AF_UNIX` streams.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_linux::{Error as SystemError, ResultExt};
use libcontainer::runtime::ConsoleSocket;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags};

use crate::error::{Error, Result};

/// Where the terminal's master end is sent.
#[derive(Debug)]
pub struct Console {
    socket: ConsoleSocket,
    own_end: Option<OwnedFd>,
}

impl Console {
    /// The end of the socket that [`receive`] reads, when the terminal is served here.
    pub fn take_own_end(&mut self) -> Option<OwnedFd> {
        self.own_end.take()
    }

    /// What the library sends it to.
    pub fn into_socket(self) -> ConsoleSocket {
        self.socket
    }
}

/// A terminal goes to the caller's socket when the command returns before the program ends, and is served here when not.
pub fn chosen(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<Option<Console>> {
    match (terminal, detach, socket) {
        (true, true, None) => {
            Err(Error::Refused("cannot allocate tty if the runtime will detach without setting console socket".into()))
        }
        (true, true, Some(path)) => Ok(Some(Console { socket: ConsoleSocket::Path(path.to_owned()), own_end: None })),
        (true, false, None) => {
            let (own, theirs) = gantry_linux::socket::stream_pair()?;
            Ok(Some(Console { socket: ConsoleSocket::Connected(theirs), own_end: Some(own) }))
        }
        (false, _, None) => Ok(None),
        (_, _, Some(_)) => {
            Err(Error::Refused("cannot use console socket if the runtime will not detach or allocate tty".into()))
        }
    }
}

/// The master end that was sent.
pub fn receive(socket: OwnedFd) -> Result<OwnedFd> {
    let failed = |error: Errno| SystemError::new("receive", "terminal", error);
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error).into()),
        }
    }
    let sent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    sent.ok_or_else(|| failed(Errno::BADMSG).into())
}

/// Sends a descriptor of a process to a listening socket.
pub fn send_pidfd(path: &Path, pid: i32) -> Result<()> {
    let name = format!("process {pid}");
    let process = Pid::from_raw(pid).ok_or_else(|| SystemError::new("open", name.clone(), Errno::SRCH))?;
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty()).during("open", name)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .during("make", "socket")?;
    let address = SocketAddrUnix::new(path).during("name socket", path.display())?;
    rustix::net::connect(&socket, &address).during("connect to", path.display())?;
    let fds: [BorrowedFd<'_>; 1] = [pidfd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(&socket, &[IoSlice::new(b"pidfd")], &mut control, SendFlags::NOSIGNAL)
        .during("send pidfd to", path.display())?;
    Ok(())
}
