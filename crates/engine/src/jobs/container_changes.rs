//! `container_changes`: what a container changed in its root.

use gantry_api::container::ContainerChange;

use crate::engine::blocking;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};

/// Lists changed paths.
pub struct ContainerChanges {
    /// Name or id.
    pub container: String,
}

impl Job for ContainerChanges {
    const NAME: &'static str = "container_changes";
    const DOC: &'static str = "lists what a container changed in its root";
    const CLASS: Class = Class::Read;
    type Output = Vec<ContainerChange>;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<Vec<ContainerChange>> {
        let container = context.engine.containers.get(&self.container)?;
        let id = container.id().to_owned();
        let changes = blocking(move || Ok(context.engine.graph.container_changes(&id)?)).await?;
        let shown = |change: &gantry_graphdriver::Change| ContainerChange {
            path: change.path.to_string_lossy().into_owned(),
            kind: change.kind as u8,
        };
        Ok(changes.iter().map(shown).collect())
    }
}
