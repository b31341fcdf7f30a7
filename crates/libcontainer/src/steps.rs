//! The named steps of a start. Each can be made to fail, so that tests see everything before it undone.

use std::sync::OnceLock;

use crate::error::{Error, Failure, Result};

static FAIL_AT: OnceLock<String> = OnceLock::new();

/// Makes every later start of this process and of its children fail at the step of this name: failure injection for
/// tests, set once from the environment variable `GANTRY_FAIL_AT` when the supervisor template starts.
pub fn fail_at(step: &str) {
    // A second call is a caller's mistake that tests notice: the first name stays.
    let _ = FAIL_AT.set(step.to_owned());
}

/// The step that was named, for processes that are executed anew.
#[must_use]
pub fn injected() -> Option<&'static str> {
    FAIL_AT.get().map(String::as_str)
}

/// Where a start has got to.
#[derive(Debug, Default)]
pub struct Steps {
    current: &'static str,
}

impl Steps {
    /// Begins a step.
    pub fn enter(&mut self, step: &'static str) -> Result<()> {
        self.current = step;
        if FAIL_AT.get().is_some_and(|name| name == step) {
            let error = std::io::Error::other("failure injected by GANTRY_FAIL_AT");
            return Err(Error::System(gantry_linux::Error::new("enter step", step, error)));
        }
        Ok(())
    }

    /// The error as a failure of the current step.
    #[must_use]
    pub fn failure(&self, error: &Error) -> Failure {
        Failure::new(self.current, error)
    }
}
