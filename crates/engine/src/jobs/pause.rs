//! `pause` and `unpause`: freeze and thaw every process of a container.

use std::sync::Arc;

use crate::container::{Container, Record, State};
use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};

/// Freezes a container.
pub struct Pause {
    /// Name or id.
    pub container: String,
}

/// Thaws a container.
pub struct Unpause {
    /// Name or id.
    pub container: String,
}

impl Job for Pause {
    const NAME: &'static str = "pause";
    const DOC: &'static str = "freezes every process of a container";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        let _guard = container.operation.lock().await;
        let record = container.record();
        let State::Running(run) = record.state.clone() else {
            let reason = if matches!(record.state, State::Paused(_)) { "is already paused" } else { "is not running" };
            return Err(Error::conflict(format!("Container {} {reason}", record.id)));
        };
        freeze(&context, &container, State::Paused(run), true).await
    }
}

impl Job for Unpause {
    const NAME: &'static str = "unpause";
    const DOC: &'static str = "thaws every process of a container";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        let _guard = container.operation.lock().await;
        let record = container.record();
        let State::Paused(run) = record.state.clone() else {
            return Err(Error::conflict(format!("Container {} is not paused", record.id)));
        };
        freeze(&context, &container, State::Running(run), false).await
    }
}

async fn freeze(context: &Context, container: &Arc<Container>, state: State, frozen: bool) -> Result<()> {
    let Some(running) = container.running() else {
        return Err(Error::conflict(format!("Container {} is not running", container.id())));
    };
    let record = container.record();
    let changed = Record { state, ..Record::clone(&record) };
    let (worker, subject) = (Arc::clone(&context.engine), Arc::clone(container));
    blocking(move || {
        if frozen {
            running.pause()?
        } else {
            running.unpause()?
        }
        worker.containers.save(&subject, changed)
    })
    .await?;
    let action = if frozen { "pause" } else { "unpause" };
    context.engine.events.publish("container", action, container.id(), record.event_attributes());
    Ok(())
}
