//! The audit log: one JSON line per job that changes something, or that was not allowed to.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::error;

use crate::error::{Error, Result};
use crate::job::{Caller, Environment};

/// An open audit log.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    file: Mutex<std::fs::File>,
}

impl Audit {
    /// Opens it for appending; nobody else reads it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(open(path)?) })
    }

    /// Opens it anew, after somebody has moved the file away.
    ///
    /// # Errors
    /// When it cannot be opened; the old file stays in use.
    pub fn reopen(&self) -> Result<()> {
        let new = open(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    fn write(&self, line: &Value) {
        let mut text = line.to_string();
        text.push('\n');
        // One write: lines of several daemons do not mix.
        let written = self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
        if let Err(error) = written {
            error!("write the audit log {}: {error}: {}", self.path.display(), text.trim_end());
        }
    }
}

fn open(path: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let options = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).clone();
    gantry_linux::fs::open_with(path, &options).map_err(|error| Error::from(error).context("open the audit log"))
}

/// A line in the making. One that is dropped tells that its caller went away.
pub struct Entry<'a> {
    audit: Option<&'a Audit>,
    job: &'static str,
    object: String,
    environment: Environment,
    began: Instant,
}

impl<'a> Entry<'a> {
    /// Of a job that begins now; without a log it says nothing.
    pub fn begin(audit: Option<&'a Audit>, job: &'static str, object: &str, environment: &Environment) -> Self {
        let (object, environment) = match audit {
            Some(_) => (object.to_owned(), environment.clone()),
            None => (String::new(), Environment::default()),
        };
        Self { audit, job, object, environment, began: Instant::now() }
    }

    /// It ended so.
    pub fn end(mut self, outcome: &str, error: Option<&str>) {
        self.tell(outcome, error);
        self.audit = None;
    }

    fn tell(&self, outcome: &str, error: Option<&str>) {
        let Some(audit) = self.audit else { return };
        let Environment { caller, door, parent, .. } = &self.environment;
        let peer = match caller {
            Caller::Daemon => json!("daemon"),
            Caller::Process { uid, gid, pid } => json!({ "uid": uid, "gid": gid, "pid": pid }),
            Caller::Remote { address, subject } => {
                json!({ "address": address.to_string(), "subject": subject.as_deref() })
            }
        };
        let mut line = json!({
            "time": Timestamp::now().to_string(),
            "peer": peer,
            "socket": door.as_ref().map(|door| door.name()),
            "job": self.job,
            "object": self.object,
            "outcome": outcome,
            "duration_ms": (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        });
        if let Some(parent) = parent {
            line["parent"] = json!(parent);
        }
        if let Some(error) = error {
            line["error"] = json!(error);
        }
        audit.write(&line);
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.tell("cancelled", None);
    }
}
