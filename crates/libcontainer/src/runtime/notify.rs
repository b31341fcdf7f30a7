//! The socket by which a program tells a service manager that it is ready: a directory for it is made with the container
//! and seen inside; whoever starts the container binds it there and passes on what comes.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use gantry_linux::{ResultExt, fs};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::record::NOTIFY;
use crate::error::Result;
use crate::oci::{Mount, Spec};

/// Where the container sees the directory.
const INSIDE: &str = "/run/notify";
const SOCKET: &str = "notify.sock";

/// Has the container see the directory, and its program know the socket.
pub fn add(spec: &mut Spec, container: &Path) {
    spec.mounts.push(Mount {
        destination: INSIDE.into(),
        kind: "bind".into(),
        source: container.join(NOTIFY).display().to_string(),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).into(),
        ..Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process.env.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
    }
}

/// The socket, bound; `None` where the container was made without the directory. Every user inside may send to it.
pub fn bind(container: &Path) -> Result<Option<OwnedFd>> {
    let place = container.join(NOTIFY);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(&place, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other.during("open", place.display())?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    let socket = socket.during("make", "socket")?;
    // By descriptor: the path of a socket is short, that of a container may not be.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
    match address.and_then(|address| rustix::net::bind(&socket, &address)) {
        // Somebody else has started it, and listens.
        Err(rustix::io::Errno::ADDRINUSE) => return Ok(None),
        bound => bound.during("bind", place.join(SOCKET).display())?,
    }
    fs::set_mode(place.join(SOCKET), 0o777)?;
    Ok(Some(socket))
}
