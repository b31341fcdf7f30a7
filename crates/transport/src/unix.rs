//! Addresses of unix sockets, also of those whose path is longer than an address may be.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::SocketAddrUnix;

/// The longest path in an address; the kernel's 108 bytes end with a NUL.
const PATH_LIMIT: usize = 107;

/// An address, and the directory descriptor that it may go through.
pub struct Address {
    pub(crate) address: SocketAddrUnix,
    _directory: Option<OwnedFd>,
}

/// The address of the socket at `path`: of a long path, relative to its directory through `/proc/self/fd`.
pub fn address(path: &Path) -> io::Result<Address> {
    if path.as_os_str().len() <= PATH_LIMIT {
        return Ok(Address { address: SocketAddrUnix::new(path)?, _directory: None });
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    if short.as_os_str().len() > PATH_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, "the socket's file name is too long"));
    }
    Ok(Address { address: SocketAddrUnix::new(&short)?, _directory: Some(directory) })
}
