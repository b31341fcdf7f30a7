//! `network_doctor`: the first thing that is wrong with a container's network, and what helps.

use gantry_api::network::Diagnosis;

use crate::engine::blocking;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::networks;
use crate::policy::{Known, Subject};

/// Looks for what is wrong.
pub struct NetworkDoctor {
    /// Name or id.
    pub container: String,
}

impl Job for NetworkDoctor {
    const NAME: &'static str = "network_doctor";
    const DOC: &'static str = "says what is wrong with a container's network, and what helps";
    const CLASS: Class = Class::Read;
    type Output = Diagnosis;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<Diagnosis> {
        let engine = context.engine;
        let container = engine.containers.get(&self.container)?;
        blocking(move || networks::examine(&engine, &container)).await
    }
}
