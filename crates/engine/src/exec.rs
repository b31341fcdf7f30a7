//! Execs: further processes in a running container.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use gantry_api::exec::{ExecConfig, ExecInspect, ExecProcess};
use gantry_execdriver::RunningExec;
use tokio::sync::watch;

/// One exec.
pub struct ExecInstance {
    /// 64 digits.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// What was asked for.
    pub config: ExecConfig,
    state: Mutex<ExecState>,
    ended: watch::Sender<bool>,
    ended_at: OnceLock<Instant>,
}

/// How long an ended exec can still be asked for its exit code.
const KEPT: Duration = Duration::from_secs(300);

/// What it is doing.
#[derive(Clone)]
pub enum ExecState {
    /// Made, not started.
    Created,
    /// Being started.
    Starting,
    /// Its process runs.
    Running(Arc<dyn RunningExec>),
    /// Its process ended, or never started.
    Ended {
        /// The exit code.
        code: i32,
    },
}

impl ExecInstance {
    /// A new one.
    #[must_use]
    pub fn new(id: String, container: String, config: ExecConfig) -> Self {
        Self {
            id,
            container,
            config,
            state: Mutex::new(ExecState::Created),
            ended: watch::Sender::new(false),
            ended_at: OnceLock::new(),
        }
    }

    /// Claims it for a start; false when it was started before.
    pub(crate) fn claim(&self) -> bool {
        let mut state = self.lock();
        let fresh = matches!(*state, ExecState::Created);
        if fresh {
            *state = ExecState::Starting;
        }
        fresh
    }

    pub(crate) fn started(&self, running: Arc<dyn RunningExec>) {
        let mut state = self.lock();
        // A short process may have ended before its start was noticed.
        if matches!(*state, ExecState::Starting) {
            *state = ExecState::Running(running);
        }
    }

    pub(crate) fn ended(&self, code: i32) {
        *self.lock() = ExecState::Ended { code };
        self.ended_at.get_or_init(Instant::now);
        self.ended.send_replace(true);
    }

    pub(crate) fn ended_long_ago(&self) -> bool {
        self.ended_at.get().is_some_and(|at| at.elapsed() > KEPT)
    }

    /// Becomes true when it has ended.
    pub fn end(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> ExecState {
        self.lock().clone()
    }

    /// As `GET /exec/{id}/json` shows it.
    #[must_use]
    pub fn inspect(&self) -> ExecInspect {
        let mut command = self.config.cmd.clone().unwrap_or_default().into_iter();
        let state = self.state();
        ExecInspect {
            id: self.id.clone(),
            running: matches!(state, ExecState::Running(_)),
            exit_code: match state {
                ExecState::Ended { code } => Some(code),
                _ => None,
            },
            process_config: ExecProcess {
                tty: self.config.tty,
                entrypoint: command.next().unwrap_or_default(),
                arguments: command.collect(),
                privileged: self.config.privileged,
                user: self.config.user.clone(),
            },
            open_stdin: self.config.attach_stdin,
            open_stderr: self.config.attach_stderr,
            open_stdout: self.config.attach_stdout,
            can_remove: matches!(state, ExecState::Ended { .. }),
            container_id: self.container.clone(),
            detach_keys: String::new(),
            pid: match state {
                ExecState::Running(running) => running.pid(),
                _ => 0,
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
