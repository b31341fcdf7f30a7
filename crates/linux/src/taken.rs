//! Whether the other end of a stream has taken what was sent to it.
#![allow(unsafe_code, reason = "rustix has no TIOCOUTQ")]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::{Error, Result, ResultExt};

/// Waits until the other end of a stream socket has taken what was sent to it (of TCP: its kernel has), for `limit` at
/// most; whether it has.
pub fn until_taken(socket: impl AsFd, limit: Duration) -> Result<bool> {
    let socket = socket.as_fd();
    if waiting(socket)? == 0 {
        return Ok(true);
    }
    let until = Instant::now() + limit;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during("make", "epoll")?;
    // Edges: each time that the other end takes something there is room for more.
    let edges = epoll::EventFlags::OUT | epoll::EventFlags::ET;
    epoll::add(&epoll, socket, epoll::EventData::new_u64(0), edges).during("watch", "socket")?;
    while waiting(socket)? > 0 {
        let left = until.saturating_duration_since(Instant::now());
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match epoll::wait(&epoll, &mut events, Some(&timeout)) {
            Ok(([], _)) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::new("wait for", "socket", error)),
        }
    }
    Ok(true)
}

/// Bytes that the other end has not taken yet.
fn waiting(socket: BorrowedFd<'_>) -> Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ, writes one int, and `bytes` is one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, std::ptr::from_mut(&mut bytes)) };
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Error::new("ask what waits in", "socket", Errno::from_raw_os_error(errno)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{stream_pair, write_all};

    #[test]
    fn what_was_sent_is_taken_when_the_other_end_has_read_it_or_is_gone() {
        let (near, far) = stream_pair().unwrap();
        assert!(until_taken(&near, Duration::ZERO).unwrap());
        write_all(&near, b"head").unwrap();
        assert!(!until_taken(&near, Duration::from_millis(20)).unwrap());
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| until_taken(&near, Duration::from_secs(30)));
            assert_eq!(rustix::io::read(&far, &mut [0; 100]).unwrap(), 4);
            assert!(taken.join().unwrap().unwrap());
        });
        write_all(&near, b"more").unwrap();
        drop(far);
        assert!(until_taken(&near, Duration::from_secs(30)).unwrap());
    }
}
