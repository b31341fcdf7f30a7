//! `fsck`: reads everything that is stored and says what is not as it should be.

use std::sync::Arc;

use gantry_api::progress::Progress;
use gantry_api::system::Finding;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::stream::{Opening, Outlet, json_line};

/// Checks the store.
pub struct Fsck {
    /// Delete litter, and remove images that cannot be whole any more.
    pub repair: bool,
    /// Gets a message for each finding, in `aux`, and a sentence at the end.
    pub outlet: Outlet,
}

impl Job for Fsck {
    const NAME: &'static str = "fsck";
    const DOC: &'static str = "reads everything that is stored and says what is not as it should be";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn arguments(&self) -> String {
        if self.repair { "repair".to_owned() } else { String::new() }
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let engine = context.engine;
        self.outlet.open(Opening::default());
        let (worker, sender, cancelled) = (Arc::clone(&engine), self.outlet.sender(), context.cancelled.clone());
        let repair = self.repair;
        let checked = blocking(move || {
            let mut findings = 0_usize;
            let mut report = |finding: gantry_graph::Finding| {
                findings += 1;
                tracing::warn!(%finding, "fsck");
                let repaired = finding.repair.as_ref().is_some_and(|text| !text.starts_with("kept"));
                let gantry_graph::Finding { subject, problem, repair } = finding;
                let aux = serde_json::json!(Finding { subject, problem, repair: repair.unwrap_or_default(), repaired });
                // Who does not listen any more finds it in the log.
                let _ = sender.blocking_send(json_line(&Progress { aux: Some(aux), ..Progress::default() }));
            };
            worker.graph.fsck(repair, &crate::images::users(&worker), &mut report)?;
            worker.sweep_soon();
            Ok(findings)
        });
        let checked = tokio::select! {
            () = cancelled.cancelled() => Err(Error::unavailable("the job was cancelled")),
            checked = checked => checked,
        };
        let images = engine.graph.images().len();
        let last = match &checked {
            Ok(0) => Progress::status(format!("{images} images checked: clean")),
            Ok(1) => Progress::status(format!("{images} images checked: 1 finding")),
            Ok(findings) => Progress::status(format!("{images} images checked: {findings} findings")),
            Err(error) => Progress::failure(error.to_string()),
        };
        self.outlet.send_json(&last).await;
        checked.map(drop)
    }
}
