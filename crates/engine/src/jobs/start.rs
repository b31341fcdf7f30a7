//! `start`: starts a container.

use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::lifecycle;
use crate::policy::{Known, Subject};

/// Starts a container.
pub struct Start {
    /// Name or id.
    pub container: String,
}

impl Job for Start {
    const NAME: &'static str = "start";
    const DOC: &'static str = "starts a container";
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
        lifecycle::start::start(&context.engine, &container).await
    }
}
