//! `resize`: sets the size of a container's terminal.

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};

/// Resizes the terminal of a container's first process.
pub struct Resize {
    /// Name or id.
    pub container: String,
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl Job for Resize {
    const NAME: &'static str = "resize";
    const DOC: &'static str = "sets the size of a container's terminal";
    const CLASS: Class = Class::Read;
    const READS: bool = false;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{} {}x{}", self.container, self.columns, self.rows)
    }

    async fn run(self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        let Some(running) = container.running_or_starting().await else {
            return Err(Error::conflict(format!("container {} is not running", container.id())));
        };
        let record = container.record();
        if !record.config.tty {
            // Docker's clients ask it of any container.
            return Ok(());
        }
        let attributes = record.event_attributes();
        blocking(move || Ok(running.resize(self.rows, self.columns)?)).await?;
        context.engine.events.publish("container", "resize", container.id(), attributes);
        Ok(())
    }
}
