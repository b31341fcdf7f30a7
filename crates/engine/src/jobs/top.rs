//! `top`: the processes of a container, as the host sees them.

mod columns;
mod process;

use gantry_api::container;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};
use process::{Host, Process};

/// Lists processes.
pub struct Top {
    /// Name or id.
    pub container: String,
    /// Arguments of `ps`: `-ef`, `aux`, `-o pid,comm`.
    pub arguments: String,
}

impl Job for Top {
    const NAME: &'static str = "top";
    const DOC: &'static str = "lists the processes of a container";
    const CLASS: Class = Class::Read;
    type Output = container::Top;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<container::Top> {
        let columns = columns::parse(&self.arguments)?;
        let container = context.engine.containers.get(&self.container)?;
        let Some(running) = container.running() else {
            return Err(Error::conflict(format!("container {} is not running", container.id())));
        };
        blocking(move || {
            let host = Host::read()?;
            let processes = running.pids()?.into_iter().filter_map(Process::read);
            let line = |process: Process| columns.iter().map(|column| (column.value)(&process, &host)).collect();
            let processes = processes.map(line).collect();
            Ok(container::Top { titles: columns.iter().map(|column| column.title.clone()).collect(), processes })
        })
        .await
    }
}
