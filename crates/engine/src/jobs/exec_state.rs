//! `exec_inspect` and `exec_resize`.

use gantry_api::exec;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::exec::ExecState;
use crate::job::{Class, Context, Job};
use crate::policy::Subject;

/// Shows an exec.
pub struct ExecInspect {
    /// Its id.
    pub exec: String,
}

impl Job for ExecInspect {
    const NAME: &'static str = "exec_inspect";
    const DOC: &'static str = "shows a further process of a container";
    const CLASS: Class = Class::Read;
    type Output = exec::ExecInspect;

    fn subject(&self) -> Subject<'_> {
        Subject::Exec(&self.exec)
    }

    fn arguments(&self) -> String {
        self.exec.clone()
    }

    async fn run(self, context: Context) -> Result<exec::ExecInspect> {
        match context.engine.containers.exec(&self.exec) {
            Some((_, exec)) => Ok(exec.inspect()),
            None => Err(Error::not_found(format!("No such exec instance: {}", self.exec))),
        }
    }
}

/// Resizes the terminal of an exec.
pub struct ExecResize {
    /// Its id.
    pub exec: String,
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl Job for ExecResize {
    const NAME: &'static str = "exec_resize";
    const DOC: &'static str = "sets the size of a further process's terminal";
    const CLASS: Class = Class::Read;
    const READS: bool = false;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Exec(&self.exec)
    }

    fn arguments(&self) -> String {
        format!("{} {}x{}", self.exec, self.columns, self.rows)
    }

    async fn run(self, context: Context) -> Result<()> {
        let Some((_, exec)) = context.engine.containers.exec(&self.exec) else {
            return Err(Error::not_found(format!("No such exec instance: {}", self.exec)));
        };
        match exec.state() {
            // Docker's clients ask it of any process.
            ExecState::Running(_) if !exec.config.tty => Ok(()),
            ExecState::Running(running) => blocking(move || Ok(running.resize(self.rows, self.columns)?)).await,
            _ => Err(Error::conflict(format!("exec process {} is not running", self.exec))),
        }
    }
}
