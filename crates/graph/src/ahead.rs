//! A stream that one thread reads and another uses, in bounded memory: neither waits for the other while the buffers last.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of one buffer.
const BUFFER: usize = 128 << 10;

/// What goes through: a full buffer, the end, or why there is none.
type Piece = io::Result<Vec<u8>>;

/// The end that is written to. Dropped without [`Feed::end`], the reader gets an error: nothing half is taken for whole.
pub(crate) struct Feed(Arc<Pipe>);

/// The end that is read from.
pub(crate) struct Ahead {
    pipe: Arc<Pipe>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

/// What is between them. Who waits is woken when half of the buffers are there for it: to be woken for each one costs more than
/// what is done with it.
struct Pipe {
    queue: Mutex<Queue>,
    filled: Condvar,
    emptied: Condvar,
    half: usize,
}

#[derive(Default)]
struct Queue {
    full: VecDeque<Piece>,
    empty: Vec<Vec<u8>>,
    /// Buffers that may still be made.
    left: usize,
    /// Nothing more comes.
    closed: bool,
    /// Nobody reads any more.
    left_alone: bool,
}

/// Both ends, with so many buffers between them.
pub(crate) fn ahead(buffers: usize) -> (Feed, Ahead) {
    let total = buffers + 1;
    let queue = Mutex::new(Queue { left: total, ..Queue::default() });
    let pipe = Pipe { queue, filled: Condvar::new(), emptied: Condvar::new(), half: (total / 2).max(1) };
    let pipe = Arc::new(pipe);
    (Feed(Arc::clone(&pipe)), Ahead { pipe, current: Vec::new(), at: 0, ended: false })
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer; none when nobody reads any more.
    fn buffer(&self) -> Option<Vec<u8>> {
        let mut queue = self.lock();
        if queue.empty.is_empty() && queue.left > 0 {
            queue.left -= 1;
            return Some(Vec::with_capacity(BUFFER));
        }
        if queue.empty.is_empty() {
            let waits = |queue: &mut Queue| queue.empty.len() < self.half && !queue.left_alone;
            queue = self.emptied.wait_while(queue, waits).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.left_alone { None } else { queue.empty.pop() }
    }

    /// False when nobody reads any more.
    #[must_use]
    fn send(&self, piece: Piece) -> bool {
        let mut queue = self.lock();
        queue.full.push_back(piece);
        if queue.full.len() == self.half {
            self.filled.notify_one();
        }
        !queue.left_alone
    }

    /// The next piece; none when the other end is gone.
    fn receive(&self, used: Vec<u8>) -> Option<Piece> {
        let mut queue = self.lock();
        if used.capacity() > 0 {
            queue.empty.push(used);
            if queue.empty.len() == self.half {
                self.emptied.notify_one();
            }
        }
        if queue.full.is_empty() {
            let waits = |queue: &mut Queue| queue.full.len() < self.half && !queue.closed;
            queue = self.filled.wait_while(queue, waits).unwrap_or_else(PoisonError::into_inner);
        }
        queue.full.pop_front()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.pipe.lock().left_alone = true;
        self.pipe.emptied.notify_one();
    }
}

impl Feed {
    /// Hands over everything that `input` has; an error of it goes on to the reader and is returned. Ends early, without an
    /// error, when nobody reads any more.
    pub(crate) fn pump(self, input: &mut dyn Read) -> io::Result<()> {
        while let Some(mut buffer) = self.0.buffer() {
            match fill(input, &mut buffer) {
                Ok(()) if buffer.is_empty() => {
                    self.end();
                    return Ok(());
                }
                Ok(()) => {
                    if !self.0.send(Ok(buffer)) {
                        return Ok(());
                    }
                }
                Err(error) => {
                    // A reader that is gone needs no error.
                    _ = self.0.send(Err(copy(&error)));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn end(self) {
        // An empty piece is the end; a reader that is gone needs none.
        _ = self.0.send(Ok(Vec::new()));
    }

    /// A writer, for who has no reader.
    pub(crate) fn writer(self) -> FeedWriter {
        FeedWriter { feed: self, current: Vec::new() }
    }
}

/// A [`Feed`] that is written to.
pub(crate) struct FeedWriter {
    feed: Feed,
    current: Vec<u8>,
}

impl FeedWriter {
    /// Ends the stream, or has it fail.
    pub(crate) fn close(mut self, outcome: io::Result<()>) {
        match outcome.and_then(|()| self.send()) {
            Ok(()) => self.feed.end(),
            // A reader that is gone needs no error.
            Err(error) => _ = self.feed.0.send(Err(error)),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let full = std::mem::take(&mut self.current);
        if full.is_empty() || self.feed.0.send(Ok(full)) { Ok(()) } else { Err(gone()) }
    }
}

impl Write for FeedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len() == BUFFER {
            self.send()?;
        }
        if self.current.capacity() == 0 {
            self.current = self.feed.0.buffer().ok_or_else(gone)?;
            self.current.clear();
        }
        let length = bytes.len().min(BUFFER - self.current.len());
        self.current.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads any more")
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(BUFFER, 0);
    let mut filled = 0;
    while filled < BUFFER {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

/// The same error for somebody else; its words go with the first.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error)
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && !self.ended {
            let used = std::mem::take(&mut self.current);
            self.at = 0;
            let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the stream broke off");
            self.current = self.pipe.receive(used).ok_or_else(gone)??;
            self.ended = self.current.is_empty();
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_through_in_order_and_a_broken_stream_is_an_error() {
        let bytes: Vec<u8> = (0..3 * BUFFER + 7).map(|index| (index % 251) as u8).collect();
        for broken in [false, true] {
            let (feed, mut reader) = ahead(2);
            std::thread::scope(|scope| {
                let bytes = &bytes;
                scope.spawn(move || {
                    let failing = io::Error::other("broken");
                    let mut input = bytes.chain(Failing(broken.then_some(failing)));
                    assert_eq!(feed.pump(&mut input).is_err(), broken);
                });
                let mut got = Vec::new();
                let read = reader.read_to_end(&mut got);
                assert_eq!(read.is_err(), broken);
                assert!(bytes.starts_with(&got) && (broken || got.len() == bytes.len()));
            });
        }
    }

    /// Each waits for half of the buffers: they must never both wait.
    #[test]
    fn however_many_buffers_there_are_and_are_filled_everything_comes_through() {
        for buffers in 1..=6 {
            for filled in 0..=3 * buffers {
                let (feed, mut reader) = ahead(buffers);
                let bytes = filled * BUFFER + filled % 2;
                std::thread::scope(|scope| {
                    scope.spawn(move || feed.pump(&mut io::repeat(7).take(bytes as u64)).unwrap());
                    assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), bytes as u64);
                });
            }
        }
    }

    #[test]
    fn a_writer_that_is_gone_is_an_error_and_a_reader_that_is_gone_ends_the_writer() {
        let (feed, mut reader) = ahead(2);
        drop(feed);
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (feed, reader) = ahead(2);
        drop(reader);
        feed.pump(&mut io::repeat(1)).unwrap();
    }

    #[test]
    fn what_is_written_is_read_and_a_failure_is_told() {
        for fails in [false, true] {
            let (feed, mut reader) = ahead(2);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut writer = feed.writer();
                    writer.write_all(&vec![7; 3 * BUFFER + 5]).unwrap();
                    writer.close(if fails { Err(io::Error::other("because")) } else { Ok(()) });
                });
                let mut got = Vec::new();
                match reader.read_to_end(&mut got) {
                    Ok(length) => assert!(!fails && length == 3 * BUFFER + 5),
                    Err(error) => assert!(fails && error.to_string() == "because", "{error}"),
                }
            });
        }
        let (feed, reader) = ahead(2);
        drop(reader);
        assert!(feed.writer().write_all(&vec![0; 9 * BUFFER]).is_err());
    }

    struct Failing(Option<io::Error>);

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.take().map_or(Ok(0), Err)
        }
    }
}
