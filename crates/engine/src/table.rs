//! The table of jobs: which run, and how the last ones ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Instant;

use gantry_api::jobs::JobSummary;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::job::{Class, Environment};

/// How many ended jobs are remembered.
const REMEMBERED: usize = 100;

/// All running jobs and the last ended ones.
#[derive(Debug, Default)]
pub struct JobTable(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    running: BTreeMap<u64, Entry>,
    ended: VecDeque<JobSummary>,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    class: Class,
    arguments: String,
    environment: Environment,
    started_at: Timestamp,
    started: Instant,
    cancelled: CancellationToken,
}

impl Entry {
    fn summary(&self, id: u64, status: &str, error: Option<String>) -> JobSummary {
        JobSummary {
            id,
            parent: self.environment.parent,
            name: self.name.into(),
            arguments: self.arguments.clone(),
            caller: self.environment.caller.to_string(),
            status: status.into(),
            cancellable: self.class.cancellable(),
            started_at: self.started_at.to_string(),
            duration_ms: self.started.elapsed().as_secs_f64() * 1e3,
            error,
        }
    }
}

/// A job's place in the table; leaving it unfinished records a cancellation.
pub struct Place<'a> {
    table: &'a JobTable,
    /// The job's number.
    pub id: u64,
    /// The job's cancellation.
    pub cancelled: CancellationToken,
    ended: bool,
}

impl JobTable {
    /// Enters a job.
    pub fn enter(&self, name: &'static str, class: Class, arguments: String, environment: &Environment) -> Place<'_> {
        let cancelled = CancellationToken::new();
        let entry = Entry {
            name,
            class,
            arguments,
            environment: environment.clone(),
            started_at: Timestamp::now(),
            started: Instant::now(),
            cancelled: cancelled.clone(),
        };
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.running.insert(id, entry);
        Place { table: self, id, cancelled, ended: false }
    }

    /// The running jobs, and with `all` the last ended ones before them; oldest first.
    pub fn list(&self, all: bool) -> Vec<JobSummary> {
        let inner = self.lock();
        let running = inner.running.iter().map(|(id, entry)| entry.summary(*id, "running", None));
        if all { inner.ended.iter().cloned().chain(running).collect() } else { running.collect() }
    }

    /// Asks a job to stop: `None` when there is no such job, `Some(false)` when it cannot be cancelled.
    pub fn cancel(&self, id: u64) -> Option<bool> {
        let inner = self.lock();
        let entry = inner.running.get(&id)?;
        if entry.class.cancellable() {
            entry.cancelled.cancel();
        }
        Some(entry.class.cancellable())
    }

    /// Asks every job to stop that can.
    pub fn cancel_all(&self) {
        self.lock().running.values().filter(|e| e.class.cancellable()).for_each(|e| e.cancelled.cancel());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Records the end; returns how long the job took.
    pub fn end(mut self, error: Option<String>) -> std::time::Duration {
        self.ended = true;
        let status = match &error {
            _ if self.cancelled.is_cancelled() => "cancelled",
            Some(_) => "failed",
            None => "done",
        };
        self.record(status, error)
    }

    fn record(&self, status: &str, error: Option<String>) -> std::time::Duration {
        let mut inner = self.table.lock();
        let Some(entry) = inner.running.remove(&self.id) else { return std::time::Duration::ZERO };
        // Reads come by the thousand and explain nothing afterwards, unless they failed.
        if entry.class != Class::Read || error.is_some() {
            if inner.ended.len() == REMEMBERED {
                inner.ended.pop_front();
            }
            let summary = entry.summary(self.id, status, error);
            inner.ended.push_back(summary);
        }
        entry.started.elapsed()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.record("cancelled", None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_listed_while_it_runs_and_remembered_when_it_ended() {
        let table = JobTable::default();
        let place = table.enter("pull", Class::Long, "debian".into(), &Environment::default());
        assert_eq!(table.list(false)[0].status, "running");
        assert_eq!(table.cancel(place.id), Some(true));
        assert!(place.cancelled.is_cancelled());
        place.end(Some("cancelled".into()));
        assert!(table.list(false).is_empty());
        assert_eq!(table.list(true)[0].status, "cancelled");
    }

    #[test]
    fn a_job_whose_caller_went_away_is_recorded_as_cancelled() {
        let table = JobTable::default();
        drop(table.enter("wait", Class::Stream, String::new(), &Environment::default()));
        assert_eq!(table.list(true)[0].status, "cancelled");
    }

    #[test]
    fn a_change_cannot_be_cancelled() {
        let table = JobTable::default();
        let place = table.enter("start", Class::Change, String::new(), &Environment::default());
        assert_eq!(table.cancel(place.id), Some(false));
        assert_eq!(table.cancel(place.id + 1), None);
    }
}
