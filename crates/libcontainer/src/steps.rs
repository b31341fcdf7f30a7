//! The named steps of a start. Each can be made to fail, so that tests see everything before it undone.

use std::sync::OnceLock;

use crate::error::{Error, Failure, Result};

/// The environment variable that names a step to fail at; read by programs, not by this library.
pub const VARIABLE: &str = "GANTRY_FAIL_AT";

/// Behind a step's name: the process ends there, as if it were killed.
const KILLED: &str = ":kill";
/// The exit code of a process that ended so.
const KILLED_CODE: i32 = 137;

/// What creating a container takes, in the process that creates it.
pub const CREATOR: &[&str] =
    &["state", "cgroup", "socket", "sources", "clone", "mappings", "join", "network devices", "record"];

/// What a first process goes through before it waits to be started, if it is made in stages.
pub const FIRST: &[&str] = &[
    "namespaces",
    "root",
    "mounts",
    "devices",
    "console",
    "masks",
    "hooks",
    "pivot",
    "hostname",
    "sysctls",
    "read-only root",
    "user",
    "working directory",
    "credentials",
    "program lookup",
    "start",
];

/// What every process goes through last: a first one when it is started, a further one at once.
pub const LAST: &[&str] = &["security profile", "process", "scheduling", "limits", "program"];

/// What a further process takes beside [`LAST`]: first in the process that asks for it, then in itself.
pub const FURTHER: &[&str] = &[
    "exec cgroup",
    "exec clone",
    "exec namespaces",
    "exec console",
    "exec user",
    "working directory",
    "credentials",
    "exec record",
];

/// What a supervisor does.
pub const SUPERVISOR: &[&str] = &["directory", "socket", "cgroup", "sources", "log", "streams", "clone"];

static FAIL_AT: OnceLock<String> = OnceLock::new();

/// Makes every later start of this process and of its children fail at the step of this name: failure injection for
/// tests, set once from [`VARIABLE`] by a program that starts containers. With `:kill` after the name the process that
/// comes to the step ends there, with nothing undone.
pub fn fail_at(step: &str) {
    // A second call is a caller's mistake that tests notice: the first name stays.
    let _ = FAIL_AT.set(step.to_owned());
}

/// The step that was named, for processes that are executed anew.
#[must_use]
pub fn injected() -> Option<&'static str> {
    FAIL_AT.get().map(String::as_str)
}

/// Whether there is such a step (with or without `:kill`).
#[must_use]
pub fn is_known(step: &str) -> bool {
    let name = step.strip_suffix(KILLED).unwrap_or(step);
    [CREATOR, FIRST, LAST, FURTHER, SUPERVISOR].into_iter().flatten().any(|known| *known == name)
}

/// Where a start has got to.
#[derive(Debug, Default)]
pub struct Steps {
    current: &'static str,
}

impl Steps {
    /// Begins a step.
    pub fn enter(&mut self, step: &'static str) -> Result<()> {
        debug_assert!(is_known(step), "step {step:?} is in no list: no test would make it fail");
        self.current = step;
        match injected().and_then(|injected| injected.strip_prefix(step)) {
            Some("") => {
                let error = std::io::Error::other("failure injected by GANTRY_FAIL_AT");
                Err(Error::System(gantry_linux::Error::new("enter step", step, error)))
            }
            // Nothing is undone or said, as after SIGKILL; that signal a first process cannot send to itself.
            Some(KILLED) => gantry_linux::process::exit_now(KILLED_CODE),
            _ => Ok(()),
        }
    }

    /// The error as a failure of the current step.
    #[must_use]
    pub fn failure(&self, error: &Error) -> Failure {
        Failure::new(self.current, error)
    }
}
