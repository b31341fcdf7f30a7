//! A container's life: each state with its data.

use gantry_api::inspect::ContainerState;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Never ran; perhaps because its start failed.
    Created {
        /// How the start failed.
        failure: Option<StartFailure>,
    },
    /// Its first process runs.
    Running(Run),
    /// It is frozen.
    Paused(Run),
    /// It ended and will be started again after a delay.
    Restarting(Ended),
    /// It ended.
    Exited(Ended),
    /// It is being removed.
    Removing(Ended),
    /// Removing it failed; it can only be removed again.
    Dead(Ended),
}

/// A failed start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// 127, 126, 128.
    pub code: i32,
    /// What went wrong.
    pub message: String,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Host pid of its first process.
    pub pid: i32,
    /// When it started.
    pub started_at: Timestamp,
}

/// An ended run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When it had started; `None` if it never ran.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code.
    pub code: i32,
    /// The kernel's OOM killer struck.
    pub oom_killed: bool,
    /// Why the last start failed.
    pub error: String,
}

/// What Docker shows where there is no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl State {
    /// Docker's word for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Restarting(_) => "restarting",
            Self::Exited(_) => "exited",
            Self::Removing(_) => "removing",
            Self::Dead(_) => "dead",
        }
    }

    /// Whether there are processes.
    #[must_use]
    pub const fn has_processes(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Paused(_))
    }

    /// Whether it runs, is paused, or is about to run again.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Paused(_) | Self::Restarting(_))
    }

    /// The run, while there is one.
    #[must_use]
    pub const fn current_run(&self) -> Option<&Run> {
        match self {
            Self::Running(run) | Self::Paused(run) => Some(run),
            _ => None,
        }
    }

    const fn ended(&self) -> Option<&Ended> {
        match self {
            Self::Restarting(ended) | Self::Exited(ended) | Self::Removing(ended) | Self::Dead(ended) => Some(ended),
            _ => None,
        }
    }

    /// The last exit code, 0 where there was none.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Created { failure: Some(failure) } => failure.code,
            other => other.ended().map_or(0, |ended| ended.code),
        }
    }

    /// What remains of it when it is removed.
    #[must_use]
    pub fn to_ended(&self) -> Ended {
        match self {
            Self::Created { failure } => Ended {
                code: self.exit_code(),
                error: failure.as_ref().map(|f| f.message.clone()).unwrap_or_default(),
                ..Ended::default()
            },
            Self::Running(run) | Self::Paused(run) => Ended { started_at: Some(run.started_at), ..Ended::default() },
            other => other.ended().cloned().unwrap_or_default(),
        }
    }

    /// As `inspect` shows it.
    #[must_use]
    pub fn to_api(&self) -> ContainerState {
        let ended = self.to_ended();
        let run = self.current_run();
        let time = |at: Option<Timestamp>| at.map_or_else(|| NEVER.to_owned(), format_time);
        ContainerState {
            status: self.name().into(),
            running: self.is_active(),
            paused: matches!(self, Self::Paused(_)),
            restarting: matches!(self, Self::Restarting(_)),
            oom_killed: ended.oom_killed,
            dead: matches!(self, Self::Dead(_)),
            pid: run.map_or(0, |run| run.pid),
            exit_code: ended.code,
            error: ended.error,
            started_at: time(ended.started_at),
            finished_at: time(ended.finished_at),
        }
    }

    /// The sentence of `docker ps`: `Up 2 minutes`, `Exited (0) 5 seconds ago`.
    #[must_use]
    pub fn sentence(&self, now: Timestamp) -> String {
        let since =
            |at: Option<Timestamp>| human_duration(at.map_or(0, |at| (now.as_second() - at.as_second()).max(0)));
        match self {
            Self::Created { .. } => "Created".into(),
            Self::Running(run) => format!("Up {}", since(Some(run.started_at))),
            Self::Paused(run) => format!("Up {} (Paused)", since(Some(run.started_at))),
            Self::Restarting(ended) => format!("Restarting ({}) {} ago", ended.code, since(ended.finished_at)),
            Self::Exited(ended) => format!("Exited ({}) {} ago", ended.code, since(ended.finished_at)),
            Self::Removing(_) => "Removal In Progress".into(),
            Self::Dead(_) => "Dead".into(),
        }
    }
}

/// RFC 3339 with nanoseconds, as Docker writes times.
#[must_use]
pub fn format_time(at: Timestamp) -> String {
    at.to_string()
}

/// Seconds in Docker's words.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_docker_writes_them() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3600 * 48, "2 days"),
            (3600 * 24 * 14, "2 weeks"),
            (3600 * 24 * 60, "2 months"),
            (3600 * 24 * 365 * 3, "3 years"),
        ] {
            assert_eq!(human_duration(seconds), words);
        }
    }

    #[test]
    fn a_failed_start_shows_its_code_and_reason_while_created() {
        let state = State::Created { failure: Some(StartFailure { code: 127, message: "no".into() }) }.to_api();
        assert_eq!((state.status.as_str(), state.exit_code, state.error.as_str()), ("created", 127, "no"));
        assert_eq!(state.started_at, NEVER);
    }
}
