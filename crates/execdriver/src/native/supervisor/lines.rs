//! Output as Docker's json-file format has it: split into lines, each an object with its stream and its time.

use std::time::SystemTime;

/// A line is cut after this many bytes; what follows is a further entry.
const LONGEST: usize = 16 * 1024;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// One stream's output on its way to lines.
#[derive(Debug)]
pub struct Lines {
    stream: &'static str,
    partial: Vec<u8>,
    /// All parts of a long line bear the time of its first.
    long_since: Option<SystemTime>,
}

impl Lines {
    /// For `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self { stream, partial: Vec::new(), long_since: None }
    }

    /// Takes output in, and gives each complete entry to `entry`.
    pub fn push(&mut self, mut data: &[u8], now: SystemTime, mut entry: impl FnMut(&[u8])) {
        while !data.is_empty() {
            let room = LONGEST - self.partial.len();
            let window = &data[..data.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                let time = self.long_since.take().unwrap_or(now);
                self.emit(&data[..=end], time, &mut entry);
                data = &data[end + 1..];
            } else if window.len() == room {
                let cut = self.cut(window);
                let time = *self.long_since.get_or_insert(now);
                self.emit(&data[..cut], time, &mut entry);
                data = &data[cut..];
            } else {
                self.partial.extend_from_slice(window);
                data = &[];
            }
        }
    }

    /// Gives what is left when the stream has ended: an entry without a newline.
    pub fn finish(&mut self, now: SystemTime, mut entry: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            let time = self.long_since.take().unwrap_or(now);
            self.emit(&[], time, &mut entry);
        }
    }

    /// Where to cut a long line: not within a character, if it is one.
    fn cut(&self, window: &[u8]) -> usize {
        for back in 1..=3.min(window.len().saturating_sub(1)) {
            let byte = window[window.len() - back];
            if byte & 0xc0 == 0x80 {
                continue;
            }
            let length = match byte {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                _ => 1,
            };
            return if length > back { window.len() - back } else { window.len() };
        }
        window.len()
    }

    fn emit(&mut self, rest: &[u8], time: SystemTime, entry: &mut impl FnMut(&[u8])) {
        let mut line = Vec::with_capacity(self.partial.len() + rest.len() + 96);
        line.extend_from_slice(b"{\"log\":\"");
        if self.partial.is_empty() {
            escape(rest, &mut line);
        } else {
            self.partial.extend_from_slice(rest);
            escape(&self.partial, &mut line);
            self.partial.clear();
        }
        line.extend_from_slice(b"\",\"stream\":\"");
        line.extend_from_slice(self.stream.as_bytes());
        line.extend_from_slice(b"\",\"time\":\"");
        timestamp(time, &mut line);
        line.extend_from_slice(b"\"}\n");
        entry(&line);
    }
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        escape_valid(chunk.valid(), out);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_valid(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (index, byte) in bytes.iter().enumerate() {
        let plain = !matches!(byte, 0..=0x1f | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2);
        if plain || (*byte == 0xe2 && !matches!(bytes.get(index + 1..index + 3), Some([0x80, 0xa8 | 0xa9]))) {
            continue;
        }
        out.extend_from_slice(&bytes[copied..index]);
        copied = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            // U+2028 and U+2029 end a line in JavaScript.
            0xe2 => {
                out.extend_from_slice(if bytes[index + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                copied = index + 3;
            }
            byte => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// RFC 3339 in UTC with nanoseconds, trailing zeros left out, as Go prints it.
fn timestamp(time: SystemTime, out: &mut Vec<u8>) {
    use std::io::Write;
    // A clock outside of the calendar (before -9999 or after 9999) is shown as its beginning.
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{time}");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at() -> SystemTime {
        UNIX_EPOCH + Duration::new(1_764_035_457, 120_000_000)
    }

    fn logs(lines: &[Vec<u8>]) -> Vec<String> {
        let parse = |line: &Vec<u8>| -> serde_json::Value { serde_json::from_slice(line).unwrap() };
        lines.iter().map(|line| parse(line)["log"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn entries_are_byte_for_byte_dockers() {
        let mut out = Vec::new();
        let mut lines = Lines::new("stdout");
        lines.push(b"a \"b\" \\ <\x01\t\xff\xe2\x80\xa8\xc3\xa9>\r\n", at(), |line| out.extend_from_slice(line));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"a \\\"b\\\" \\\\ \\u003c\\u0001\\t\\ufffd\\u2028é\\u003e\\r\\n\",\"stream\":\"stdout\",\
             \"time\":\"2025-11-25T01:50:57.12Z\"}\n"
        );
    }

    #[test]
    fn long_lines_are_cut_at_16_kib_and_never_within_a_character() {
        let mut got = Vec::new();
        let mut lines = Lines::new("stderr");
        let text = format!("x{}\n", "é".repeat(20_000));
        for piece in text.as_bytes().chunks(1000) {
            lines.push(piece, at(), |line| got.push(line.to_vec()));
        }
        let logs = logs(&got);
        assert_eq!(logs.len(), 3);
        assert_eq!(logs[0].len(), LONGEST - 1);
        assert_eq!(logs.concat(), text);
    }

    #[test]
    fn the_last_line_needs_no_newline_and_gets_none() {
        let mut got = Vec::new();
        let mut lines = Lines::new("stdout");
        lines.push(b"one\ntwo", at(), |line| got.push(line.to_vec()));
        lines.finish(at(), |line| got.push(line.to_vec()));
        lines.finish(at(), |line| got.push(line.to_vec()));
        assert_eq!(logs(&got), ["one\n", "two"]);
    }
}
