//! One attached client: output waits for it in a bounded queue, and a client that takes nothing is cut off.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::native::protocol::ClientOrder;

/// The container's output is read on while every client's queue is below this.
const QUEUE: usize = 256 * 1024;
/// This much input that nobody read is taken off a connection before it ends: more than a unix socket holds by default.
const LEFT_OVER: usize = 512 * 1024;
/// A client whose queue is full, or the last to be served, may stand still this long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An attached client.
#[derive(Debug)]
pub struct Client {
    /// Its connection.
    pub stream: OwnedFd,
    /// Its input is still read.
    pub stdin: bool,
    stdout: bool,
    stderr: bool,
    queue: Vec<u8>,
    sent: usize,
    progress: Instant,
    /// It takes nothing more; what it sent is still read.
    pub gone: bool,
    /// To be let go.
    pub dead: bool,
}

impl Client {
    /// From its order and its connection.
    pub fn new(order: &ClientOrder, stream: OwnedFd) -> Self {
        Self {
            stream,
            stdin: order.stdin,
            stdout: order.stdout,
            stderr: order.stderr,
            queue: Vec::new(),
            sent: 0,
            progress: Instant::now(),
            gone: false,
            dead: false,
        }
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len() - self.sent
    }

    /// Whether more output may be read for it.
    pub fn has_room(&self) -> bool {
        self.dead || self.gone || self.waiting() < QUEUE
    }

    /// Queues output of a stream (1 or 2), with a frame header unless it is a terminal's.
    pub fn push(&mut self, stream: u8, framed: bool, data: &[u8]) {
        let wanted = if stream == 1 { self.stdout } else { self.stderr };
        if !wanted || self.dead || self.gone {
            return;
        }
        if self.waiting() == 0 {
            self.progress = Instant::now();
        }
        if framed {
            let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes();
            self.queue.extend_from_slice(&[stream, 0, 0, 0]);
            self.queue.extend_from_slice(&length);
        }
        self.queue.extend_from_slice(data);
        self.flush();
    }

    /// Sends what it takes now.
    pub fn flush(&mut self) {
        while self.sent < self.queue.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &self.queue[self.sent..], flags) {
                Ok(sent) => {
                    self.sent += sent;
                    self.progress = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return self.leave(),
            }
        }
        if self.sent == self.queue.len() {
            self.queue.clear();
            self.queue.shrink_to(4096);
            self.sent = 0;
        } else if self.sent >= QUEUE {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// It takes no more output, and is told so.
    pub fn leave(&mut self) {
        // It may be gone already, which is all that is wanted.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
        self.queue = Vec::new();
        self.sent = 0;
        self.gone = true;
        self.dead = !self.stdin;
    }

    /// When it is cut off unless it takes something; `None` while it keeps up.
    pub fn deadline(&self, at_end: bool) -> Option<Instant> {
        let stalled = self.waiting() > 0 && (at_end || self.waiting() >= QUEUE);
        stalled.then(|| self.progress + PATIENCE)
    }

    /// Reads its input; `None` when there is no more for ever.
    pub fn read<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let end = buffer.len();
        let length = match rustix::net::recv(&self.stream, &mut buffer[..end], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return None,
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return None,
        };
        Some(&buffer[..length])
    }

    /// Sends what is left and lets the connection go. It ends when nobody holds it any more: a daemon that watches it
    /// keeps it until the exit is recorded, so that a client that sees the end can ask for the exit code.
    pub fn finish(mut self) {
        if self.gone {
            return;
        }
        self.flush();
        // Input that nobody read would turn the end of the connection into an error at the other side. On a unix socket the
        // other side can send nothing more after this; one that sends on and on over tcp gets that error.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Read);
        let mut buffer = [0u8; 4096];
        for _ in 0..LEFT_OVER / buffer.len() {
            if self.read(&mut buffer).is_none_or(<[u8]>::is_empty) {
                return;
            }
        }
    }
}
