//! `delete`: removes a container.

use crate::engine::blocking;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::lifecycle;
use crate::policy::{Known, Subject};

/// Removes a container.
pub struct Delete {
    /// Name or id.
    pub container: String,
    /// Even if it runs.
    pub force: bool,
    /// With its anonymous volumes.
    pub volumes: bool,
    /// Only the link of this name (legacy).
    pub link: bool,
}

impl Job for Delete {
    const NAME: &'static str = "delete";
    const DOC: &'static str = "removes a container";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        // A link is known by its name alone.
        if !self.link {
            known.container(&mut self.container);
        }
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<()> {
        if self.link {
            let engine = context.engine;
            return blocking(move || {
                let name = self.container.trim_start_matches('/').split('/').next().unwrap_or_default();
                let before =
                    engine.containers.get(name).and_then(|parent| crate::files::hosts(&engine, &parent.record()));
                let parent = engine.containers.unlink(&self.container)?;
                if parent.running().is_none() {
                    return Ok(());
                }
                crate::networks::names::update(&engine, &parent);
                crate::files::refresh_hosts(&engine, &parent.record(), &before?)
            })
            .await;
        }
        let container = context.engine.containers.get(&self.container)?;
        lifecycle::remove::remove(&context.engine, &container, self.force, self.volumes).await
    }
}
