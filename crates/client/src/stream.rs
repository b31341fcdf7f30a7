//! Streams of a container to and from the person: frames apart, input until its end, resizes, signals, detaching.

use bytes::{Buf as _, BytesMut};
use gantry_api::stream::{HEADER, MULTIPLEXED, RAW, Stream, parse_header};
use gantry_transport::Hijacked;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::daemon::broken;
use crate::failure::{Failure, Result};
use crate::printer::Output;
use crate::terminal::DetachKeys;

const CHUNK: usize = 32 * 1024;

/// Why the streams ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The container's output did.
    Output,
    /// The person typed the detach keys.
    Detached,
}

/// What to connect to a hijacked stream.
pub struct Wiring {
    /// The container has a terminal: its bytes are not framed.
    pub tty: bool,
    /// Send standard input.
    pub stdin: bool,
    /// Show output.
    pub output: bool,
    /// The keys to leave by, when a person types.
    pub detach: Option<DetachKeys>,
}

/// Takes frames apart, whatever pieces they come in.
#[derive(Default)]
pub struct Frames {
    buffer: BytesMut,
    rest: Option<(Stream, usize)>,
}

impl Frames {
    /// What is complete, or a part of a long frame that is here already.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<(Stream, BytesMut)>> {
        self.buffer.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        loop {
            if let Some((stream, left)) = self.rest {
                let count = left.min(self.buffer.len());
                if count == 0 {
                    return Ok(pieces);
                }
                pieces.push((stream, self.buffer.split_to(count)));
                self.rest = (left > count).then_some((stream, left - count));
                continue;
            }
            let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(pieces) };
            let Some((stream, length)) = parse_header(*header) else {
                return Err(Failure::new(format!("unrecognized stream: {}", header[0])));
            };
            self.buffer.advance(HEADER);
            self.rest = (length > 0).then_some((stream, length as usize));
        }
    }

    /// Writes what is complete of it.
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        for (stream, piece) in self.push(bytes)? {
            write(stream, &piece).await?;
        }
        Ok(())
    }
}

async fn write(stream: Stream, bytes: &[u8]) -> Result<()> {
    match stream {
        Stream::Stdin | Stream::Stdout => Ok(Output::Out.stream(bytes).await?),
        Stream::Stderr => Ok(Output::Err.stream(bytes).await?),
        Stream::SystemError => {
            Err(Failure::new(format!("error from daemon in stream: {}", String::from_utf8_lossy(bytes))))
        }
    }
}

/// Whether the answer's head says that the stream is framed; `None` when an old daemon says nothing.
pub fn is_framed(headers: &HeaderMap) -> Option<bool> {
    match headers.get(http::header::CONTENT_TYPE)?.to_str().ok()? {
        MULTIPLEXED => Some(true),
        RAW => Some(false),
        _ => None,
    }
}

/// Shows a body that is a container's output: logs.
pub async fn show(mut body: Incoming, framed: bool) -> Result<()> {
    let mut frames = Frames::default();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
        if framed {
            frames.feed(&bytes).await?;
        } else {
            Output::Out.stream(&bytes).await?;
        }
    }
    Ok(())
}

/// Connects a container's streams with ours until its output ends or the person leaves.
pub async fn connect(stream: Hijacked, wiring: Wiring) -> Result<Ended> {
    let (reader, writer) = stream.into_split();
    let Wiring { tty, stdin, output, detach } = wiring;
    let mut out = std::pin::pin!(show_stream(reader, !tty, output));
    if !stdin {
        // Our write half stays open: some daemons take its end for ours.
        let ended = out.await.map(|()| Ended::Output);
        drop(writer);
        return ended;
    }
    let mut input = std::pin::pin!(send_input(writer, detach));
    let mut writer = None;
    loop {
        tokio::select! {
            ended = &mut out => return ended.map(|()| Ended::Output),
            sent = &mut input, if writer.is_none() => match sent {
                (_, true) => return Ok(Ended::Detached),
                (half, false) => writer = Some(half),
            },
        }
    }
}

async fn show_stream(mut reader: Box<dyn AsyncRead + Send + Unpin>, framed: bool, output: bool) -> Result<()> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            // The container is gone, and the daemon closed without waiting for what we still had to send.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !output {
            continue;
        }
        if framed {
            frames.feed(&buffer[..count]).await?;
        } else {
            Output::Out.stream(&buffer[..count]).await?;
        }
    }
}

type Half = Box<dyn AsyncWrite + Send + Unpin>;

/// Sends our input to its end and closes the write half; true when the person typed the detach keys instead. What goes
/// wrong here is not told: the container has closed its input, and its output and status say the rest.
async fn send_input(mut writer: Half, mut detach: Option<DetachKeys>) -> (Half, bool) {
    let mut input = read_stdin();
    while let Some(bytes) = input.recv().await {
        let (bytes, left) = match &mut detach {
            Some(keys) => keys.filter(&bytes),
            None => (bytes, false),
        };
        if !bytes.is_empty() && writer.write_all(&bytes).await.is_err() {
            return (writer, false);
        }
        if left {
            return (writer, true);
        }
    }
    drop(writer.shutdown().await);
    (writer, false)
}

/// Standard input, read by a thread that ends with the process.
pub fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(2);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let stdin = rustix::stdio::stdin();
                    let mut fds = [rustix::event::PollFd::new(&stdin, rustix::event::PollFlags::IN)];
                    if rustix::event::poll(&mut fds, None).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use gantry_api::stream::header;

    use super::*;

    fn frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (stream, text) in
            [(Stream::Stdout, "one"), (Stream::Stderr, "two"), (Stream::Stdout, ""), (Stream::Stdout, "3")]
        {
            bytes.extend_from_slice(&header(stream, u32::try_from(text.len()).unwrap()));
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    #[test]
    fn frames_come_apart_whatever_pieces_they_come_in() {
        let bytes = frames();
        for size in 1..=bytes.len() {
            let mut frames = Frames::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(size) {
                for (stream, piece) in frames.push(piece).unwrap() {
                    if stream == Stream::Stderr { &mut err } else { &mut out }.extend_from_slice(&piece);
                }
            }
            assert_eq!((out.as_slice(), err.as_slice()), (b"one3".as_slice(), b"two".as_slice()), "{size}");
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let error = Frames::default().push(b"hello world").unwrap_err();
        assert_eq!(error.message, "unrecognized stream: 104");
    }

    #[test]
    fn the_content_type_says_whether_there_are_frames() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(http::header::CONTENT_TYPE, http::HeaderValue::from_static(value))])
        };
        assert_eq!(is_framed(&headers(MULTIPLEXED)), Some(true));
        assert_eq!(is_framed(&headers(RAW)), Some(false));
        assert_eq!(is_framed(&HeaderMap::new()), None);
    }
}
