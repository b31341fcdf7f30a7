//! The framing of attached streams: eight bytes (stream, three zeros, big-endian length) before each piece of output.

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain words")]
pub enum Stream {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// An error of the daemon, as text.
    SystemError = 3,
}

/// Length of a frame's header.
pub const HEADER: usize = 8;

/// Content type of a multiplexed stream, since API 1.42.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Content type of a raw stream.
pub const RAW: &str = "application/vnd.docker.raw-stream";

/// The header of a frame of `length` bytes.
#[must_use]
pub const fn header(stream: Stream, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Reads a header; `None` when the stream's number is unknown.
#[must_use]
pub fn parse_header(header: [u8; HEADER]) -> Option<(Stream, u32)> {
    let stream = match header[0] {
        0 => Stream::Stdin,
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::SystemError,
        _ => return None,
    };
    Some((stream, u32::from_be_bytes([header[4], header[5], header[6], header[7]])))
}
