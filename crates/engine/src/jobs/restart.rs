//! `restart`: stop and start, as child jobs.

use gantry_api::ErrorKind;

use super::{Start, Stop};
use crate::container::Container;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};

/// Restarts a container.
pub struct Restart {
    /// Name or id.
    pub container: String,
    /// As [`Stop::signal`].
    pub signal: Option<String>,
    /// As [`Stop::timeout`].
    pub timeout: Option<i64>,
}

impl Job for Restart {
    const NAME: &'static str = "restart";
    const DOC: &'static str = "stops a container and starts it again";
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
        let id = container.id().to_owned();
        let restarting = Restarting::begin(&container);
        let stopped = context.run(Stop { container: id.clone(), signal: self.signal, timeout: self.timeout }).await;
        tolerate_not_modified(stopped)?;
        tolerate_not_modified(context.run(Start { container: id }).await)?;
        drop(restarting);
        let attributes = container.record().event_attributes();
        context.engine.events.publish("container", "restart", container.id(), attributes);
        Ok(())
    }
}

/// While it lives, `--rm` does not remove the container.
struct Restarting<'a>(&'a Container);

impl<'a> Restarting<'a> {
    fn begin(container: &'a Container) -> Self {
        container.set_restarting(true);
        Self(container)
    }
}

impl Drop for Restarting<'_> {
    fn drop(&mut self) {
        self.0.set_restarting(false);
    }
}

fn tolerate_not_modified(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind == ErrorKind::NotModified => Ok(()),
        other => other,
    }
}
