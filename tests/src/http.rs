//! HTTP by hand, so that a test sees the bytes that the daemon sends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header names are lower-case.
    pub headers: Vec<(String, String)>,
    /// The body with its transfer coding undone.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics when it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}: {}", self.status, self.text()))
    }

    /// The `message` of an error body.
    #[track_caller]
    #[must_use]
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_else(|| panic!("no message in {}", self.text())).to_owned()
    }
}

/// Sends one request on a connection of its own and reads the whole answer.
pub fn unix(socket: &Path, method: &str, path: &str, body: Option<&[u8]>) -> Result<Response> {
    let headers: &[(&str, &str)] = if body.is_some() { &[("Content-Type", "application/json")] } else { &[] };
    unix_with(socket, method, path, headers, body)
}

/// As [`unix`], with further headers.
pub fn unix_with(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<Response> {
    let mut stream = connect(socket)?;
    send(&mut stream, method, path, headers, body)?;
    receive(&mut BufReader::new(stream), method)
}

/// Opens the daemon's socket; reads give up after half a minute.
pub fn connect(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Writes a request.
pub fn send(
    stream: &mut impl Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<()> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: gantry\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        text.push_str("Connection: close\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body.unwrap_or_default());
    stream.write_all(&bytes).context("send a request")
}

/// Reads status line and headers.
pub fn head(reader: &mut impl BufRead) -> Result<Response> {
    let mut line = String::new();
    reader.read_line(&mut line).context("read the status line")?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let Some(status) = status else { bail!("not an HTTP answer: {line:?}") };
    let mut headers = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).context("read a header")? == 0 || line.trim().is_empty() {
            return Ok(Response { status, headers, body: Vec::new() });
        }
        if let Some((name, value)) = line.trim_end().split_once(':') {
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }
}

/// Reads a whole answer.
pub fn receive(reader: &mut impl BufRead, method: &str) -> Result<Response> {
    let mut response = head(reader)?;
    if method == "HEAD" || response.status == 204 || response.status == 304 || response.status == 101 {
        return Ok(response);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        while let Some(chunk) = chunk(reader)? {
            response.body.extend_from_slice(&chunk);
        }
    } else if let Some(length) = response.header("content-length").and_then(|text| text.parse().ok()) {
        response.body = vec![0; length];
        reader.read_exact(&mut response.body).context("read the body")?;
    } else {
        reader.read_to_end(&mut response.body).context("read the body")?;
    }
    Ok(response)
}

/// Reads one chunk of a chunked body; `None` after the last.
pub fn chunk(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = String::new();
    reader.read_line(&mut line).context("read a chunk's size")?;
    let size = usize::from_str_radix(line.trim(), 16).with_context(|| format!("bad chunk size {line:?}"))?;
    let mut data = vec![0; size + 2];
    reader.read_exact(&mut data).context("read a chunk")?;
    data.truncate(size);
    Ok((size > 0).then_some(data))
}

/// Splits a multiplexed stream into `(stream number, bytes)`; what is left of a cut frame is dropped.
#[must_use]
pub fn frames(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while rest.len() >= 8 {
        let size = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        let Some(data) = rest.get(8..8 + size) else { break };
        frames.push((rest[0], data.to_vec()));
        rest = &rest[8 + size..];
    }
    frames
}

/// Fetches `/` over TCP, as a visitor of a published port does.
pub fn fetch(address: &str, port: u16) -> Result<String> {
    let address: std::net::IpAddr = address.parse().with_context(|| format!("bad address {address}"))?;
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(2))
        .with_context(|| format!("connect to {address}:{port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the page")?;
    Ok(answer)
}
