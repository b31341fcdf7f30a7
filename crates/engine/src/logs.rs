//! Reading json-file logs: whole, from a time, the last lines, and following them across rotations.
//!
//! The supervisor writes; this only reads, by whole lines. Rotated files are `<path>.1` (the youngest) and up.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_api::stream::{Stream, header};
use gantry_linux::fs;
use jiff::Timestamp;
use serde::Deserialize;

use crate::error::{Error, Result};

/// Which lines are wanted, and how.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Up to this moment.
    pub until: Option<Timestamp>,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Frame the output; a terminal's is raw.
    pub framed: bool,
}

/// One line of a json-file log.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    stream: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    time: std::borrow::Cow<'a, str>,
}

impl Query {
    /// The bytes that a client gets for a line of the file, `None` where the line is not wanted.
    fn render(&self, line: &[u8]) -> Option<Vec<u8>> {
        // A line that is no JSON was not written by us; what cannot be read cannot be shown.
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let stream = match &*line.stream {
            "stdout" if self.stdout => Stream::Stdout,
            "stderr" if self.stderr => Stream::Stderr,
            _ => return None,
        };
        if self.since.is_some() || self.until.is_some() {
            let time: Timestamp = line.time.parse().ok()?;
            if self.since.is_some_and(|since| time < since) || self.until.is_some_and(|until| time > until) {
                return None;
            }
        }
        let prefix = if self.timestamps { format!("{} ", nine_digits(&line.time)) } else { String::new() };
        let mut out = Vec::with_capacity(8 + prefix.len() + line.log.len());
        if self.framed {
            let length = u32::try_from(prefix.len() + line.log.len()).ok()?;
            out.extend_from_slice(&header(stream, length));
        }
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(line.log.as_bytes());
        Some(out)
    }
}

/// The log has a time without the zeros at its end; in a column all are as long.
fn nine_digits(time: &str) -> String {
    let Some(time) = time.strip_suffix('Z') else { return time.to_owned() };
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

/// A place in a log.
pub struct Reader {
    path: PathBuf,
    query: Query,
    current: Option<BufReader<File>>,
    /// Files that are still to be read after it, oldest first; the one that is being written is the last.
    older: VecDeque<File>,
    /// The beginning of a line whose end was not written yet.
    partial: Vec<u8>,
}

/// Bytes that are gathered before they are sent.
const BATCH: usize = 64 << 10;

impl Reader {
    /// Opens a log where the query begins.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn open(path: PathBuf, query: Query) -> Result<Self> {
        let mut files: VecDeque<File> = rotated(&path)?.into();
        if let Some(current) = open_if_there(&path)? {
            files.push_back(current);
        }
        if let Some(count) = query.tail {
            seek_to_tail(&mut files, &query, count)?;
        }
        let current = files.pop_front().map(BufReader::new);
        Ok(Self { path, query, current, older: files, partial: Vec::new() })
    }

    /// The next batch; empty when everything that is written was read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn batch(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < BATCH {
            if self.current.is_none() {
                self.current = match self.older.pop_front() {
                    Some(oldest) => Some(BufReader::new(oldest)),
                    None => open_if_there(&self.path)?.map(BufReader::new),
                };
            }
            let Some(current) = self.current.as_mut() else { break };
            let before = self.partial.len();
            let read = current.read_until(b'\n', &mut self.partial).map_err(|e| self.failed(&e))?;
            if self.partial.ends_with(b"\n") {
                out.extend(self.query.render(&self.partial).unwrap_or_default());
                self.partial.clear();
            } else if (read == 0 || self.partial.len() == before) && !self.rotate()? {
                break;
            }
        }
        Ok(out)
    }

    /// At the end of the current file: goes on with the next one if the writer has. The writer never writes to a file
    /// after it has renamed it, so one more look after the rename was seen finds its last lines.
    fn rotate(&mut self) -> Result<bool> {
        if !self.older.is_empty() {
            self.current = None;
            return Ok(true);
        }
        let failed = |e: std::io::Error| Error::system(format!("read log {}: {e}", self.path.display()));
        let Some(current) = self.current.as_mut() else { return Ok(false) };
        let here = current.get_ref().metadata().map(|m| (m.dev(), m.ino())).map_err(failed)?;
        let Ok(there) = fs::metadata(&self.path) else { return Ok(false) };
        if here == (there.dev(), there.ino()) {
            return Ok(false);
        }
        if !current.fill_buf().map_err(failed)?.is_empty() {
            // Written between our last read and the rename.
            return Ok(true);
        }
        self.older = self.newer_than(here)?;
        self.current = None;
        Ok(true)
    }

    /// Files between the one that was read and the current one, when the writer rotated more than once.
    fn newer_than(&self, seen: (u64, u64)) -> Result<VecDeque<File>> {
        let mut files = rotated(&self.path)?;
        let position = files.iter().position(|f| f.metadata().is_ok_and(|m| (m.dev(), m.ino()) == seen));
        Ok(files.split_off(position.map_or(0, |at| at + 1)).into())
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::system(format!("read log {}: {error}", self.path.display()))
    }
}

fn open_if_there(path: &Path) -> Result<Option<File>> {
    match fs::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The rotated files, oldest first.
fn rotated(path: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for number in 1.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        match open_if_there(Path::new(&name))? {
            Some(file) => files.push(file),
            None => break,
        }
    }
    files.reverse();
    Ok(files)
}

/// Moves the files' positions so that only the last `count` wanted lines are left; drops older files.
fn seek_to_tail(files: &mut VecDeque<File>, query: &Query, count: usize) -> Result<()> {
    let system = |e: std::io::Error| Error::system(format!("read log: {e}"));
    let mut missing = count;
    for index in (0..files.len()).rev() {
        let file = &mut files[index];
        let length = file.metadata().map_err(system)?.len();
        if missing == 0 {
            file.seek(SeekFrom::Start(length)).map_err(system)?;
            continue;
        }
        let (start, found) = tail_of(file, length, query, missing).map_err(system)?;
        file.seek(SeekFrom::Start(start)).map_err(system)?;
        missing -= found;
    }
    Ok(())
}

/// Where the last `count` wanted lines of a file begin, and how many there are, reading backwards.
fn tail_of(file: &mut File, length: u64, query: &Query, count: usize) -> std::io::Result<(u64, usize)> {
    let mut end = length;
    let mut carry: Vec<u8> = Vec::new();
    let (mut found, mut start) = (0, length);
    while end > 0 {
        let size = end.min(BATCH as u64);
        file.seek(SeekFrom::Start(end - size))?;
        let mut block = vec![0; usize::try_from(size).unwrap_or(BATCH)];
        file.read_exact(&mut block)?;
        block.append(&mut carry);
        let base = end - size;
        let mut line_end = block.len();
        while let Some(newline) = block[..line_end.saturating_sub(1)].iter().rposition(|b| *b == b'\n') {
            if query.render(&block[newline + 1..line_end]).is_some() {
                found += 1;
                start = base + newline as u64 + 1;
                if found == count {
                    return Ok((start, found));
                }
            }
            line_end = newline + 1;
        }
        block.truncate(line_end);
        carry = block;
        end = base;
    }
    if !carry.is_empty() && query.render(&carry).is_some() {
        (found, start) = (found + 1, 0);
    }
    Ok((start, found))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make files")]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(number: usize) -> String {
        format!(
            "{{\"log\":\"line {number}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:{:02}Z\"}}\n",
            number % 60
        )
    }

    #[test]
    fn times_in_a_column_have_nine_digits() {
        for (time, shown) in [
            ("2026-01-01T00:00:00.21937917Z", "2026-01-01T00:00:00.219379170Z"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000000Z"),
            ("no time", "no time"),
        ] {
            assert_eq!(nine_digits(time), shown);
        }
    }

    fn all(reader: &mut Reader) -> String {
        let mut text = Vec::new();
        loop {
            let batch = reader.batch().unwrap();
            if batch.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            text.extend(batch);
        }
    }

    fn query() -> Query {
        Query { stdout: true, ..Query::default() }
    }

    fn expected(range: std::ops::Range<usize>) -> String {
        range.map(|n| format!("line {n}\n")).collect()
    }

    #[test]
    fn the_last_lines_are_found_across_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(dir.path().join("log.1"), (0..3000).map(line).collect::<String>()).unwrap();
        std::fs::write(&path, (3000..3010).map(line).collect::<String>()).unwrap();
        for (tail, from) in
            [(Some(5), 3005), (Some(10), 3000), (Some(12), 2998), (Some(2500), 510), (None, 0), (Some(9999), 0)]
        {
            let mut reader = Reader::open(path.clone(), Query { tail, ..query() }).unwrap();
            assert_eq!(all(&mut reader), expected(from..3010), "{tail:?}");
        }
        let mut reader = Reader::open(path, Query { tail: Some(0), ..query() }).unwrap();
        assert_eq!(all(&mut reader), "");
    }

    #[test]
    fn a_follower_loses_no_line_when_the_log_is_rotated_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotate = || {
            let _ = std::fs::rename(dir.path().join("log.1"), dir.path().join("log.2"));
            std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        };
        let mut file = File::create(&path).unwrap();
        file.write_all(line(0).as_bytes()).unwrap();
        let mut reader = Reader::open(path.clone(), query()).unwrap();
        assert_eq!(all(&mut reader), expected(0..1));
        file.write_all(line(1).as_bytes()).unwrap();
        rotate();
        std::fs::write(&path, line(2)).unwrap();
        rotate();
        std::fs::write(&path, line(3)).unwrap();
        assert_eq!(all(&mut reader), expected(1..4));
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (text, mut file) = (line(7), File::create(&path).unwrap());
        file.write_all(&text.as_bytes()[..20]).unwrap();
        let mut reader = Reader::open(path, query()).unwrap();
        assert_eq!(all(&mut reader), "");
        file.write_all(&text.as_bytes()[20..]).unwrap();
        assert_eq!(all(&mut reader), expected(7..8));
    }
}
