//! The layers of one pull: a few downloads at once, each unpacked while it comes in.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::progress::{LayerReport, ProgressFn};
use crate::pull::joined;
use crate::session::Session;
use crate::sink::{ImageDraft, SinkError, Unpacked};
use crate::{Descriptor, Error, Result, download, pipe};

const TICK: Duration = Duration::from_millis(100);

pub struct Layers {
    pub session: Arc<Session>,
    pub draft: Arc<dyn ImageDraft>,
    pub layers: Vec<Descriptor>,
    pub progress: ProgressFn,
    pub tasks: TaskTracker,
    pub downloads: usize,
}

/// One layer's work.
struct Work {
    session: Arc<Session>,
    draft: Arc<dyn ImageDraft>,
    index: usize,
    descriptor: Descriptor,
    report: LayerReport,
    tasks: TaskTracker,
    permit: OwnedSemaphorePermit,
    /// Tells when the layer below is there, where that matters.
    below: Option<oneshot::Receiver<()>>,
    /// To tell the layer above.
    above: oneshot::Sender<()>,
}

impl Layers {
    /// Fetches what is not there. When it fails or is dropped, all of its tasks end.
    pub async fn fetch(self) -> Result<()> {
        let (draft, count) = (self.draft.clone(), self.layers.len());
        let look = move || {
            let missing = (0..count).filter(|index| !draft.is_present(*index)).collect::<Vec<_>>();
            Ok((draft.is_complete() && missing.is_empty(), missing))
        };
        let (complete, missing) = joined(self.tasks.spawn_blocking(look).await)?;
        if complete {
            return Ok(());
        }
        self.announce(&missing);
        let slots = Arc::new(Semaphore::new(self.downloads));
        let (mut running, mut next) = (JoinSet::new(), missing.into_iter().peekable());
        let mut below = None;
        loop {
            // In order, so that the lowest layer that is not there always has a slot: one that waits for those below
            // it keeps its own slot, and still they come.
            tokio::select! {
                permit = slots.clone().acquire_owned(), if next.peek().is_some() => {
                    let (Ok(permit), Some(index)) = (permit, next.next()) else { continue };
                    let (above, receiver) = oneshot::channel();
                    let work = self.work(index, permit, below.take(), above);
                    below = (!self.draft.unpacks_in_parallel()).then_some(receiver);
                    running.spawn(self.tasks.track_future(work.run()));
                }
                Some(done) = running.join_next() => joined(done)?,
                else => return Ok(()),
            }
        }
    }

    fn announce(&self, missing: &[usize]) {
        for (index, layer) in self.layers.iter().enumerate() {
            let state = if missing.contains(&index) { "Pulling fs layer" } else { "Already exists" };
            LayerReport::new(layer, self.progress.clone()).state(state);
        }
        for index in missing.iter().skip(self.downloads) {
            LayerReport::new(&self.layers[*index], self.progress.clone()).state("Waiting");
        }
    }

    fn work(
        &self,
        index: usize,
        permit: OwnedSemaphorePermit,
        below: Option<oneshot::Receiver<()>>,
        above: oneshot::Sender<()>,
    ) -> Work {
        let descriptor = self.layers[index].clone();
        Work {
            session: self.session.clone(),
            draft: self.draft.clone(),
            index,
            report: LayerReport::new(&descriptor, self.progress.clone()),
            descriptor,
            tasks: self.tasks.clone(),
            permit,
            below,
            above,
        }
    }
}

impl Work {
    async fn run(self) -> Result<()> {
        let Self { session, draft, index, descriptor, report, tasks, permit, below, above } = self;
        let (writer, mut reader) = pipe::pipe();
        let consumed = reader.consumed();
        let unpack = async move {
            if let Some(below) = below {
                // Its sender goes without a word only when the pull has failed: this task ends with it.
                if below.await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            let mut unpack = move || -> std::result::Result<Unpacked, SinkError> {
                let outcome = draft.unpack(index, &mut reader)?;
                if outcome == Unpacked::Fresh {
                    reader.finish()?;
                }
                Ok(outcome)
            };
            joined(tasks.spawn_blocking(move || unpack().map_err(Error::Unpack)).await)
        };
        let download = download::blob(&session, &descriptor, &report, writer);
        let (mut unpack, mut download) = (std::pin::pin!(unpack), std::pin::pin!(download));
        // Of two failures the download's is the cause: it is looked at first.
        let early = tokio::select! {
            biased;
            downloaded = &mut download => { downloaded?; None }
            unpacked = &mut unpack => Some(unpacked?),
        };
        let outcome = match early {
            Some(outcome) => outcome,
            None => {
                drop(permit);
                report.state("Verifying Checksum");
                report.state("Download complete");
                let mut tick = tokio::time::interval(TICK);
                loop {
                    tokio::select! {
                        biased;
                        unpacked = &mut unpack => break unpacked?,
                        _ = tick.tick() => report.so_far("Extracting", consumed.load(Ordering::Relaxed)),
                    }
                }
            }
        };
        match outcome {
            Unpacked::Shared => report.state("Already exists"),
            Unpacked::Fresh => {
                report.exactly("Extracting", descriptor.size);
                report.state("Pull complete");
            }
        }
        // Nobody may be above.
        let _ = above.send(());
        Ok(())
    }
}
