//! `rename`: gives a container another name.

use std::sync::Arc;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::networks;
use crate::policy::{Known, Subject};

/// Renames a container.
pub struct Rename {
    /// Name or id.
    pub container: String,
    /// The new name, with or without slash.
    pub name: String,
}

impl Job for Rename {
    const NAME: &'static str = "rename";
    const DOC: &'static str = "gives a container another name";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{} {}", self.container, self.name)
    }

    async fn run(self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        let name = self.name.strip_prefix('/').unwrap_or(&self.name).to_owned();
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        super::create::check_name(&name)?;
        let _guard = container.operation.lock().await;
        let old = container.record();
        if old.name == name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let (worker, subject) = (Arc::clone(&context.engine), Arc::clone(&container));
        blocking(move || {
            worker.containers.rename(&subject, &name)?;
            if subject.running().is_some() {
                networks::names::update(&worker, &subject);
            }
            Ok(())
        })
        .await?;
        let mut attributes = container.record().event_attributes();
        attributes.insert("oldName".into(), format!("/{}", old.name));
        context.engine.events.publish("container", "rename", container.id(), attributes);
        Ok(())
    }
}
