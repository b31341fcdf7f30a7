//! Jobs as `GET /jobs` and `gantry jobs` show them.

use serde::{Deserialize, Serialize};

/// A job that runs, or one of the last that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobSummary {
    /// Counts up from 1 for each daemon.
    #[serde(rename = "ID")]
    pub id: u64,
    /// The job that started it.
    #[serde(rename = "ParentID", skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// `create`, `pull` …
    pub name: String,
    /// Its arguments, as a person would write them.
    pub arguments: String,
    /// Who asked: `uid=0 pid=123`, an address, or `daemon`.
    pub caller: String,
    /// `running`, `done`, `failed`, `cancelled`.
    pub status: String,
    /// Whether `DELETE /jobs/{id}` ends it.
    pub cancellable: bool,
    /// RFC 3339.
    pub started_at: String,
    /// Milliseconds so far, or in all.
    pub duration_ms: f64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A job that the daemon knows: the table of handlers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobHandler {
    /// Its name.
    pub name: String,
    /// One line of what it does.
    pub doc: String,
    /// Whether it can be cancelled.
    pub cancellable: bool,
}
