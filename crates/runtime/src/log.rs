//! Errors and warnings where an engine looks for them: a log file or standard error, as runc's logger writes them.
#![allow(clippy::print_stderr, reason = "the one place that tells of errors")]

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// Where lines go.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<std::fs::File>,
    format: Format,
    debug: bool,
}

impl Log {
    /// To the end of a file, which is made when missing, or to standard error.
    pub fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).mode(0o644);
        let file = path.map(|path| gantry_linux::fs::open_with(path, &options)).transpose()?;
        Ok(Self { file, format, debug })
    }

    /// What ends the command. It is on standard error too when the log is a file: that is what people see.
    pub fn error(&self, message: &str) {
        self.line("error", message);
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }

    /// What was left out.
    pub fn warning(&self, message: &str) {
        self.line("warning", message);
    }

    /// Only with `--debug`.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            self.line("debug", &message());
        }
    }

    fn line(&self, level: &str, message: &str) {
        let time = rfc3339(SystemTime::now());
        let line = match self.format {
            Format::Json => format!("{{\"level\":\"{level}\",\"msg\":{},\"time\":\"{time}\"}}\n", quoted(message)),
            Format::Text if self.file.is_none() && std::io::stderr().is_terminal() => format!("{level}: {message}\n"),
            Format::Text => format!("time=\"{time}\" level={level} msg={}\n", quoted(message)),
        };
        // One write, so that lines of several processes stay whole. There is nobody to tell when it fails.
        let _ = match &self.file {
            Some(file) => (&mut &*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(Error::Usage(format!("invalid log-format: {other}"))),
        }
    }
}

/// A moment as `2026-11-25T04:58:00Z`.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86400, seconds % 86400);
    // Days since 1 March of the year 0, in eras of 400 years: leap days are last in each year, century and era.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_right_on_leap_days_and_at_ends_of_years() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_log_file_gets_one_json_object_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(Some(&path), Format::Json, false).unwrap();
        log.warning("first \"line\"\nof two");
        log.debug(|| "not seen".into());
        let text = gantry_linux::fs::read_to_string(&path).unwrap();
        let value: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(value["msg"], "first \"line\"\nof two");
        assert_eq!(value["level"], "warning");
    }
}
