//! `fsck`: reads everything that is stored, says what is not as it should be, and repairs it when it is asked to.

use std::sync::Arc;

use bytes::Bytes;
use gantry_api::progress::Progress;
use gantry_api::system;
use gantry_graph::{Finding, Outcome, Place, Problem};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::repair;
use crate::stream::{Opening, Outlet, json_line};

/// Checks the store.
pub struct Fsck {
    /// Fetch again what is damaged, and delete litter.
    pub repair: bool,
    /// Remove images that cannot be repaired and that no container uses.
    pub remove: bool,
    /// Gets a message for each finding, in `aux`, and a sentence at the end.
    pub outlet: Outlet,
}

impl Job for Fsck {
    const NAME: &'static str = "fsck";
    const DOC: &'static str = "reads everything that is stored and says what is not as it should be";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn arguments(&self) -> String {
        let words = [("repair", self.repair), ("remove", self.remove)];
        words.iter().filter(|(_, on)| *on).map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let engine = context.engine;
        self.outlet.open(Opening::default());
        let said =
            Said { sender: self.outlet.sender(), runtime: tokio::runtime::Handle::current(), listens: true, count: 0 };
        let checked = check(&engine, said, self.repair, self.remove, &context.cancelled).await;
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

/// Returns how much was found.
async fn check(
    engine: &Arc<Engine>,
    mut said: Said,
    repair: bool,
    remove: bool,
    cancelled: &CancellationToken,
) -> Result<usize> {
    let worker = Arc::clone(engine);
    let read = blocking(move || {
        let mut damaged = Vec::new();
        let mut report = |finding: Finding| match finding.outcome {
            // What came of it is told when that is known.
            Outcome::Found if repair => damaged.push(finding),
            _ => said.tell(finding),
        };
        worker.graph.fsck(repair, &mut report)?;
        for (id, reason) in worker.containers.unreadable() {
            let problem = Problem::Unreadable(reason);
            report(Finding { place: Place::Container(id), problem, outcome: Outcome::Found });
        }
        Ok((damaged, said))
    });
    let (damaged, mut said) = tokio::select! {
        () = cancelled.cancelled() => return Err(Error::unavailable("the job was cancelled")),
        read = read => read?,
    };
    if !damaged.is_empty() {
        let fetched = repair::fetch(engine, &damaged, cancelled).await;
        let worker = Arc::clone(engine);
        said = blocking(move || {
            for finding in damaged {
                let outcome = repair::outcome(&worker, &finding, &fetched, remove)
                    .unwrap_or_else(|error| Outcome::Unrepaired(error.to_string()));
                said.tell(Finding { outcome, ..finding });
            }
            Ok(said)
        })
        .await?;
    }
    engine.sweep_soon();
    Ok(said.count)
}

/// Who wants to know, and what was said so far.
struct Said {
    sender: mpsc::Sender<Bytes>,
    runtime: tokio::runtime::Handle,
    listens: bool,
    count: usize,
}

/// How long somebody who wants to know may take for one line.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

async fn heard(sender: &mpsc::Sender<Bytes>, line: Bytes) -> bool {
    sender.send_timeout(line, PATIENCE).await.is_ok()
}

impl Said {
    fn tell(&mut self, finding: Finding) {
        self.count += 1;
        tracing::warn!(%finding, "fsck");
        let aux = serde_json::json!(shown(&finding));
        let line = json_line(&Progress { aux: Some(aux), ..Progress::default() });
        // Who does not listen any more finds it in the log.
        self.listens = self.listens && self.runtime.block_on(heard(&self.sender, line));
    }
}

fn shown(finding: &Finding) -> system::Finding {
    let Finding { place, problem, outcome } = finding;
    system::Finding {
        kind: place.kind().to_owned(),
        name: place.name().to_owned(),
        problem: problem.kind().to_owned(),
        detail: problem.to_string(),
        outcome: match outcome {
            Outcome::Found => system::Outcome::Found,
            Outcome::Repaired(_) => system::Outcome::Repaired,
            Outcome::Unrepaired(_) => system::Outcome::Unrepaired,
        },
        action: outcome.to_string(),
    }
}
