//! Tells the service manager of this process (`NOTIFY_SOCKET`, as systemd has it) when a container's program says that it
//! is ready. Nothing else that the program says is passed on: it is not to be trusted with the manager.

use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::{Error as SystemError, ResultExt};
use libcontainer::runtime::Container;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};

use crate::error::Result;

const VARIABLE: &str = "NOTIFY_SOCKET";
const LONGEST: usize = 4096;

/// Whether this process has a service manager to be told.
pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|path| !path.is_empty())
}

/// A container's socket, bound, and where its news go.
#[derive(Debug)]
pub struct Notify {
    socket: OwnedFd,
    manager: SocketAddrUnix,
    /// The process that the manager is to watch.
    main: i32,
}

impl Notify {
    /// Before the program starts. `None` where there is nobody to tell, or the container has no such socket.
    pub fn begin(container: &Container, main: i32) -> Result<Option<Self>> {
        let Some(path) = std::env::var(VARIABLE).ok().filter(|path| !path.is_empty()) else { return Ok(None) };
        let manager = match path.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
            None => SocketAddrUnix::new(&path),
        };
        let manager = manager.during("name the service manager's socket", &path)?;
        Ok(container.bind_notify_socket()?.map(|socket| Self { socket, manager, main }))
    }

    /// To be polled beside other things; when it is ready, [`Self::pass_on`] what there is.
    pub fn interest(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)
    }

    /// Whether the manager was told that the program is ready: then there is nothing more to come.
    pub fn pass_on(&self) -> Result<bool> {
        let mut message = [0; LONGEST];
        loop {
            let length = match rustix::net::recv(&self.socket, &mut message, RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    return Err(SystemError::new("receive from", "the container's notify socket", error).into());
                }
            };
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                self.tell(&format!("READY=1\nMAINPID={}\n", self.main))?;
                return Ok(true);
            }
        }
    }

    fn tell(&self, text: &str) -> Result<()> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        let socket = socket.during("make", "socket")?;
        rustix::net::sendto(&socket, text.as_bytes(), SendFlags::NOSIGNAL, &self.manager)
            .during("send to", "the service manager's socket")?;
        Ok(())
    }

    /// Waits until the program is ready or the container's process `pid` has ended.
    pub fn wait(self, pid: i32) -> Result<()> {
        let process = Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        // One that has ended already says nothing more.
        let Some(process) = process else { return Ok(()) };
        loop {
            let mut fds = [self.interest(), PollFd::new(&process, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(SystemError::new("wait for", "readiness", error).into()),
            }
            let ended = !fds[1].revents().is_empty();
            if self.pass_on()? || ended {
                return Ok(());
            }
        }
    }
}
