//! The one door to standard output and standard error. A reader that has gone away ends the command without a word.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the printer")]

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::failure::Result;

/// A pipe that polls writable takes this much without blocking.
const PIPE_BUF: usize = 4096;

/// Where something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Output {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Out => rustix::stdio::stdout(),
            Self::Err => rustix::stdio::stderr(),
        }
    }

    /// Whether a person looks at it.
    pub fn is_terminal(self) -> bool {
        rustix::termios::isatty(self.fd())
    }

    /// Writes all of it at once.
    pub fn write(self, bytes: &[u8]) -> io::Result<()> {
        write_all(self.fd(), bytes)
    }

    /// Writes bytes of a stream: without a detour where the kernel takes them at once, else in another thread, so that
    /// a slow reader holds up neither signals nor input.
    pub async fn stream(self, bytes: &[u8]) -> io::Result<()> {
        let fd = self.fd();
        if bytes.len() <= PIPE_BUF && is_ready(fd) {
            return write_all(fd, bytes);
        }
        let bytes = bytes.to_vec();
        tokio::task::spawn_blocking(move || write_all(fd, &bytes)).await.map_err(io::Error::other)?
    }
}

fn is_ready(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Somebody else made it non-blocking: wait until it takes more.
                let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
                rustix::event::poll(&mut fds, None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Text on standard output.
pub fn text(text: &str) -> Result<()> {
    Ok(Output::Out.write(text.as_bytes())?)
}

/// A line on standard output.
pub fn line(line: &str) -> Result<()> {
    text(&format!("{line}\n"))
}

/// A line on standard error; when even that fails there is nobody left to tell.
pub fn error_line(line: &str) {
    let mut stderr = io::stderr().lock();
    drop(writeln!(stderr, "{line}"));
}
