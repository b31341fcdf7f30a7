//! `exec_create`: prepares a further process in a running container.

use gantry_api::exec::ExecConfig;

use crate::container::State;
use crate::error::{Error, Result};
use crate::exec::ExecInstance;
use crate::job::{Class, Context, Job};
use crate::names;
use crate::policy::{Known, Subject};

/// Prepares an exec; returns its id.
pub struct ExecCreate {
    /// Name or id.
    pub container: String,
    /// What to run.
    pub config: ExecConfig,
}

impl Job for ExecCreate {
    const NAME: &'static str = "exec_create";
    const DOC: &'static str = "prepares a further process in a running container";
    const CLASS: Class = Class::Change;
    type Output = String;

    fn subject(&self) -> Subject<'_> {
        Subject::NewExec { container: &self.container, config: &self.config }
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        // Not the command: it may hold secrets, and this is kept and logged.
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<String> {
        let container = context.engine.containers.get(&self.container)?;
        container.running_or_starting().await;
        let record = container.record();
        let command = self.config.cmd.clone().unwrap_or_default();
        if command.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        match record.state {
            State::Running(_) => {}
            State::Paused(_) => {
                return Err(Error::conflict(format!(
                    "Container {} is paused, unpause the container before exec",
                    record.id
                )));
            }
            _ => return Err(Error::conflict(format!("container {} is not running", record.id))),
        }
        let id = names::random_id()?;
        let exec = ExecInstance::new(id.clone(), record.id.clone(), self.config);
        context.engine.containers.add_exec(&container, exec);
        let mut attributes = record.event_attributes();
        attributes.insert("execID".into(), id.clone());
        let action = format!("exec_create: {}", shown_command(&command));
        context.engine.events.publish("container", &action, container.id(), attributes);
        Ok(id)
    }
}

/// A command in an event: its beginning, since events are kept.
pub(super) fn shown_command(command: &[String]) -> String {
    command.join(" ").chars().take(1024).collect()
}
