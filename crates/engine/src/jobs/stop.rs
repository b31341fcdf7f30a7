//! `stop`: asks a container to end, and ends it when it does not.

use crate::container::Record;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::lifecycle::stop::{self, DEFAULT_TIMEOUT};
use crate::policy::{Known, Subject};

/// Stops a container.
pub struct Stop {
    /// Name or id.
    pub container: String,
    /// Instead of the container's own stop signal.
    pub signal: Option<String>,
    /// Seconds before `SIGKILL`, instead of the container's own; negative waits for ever.
    pub timeout: Option<i64>,
}

impl Job for Stop {
    const NAME: &'static str = "stop";
    const DOC: &'static str = "stops a container";
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
        let record = container.record();
        let signal = stop_signal(&record, self.signal.as_deref())?;
        let timeout = self.timeout.or(record.config.stop_timeout).unwrap_or(DEFAULT_TIMEOUT);
        stop::stop(&context.engine, &container, signal, timeout).await?;
        context.engine.events.publish("container", "stop", container.id(), record.event_attributes());
        Ok(())
    }
}

/// The signal that stops a container: the caller's, its own, or `SIGTERM`.
pub(super) fn stop_signal(record: &Record, asked: Option<&str>) -> Result<i32> {
    let own = Some(record.config.stop_signal.as_str()).filter(|signal| !signal.is_empty());
    super::kill::parse_signal(asked.or(own).unwrap_or("SIGTERM"))
}
