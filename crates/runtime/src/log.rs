//! Errors and warnings where an engine looks for them: a log file or standard error, as runc's logger writes them.
#![allow(clippy::print_stderr, reason = "the one place that tells of errors")]

use std::io::{IsTerminal, Write};
use std::path::Path;

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
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
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

#[cfg(test)]
mod tests {
    use super::*;

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
