//! Whether the other end of a stream has taken what was sent to it.
#![allow(unsafe_code, reason = "rustix has no TIOCOUTQ")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;

use crate::{Error, Result, ResultExt};

/// Whether the process at the other end of a Unix stream socket has read what was sent to it. Of other sockets it is always
/// true: what is known of them is what the other kernel has.
pub fn is_taken(socket: impl AsFd) -> Result<bool> {
    let socket = socket.as_fd();
    if socket_domain(socket).during("ask for the kind of", "socket")? != AddressFamily::UNIX {
        return Ok(true);
    }
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ, writes one int, and `bytes` is one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, std::ptr::from_mut(&mut bytes)) };
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Error::new("ask what waits in", "socket", Errno::from_raw_os_error(errno)));
    }
    Ok(bytes == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::socket::{stream_pair, write_all};

    #[test]
    fn what_was_sent_is_taken_when_the_other_end_has_read_it_or_is_gone() {
        let (near, far) = stream_pair().unwrap();
        assert!(is_taken(&near).unwrap());
        write_all(&near, b"head").unwrap();
        assert!(!is_taken(&near).unwrap());
        assert_eq!(rustix::io::read(&far, &mut [0; 100]).unwrap(), 4);
        assert!(is_taken(&near).unwrap());
        write_all(&near, b"more").unwrap();
        drop(far);
        assert!(is_taken(&near).unwrap());
    }

    #[test]
    fn nobody_waits_for_what_tcp_cannot_tell() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _far = listener.accept().unwrap();
        near.write_all(&[0; 100_000]).unwrap();
        assert!(is_taken(&near).unwrap());
    }
}
