//! One process, as `/proc` tells of it.

use gantry_linux::fs;

use crate::error::{Error, Result};

/// The kernel's clock ticks per second in `/proc/<pid>/stat`; fixed in its ABI.
const TICKS: i64 = 100;

/// More of a command line is not read: a process may say that it is of any length.
const COMMAND: usize = 128 << 10;

/// What is the same for all processes.
pub struct Host {
    /// When it started, in seconds since 1970.
    boot: i64,
    /// Seconds since 1970.
    now: i64,
    /// In KiB.
    memory: i64,
}

impl Host {
    /// Reads it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn read() -> Result<Self> {
        let number = |path: &str, key: &str| -> Result<i64> {
            let text = fs::read_to_string(path)?;
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
            value.ok_or_else(|| Error::system(format!("read {path}: it has no {}", key.trim())))
        };
        Ok(Self {
            boot: number("/proc/stat", "btime ")?,
            now: jiff::Timestamp::now().as_second(),
            memory: number("/proc/meminfo", "MemTotal:")?,
        })
    }
}

/// A process.
pub struct Process {
    /// The fields of `/proc/<pid>/stat` after the name; the first of them is the third of all.
    fields: Vec<String>,
    /// The lines of `/proc/<pid>/status`.
    status: Vec<(String, String)>,
    /// Its host pid.
    pub pid: i32,
    /// What the kernel calls it.
    pub name: String,
    command: String,
}

impl Process {
    /// Reads it; `None` when it has ended meanwhile.
    pub fn read(pid: i32) -> Option<Self> {
        // A process's name and words are its own: they need be no text.
        let read = |name: &str, most| {
            let data = fs::read_up_to(format!("/proc/{pid}/{name}"), most).ok()?;
            Some(String::from_utf8_lossy(&data).into_owned())
        };
        let (stat, status) = (read("stat", usize::MAX)?, read("status", usize::MAX)?);
        let command = read("cmdline", COMMAND)?;
        let (head, rest) = stat.rsplit_once(')')?;
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        Some(Self {
            fields: rest.split_whitespace().map(str::to_owned).collect(),
            status: lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect(),
            pid,
            name: shown(head.split_once('(')?.1),
            command: shown(&command.trim_end_matches('\0').replace('\0', " ")),
        })
    }

    /// A field of proc_pid_stat(5) by its number there.
    pub fn stat(&self, number: usize) -> i64 {
        self.fields.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Its command line, or its name where it has none.
    pub fn command(&self) -> String {
        if self.command.is_empty() { format!("[{}]", self.name) } else { self.command.clone() }
    }

    /// A field of its status; the word at `place` of it.
    pub fn status(&self, key: &str, place: usize) -> &str {
        let line = self.status.iter().find(|(name, _)| name == key);
        line.and_then(|(_, value)| value.split_whitespace().nth(place)).unwrap_or_default()
    }

    /// Its state, by `ps`'s letters.
    pub fn state(&self, long: bool) -> String {
        let mut state = self.fields.first().cloned().unwrap_or_default();
        if long {
            let nice = self.stat(19);
            let marks = [
                ("<", nice < 0),
                ("N", nice > 0),
                ("L", !matches!(self.status("VmLck", 0), "" | "0")),
                ("s", self.stat(6) == i64::from(self.pid)),
                ("l", self.stat(20) > 1),
                ("+", self.stat(8) == self.stat(5)),
            ];
            state.extend(marks.iter().filter(|(_, on)| *on).map(|(mark, _)| *mark));
        }
        state
    }

    /// A user or group by number, as the host has no names for a container's; root is the same everywhere.
    pub fn owner(&self, key: &str, place: usize) -> String {
        match self.status(key, place) {
            "0" => "root".to_owned(),
            number => number.to_owned(),
        }
    }

    /// `?` where there is none.
    pub fn terminal(&self) -> String {
        match self.stat(7) {
            0 => "?".to_owned(),
            device => format!("pts/{}", device & 0xff | device >> 12 & 0xfff00),
        }
    }

    /// Seconds of processor time.
    pub fn seconds(&self) -> i64 {
        (self.stat(14) + self.stat(15)) / TICKS
    }

    fn started(&self, host: &Host) -> i64 {
        host.boot + self.stat(22) / TICKS
    }

    /// Seconds since its start.
    pub fn elapsed(&self, host: &Host) -> i64 {
        (host.now - self.started(host)).max(0)
    }

    /// When it was started.
    pub fn start(&self, host: &Host, format: &str) -> String {
        let moment = jiff::Timestamp::from_second(self.started(host)).unwrap_or_default();
        moment.strftime(format).to_string()
    }

    /// The time of day, or the day where that was another one.
    pub fn start_or_day(&self, host: &Host) -> String {
        self.start(host, if self.elapsed(host) < 24 * 3600 { "%H:%M" } else { "%b%d" })
    }

    /// Processor time for each second of its life, in tenths of a percent.
    pub fn processor(&self, host: &Host) -> String {
        let life = self.elapsed(host).max(1);
        tenths((self.stat(14) + self.stat(15)) * 1000 / TICKS / life)
    }

    /// Resident memory, KiB.
    pub fn resident(&self) -> i64 {
        self.status("VmRSS", 0).parse().unwrap_or_default()
    }

    /// Of the host's.
    pub fn share(&self, host: &Host) -> String {
        tenths(self.resident() * 1000 / host.memory.max(1))
    }
}

/// As one line of a terminal, as `ps` shows it.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn tenths(number: i64) -> String {
    format!("{}.{}", number / 10, number % 10)
}
