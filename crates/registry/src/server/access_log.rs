//! The access log: a line of JSON for each request, to the standard output or to a file that is rotated by its size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;

use gantry_linux::fs;
use gantry_transport::Peer;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::Size;
use super::{Exchange, Observer};

/// Lines that wait for the disk. Beyond it they are counted and left out: a slow disk slows no request.
const QUEUE: usize = 4096;
/// The smallest file before it is rotated.
const LEAST: u64 = 4096;

/// The section `access-log` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogSettings {
    /// The file; `-` is the standard output, nothing is no log.
    pub file: Option<PathBuf>,
    /// How large a file grows before it becomes `file.1`.
    pub size: Size,
    /// How many such files are kept.
    pub keep: u32,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { file: None, size: Size(100 << 20), keep: 5 }
    }
}

/// Writes the log in a thread of its own.
pub struct AccessLog {
    queue: Option<SyncSender<Order>>,
    lost: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Order {
    Line(Vec<u8>),
    /// Somebody moved the file away.
    Reopen,
}

/// A line. Times are RFC 3339, durations microseconds.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    id: &'a str,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    route: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    status: u16,
    received: u64,
    sent: u64,
    whole: bool,
    took_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
}

impl AccessLog {
    /// Opens the log; none when the settings name no file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(settings: &LogSettings) -> Result<Option<Self>, gantry_linux::Error> {
        let Some(path) = &settings.file else { return Ok(None) };
        let sink = if path == Path::new("-") { Sink::Output } else { Sink::File(Rotated::open(path, settings)?) };
        let (queue, orders) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(sink, &orders));
        let thread =
            thread.map_err(|error| gantry_linux::Error::new("start the thread of", path.to_string_lossy(), error))?;
        Ok(Some(Self { queue: Some(queue), lost: AtomicU64::new(0), thread: Mutex::new(Some(thread)) }))
    }

    /// Opens the file anew by its name.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            // A full queue is written to the file that is open; the next signal asks again.
            let _ = queue.try_send(Order::Reopen);
        }
    }

    /// Lines that were left out because the disk was too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Observer for AccessLog {
    fn ended(&self, exchange: &Exchange) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(Order::Line(line(exchange, Timestamp::now()))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // The thread ends when the queue does; what is in it is written first.
        self.queue = None;
        let thread = self.thread.get_mut().ok().and_then(Option::take);
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the access log's thread panicked: its last lines may be missing");
        }
    }
}

fn line(exchange: &Exchange, now: Timestamp) -> Vec<u8> {
    let peer = match &exchange.peer {
        Peer::Remote { address, .. } => address.to_string(),
        Peer::Process { uid, .. } => format!("uid {uid}"),
    };
    let repository = exchange.route.as_ref().and_then(|route| route.repository());
    let line = Line {
        time: format!("{now:.6}"),
        id: &exchange.id,
        peer,
        user: exchange.user.as_deref(),
        method: exchange.method.as_str(),
        path: &exchange.target,
        route: exchange.route.as_ref().map_or("none", |route| route.label()),
        repository: repository.map(super::Name::as_str),
        status: exchange.status.as_u16(),
        received: exchange.received,
        sent: exchange.sent,
        whole: exchange.whole,
        took_us: u64::try_from(exchange.took.as_micros()).unwrap_or(u64::MAX),
        agent: exchange.agent.as_deref(),
    };
    let mut text = serde_json::to_vec(&line).expect("plain fields are JSON");
    text.push(b'\n');
    text
}

enum Sink {
    Output,
    File(Rotated),
}

/// A file, and those that it was before.
struct Rotated {
    path: PathBuf,
    file: File,
    size: u64,
    most: u64,
    keep: u32,
}

impl Rotated {
    fn open(path: &Path, settings: &LogSettings) -> Result<Self, gantry_linux::Error> {
        let (file, size) = append(path)?;
        Ok(Self { path: path.to_owned(), file, size, most: settings.size.0.max(LEAST), keep: settings.keep })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.most {
            self.rotate().map_err(io::Error::other)?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), gantry_linux::Error> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let missing = |result: Result<(), gantry_linux::Error>| match result {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        };
        if self.keep == 0 {
            missing(fs::remove_file(&self.path))?;
        }
        for number in (1..self.keep).rev() {
            missing(fs::rename(numbered(number), numbered(number + 1)))?;
        }
        if self.keep > 0 {
            missing(fs::rename(&self.path, numbered(1)))?;
        }
        self.reopen()
    }

    fn reopen(&mut self) -> Result<(), gantry_linux::Error> {
        (self.file, self.size) = append(&self.path)?;
        Ok(())
    }
}

fn append(path: &Path) -> Result<(File, u64), gantry_linux::Error> {
    // Names of people and of what they pull are not for everybody.
    let file = fs::open_with(path, OpenOptions::new().create(true).append(true).mode(0o640))?;
    let size = fs::metadata(path)?.len();
    Ok((file, size))
}

fn write(mut sink: Sink, orders: &Receiver<Order>) {
    let mut failed = false;
    for order in orders {
        let done = match (&mut sink, order) {
            (Sink::Output, Order::Line(line)) => io::stdout().lock().write_all(&line),
            (Sink::Output, Order::Reopen) => Ok(()),
            (Sink::File(file), Order::Line(line)) => file.write(&line),
            (Sink::File(file), Order::Reopen) => file.reopen().map_err(io::Error::other),
        };
        // Said once, not for each line.
        match done {
            Err(error) if !failed => {
                tracing::error!("write the access log: {error}");
                failed = true;
            }
            Ok(()) => failed = false,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use http::{Method, StatusCode};

    fn exchange(target: &str) -> Exchange {
        Exchange {
            id: "0123456789abcdef".to_owned(),
            peer: Peer::Remote { address: "192.0.2.1:7".parse().unwrap(), subject: None },
            user: Some("al\"ice\n".to_owned()),
            method: Method::GET,
            target: target.to_owned(),
            route: super::super::Route::parse(target).ok(),
            status: StatusCode::OK,
            received: 1,
            sent: 2,
            whole: true,
            took: Duration::from_micros(1500),
            agent: None,
        }
    }

    #[test]
    fn a_request_is_one_line_of_json_whatever_is_in_its_names() {
        let text = line(&exchange("/v2/team/app/manifests/latest"), Timestamp::UNIX_EPOCH);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "time": "1970-01-01T00:00:00.000000Z", "id": "0123456789abcdef", "peer": "192.0.2.1:7",
                "user": "al\"ice\n", "method": "GET", "path": "/v2/team/app/manifests/latest", "route": "manifest",
                "repository": "team/app", "status": 200, "received": 1, "sent": 2, "whole": true, "took_us": 1500,
            })
        );
    }

    #[test]
    fn a_file_is_rotated_by_its_size_and_loses_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let settings = LogSettings { file: Some(file.clone()), size: Size(LEAST), keep: 2 };
        let log = AccessLog::open(&settings).unwrap().unwrap();
        for number in 0..40 {
            log.ended(&exchange(&format!("/v2/a/manifests/{number:03}")));
        }
        drop(log);
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
        let all = [read("log.2"), read("log.1"), read("log")].concat();
        let numbers: Vec<&str> = all.lines().filter_map(|line| line.split("manifests/").nth(1)?.get(..3)).collect();
        // Two old files and the new one hold the last lines, in order and without a gap.
        assert!(numbers.len() > 20 && numbers.last() == Some(&"039"), "{numbers:?}");
        assert!(numbers.windows(2).all(|pair| pair[0].parse::<u32>().unwrap() + 1 == pair[1].parse::<u32>().unwrap()));
        assert!(!directory.path().join("log.3").exists());
        assert!(read("log").len() as u64 <= LEAST);
    }

    #[test]
    fn after_a_reopen_the_file_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let log =
            AccessLog::open(&LogSettings { file: Some(file.clone()), ..LogSettings::default() }).unwrap().unwrap();
        fs::rename(&file, directory.path().join("moved")).unwrap();
        log.reopen();
        log.ended(&exchange("/v2/"));
        drop(log);
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
    }

    #[test]
    fn no_file_is_no_log() {
        assert!(AccessLog::open(&LogSettings::default()).unwrap().is_none());
    }
}
