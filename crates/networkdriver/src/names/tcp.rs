//! Messages on a stream, each behind its length: bounded, and never waiting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;

/// Answers that a client does not take are kept up to this many bytes.
const MOST_OUTPUT: usize = 256 * 1024;

/// One end of a stream.
pub struct Stream {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The longest message that the other end may send.
    longest: usize,
    /// The other end has sent all that it will.
    ended: bool,
}

/// The stream is to be closed: the other end is gone, or does what it must not.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

impl Stream {
    /// Over a socket that does not block.
    pub fn new(socket: OwnedFd, longest: usize) -> Self {
        Self { socket, input: Vec::new(), output: Vec::new(), longest, ended: false }
    }

    /// Reads what has come, up to a message beyond the one that is looked at: the rest waits in the kernel.
    pub fn receive(&mut self) -> Result<(), Broken> {
        let room = 2 * (2 + self.longest);
        let mut piece = [0; 4096];
        while !self.ended && self.input.len() < room {
            let most = piece.len().min(room - self.input.len());
            match rustix::io::read(&self.socket, &mut piece[..most]) {
                Ok(0) => self.ended = true,
                Ok(length) => self.input.extend_from_slice(&piece[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }

    /// The next whole message.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let Some(length) = self.input.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length))) else {
            return Ok(None);
        };
        if length == 0 || length > self.longest {
            return Err(Broken);
        }
        if self.input.len() < 2 + length {
            return Ok(None);
        }
        let message = self.input[2..2 + length].to_vec();
        self.input.drain(..2 + length);
        Ok(Some(message))
    }

    /// Whether nothing more comes. A message that was cut short by the end never becomes whole.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Sends a message, or as much of it as the kernel takes now.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Broken> {
        let length = u16::try_from(message.len()).map_err(|_| Broken)?;
        if self.output.len() + message.len() > MOST_OUTPUT {
            return Err(Broken);
        }
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(message);
        self.flush()
    }

    /// Sends what is left.
    pub fn flush(&mut self) -> Result<(), Broken> {
        let mut sent = 0;
        while sent < self.output.len() {
            match rustix::net::send(&self.socket, &self.output[sent..], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(length) => sent += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // A connection that is still being made.
                Err(Errno::NOTCONN) => break,
                Err(_) => return Err(Broken),
            }
        }
        self.output.drain(..sent);
        Ok(())
    }

    /// Whether something is left to be sent.
    pub fn is_full(&self) -> bool {
        !self.output.is_empty()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair(longest: usize) -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::new(ours.into(), longest), theirs)
    }

    #[test]
    fn messages_come_whole_however_they_were_cut() {
        let (mut stream, mut other) = pair(100);
        for byte in [0, 3, b'a', b'b', b'c', 0, 1, b'd'] {
            other.write_all(&[byte]).unwrap();
            stream.receive().unwrap();
        }
        assert_eq!(stream.next().unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(stream.next().unwrap().as_deref(), Some(&b"d"[..]));
        assert_eq!(stream.next(), Ok(None));
        assert!(!stream.has_ended());
    }

    #[test]
    fn a_message_that_the_end_cuts_short_is_none_and_nothing_goes_on_for_ever() {
        let (mut stream, mut other) = pair(100);
        other.write_all(&[0, 50, 1, 2, 3]).unwrap();
        drop(other);
        stream.receive().unwrap();
        assert_eq!(stream.next(), Ok(None));
        assert!(stream.has_ended());
        stream.receive().unwrap();
        assert_eq!(stream.next(), Ok(None));
    }

    #[test]
    fn lengths_that_nobody_honest_sends_end_the_stream() {
        for length in [0_u16, 101, u16::MAX] {
            let (mut stream, mut other) = pair(100);
            other.write_all(&length.to_be_bytes()).unwrap();
            stream.receive().unwrap();
            assert_eq!(stream.next(), Err(Broken), "{length}");
        }
    }

    #[test]
    fn who_sends_without_end_is_read_no_further_than_two_messages() {
        let (mut stream, mut other) = pair(100);
        other.write_all(&[0, 1, 7].repeat(1000)).unwrap();
        stream.receive().unwrap();
        assert_eq!(stream.input.len(), 204);
    }

    #[test]
    fn who_takes_no_answers_is_cut_off_in_the_end() {
        let (mut stream, mut other) = pair(100);
        let answer = vec![7; 60_000];
        let taken = (0..1000).take_while(|_| stream.send(&answer).is_ok()).count();
        assert!((1..100).contains(&taken), "{taken}");
        assert!(stream.is_full());
        let mut first = vec![0; 60_002];
        other.read_exact(&mut first).unwrap();
        assert_eq!(first[..3], [0xea, 0x60, 7]);
    }
}
