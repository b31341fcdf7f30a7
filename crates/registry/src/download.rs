//! One layer's blob: fetched into its part from the first place that gives it, taken up where it broke off, and declared
//! whole only when its digest is right.

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::parts::{self, Lease, Ledger, Part, Verdict};
use crate::places::Places;
use crate::progress::{LayerReport, TICK};
use crate::pull::joined;
use crate::ranges::Filling;
use crate::{Descriptor, Error, Result};

/// Pieces on their way to the disk; when they are full the download waits.
const DEPTH: usize = 8;

/// What is to be fetched, and for whom.
pub struct Download<'a> {
    pub places: &'a Places,
    pub lease: &'a Lease,
    pub descriptor: &'a Descriptor,
    pub report: Arc<LayerReport>,
    pub tasks: &'a TaskTracker,
    /// Connections that large blobs may take beside their first.
    pub further: Arc<Semaphore>,
}

impl Download<'_> {
    /// Has the part whole: by fetching, or by waiting for somebody else who does.
    pub async fn run(self) -> Result<()> {
        let part = &self.lease.part;
        let mut ledger = lead(part, &self.report).await;
        if !part.is_whole() {
            // Whoever fetched before may have been sent something else.
            part.now_is_old();
            let mut place = self.places.chosen();
            loop {
                let (back, error) = self.fill(place, ledger).await?;
                let Some(error) = error else { break };
                ledger = back;
                if matches!(error, Error::Damaged { .. }) {
                    tracing::warn!(%error, "what an earlier pull left is thrown away");
                    continue;
                }
                place = self.places.after(place, error)?;
                part.now_is_old();
            }
        }
        self.report.exactly("Downloading", self.descriptor.size);
        Ok(())
    }

    /// Fetches from one place what is missing. The inner error is one that another place may not have.
    async fn fill(
        &self,
        place: usize,
        mut ledger: OwnedMutexGuard<Ledger>,
    ) -> Result<(OwnedMutexGuard<Ledger>, Option<Error>)> {
        let part = &self.lease.part;
        let session = match self.places.session(place).await {
            Ok(session) => session,
            Err(error) => return Ok((ledger, Some(error))),
        };
        let (sender, pieces) = mpsc::channel(DEPTH);
        let (parts, written) = (Arc::clone(&self.lease.parts), Arc::clone(part));
        // It has the ledger until the last piece is written, also when nobody waits for it any more.
        let writing = self.tasks.spawn_blocking(move || {
            let outcome = parts::write(&parts, &written, &mut ledger, pieces);
            Ok((ledger, outcome))
        });
        let filling = Filling::new(session, self.descriptor, part, &self.report, sender);
        let filled = filling.run(self.tasks, &self.further).await;
        let (mut ledger, outcome) = joined(writing.await)?;
        // The disk's failure is why nobody took what came.
        outcome.map_err(Error::part(&part.digest))?;
        let found = match (ledger.judge(part), filled) {
            (Some(Verdict::Right), _) => return Ok((ledger, None)),
            (Some(Verdict::Wrong(found)), _) => found,
            (None, Err(error)) => return Ok((ledger, Some(error))),
            (None, Ok(())) => return Ok((ledger, Some(Error::invalid("download", "it ended without its last bytes")))),
        };
        let was_old = part.is_old();
        let thrown = Arc::clone(part);
        let throw = move || {
            let outcome = ledger.anew(&thrown);
            Ok((ledger, outcome))
        };
        let (ledger, outcome) = joined(self.tasks.spawn_blocking(throw).await)?;
        outcome.map_err(Error::part(&part.digest))?;
        let expected = part.digest.clone();
        let error = match was_old {
            true => Error::Damaged { digest: expected },
            false => Error::Digest { subject: "filesystem layer", expected, found: found.to_string() },
        };
        Ok((ledger, Some(error)))
    }
}

/// Waits until nobody else fetches it, and shows how far that one is.
async fn lead(part: &Part, report: &LayerReport) -> OwnedMutexGuard<Ledger> {
    let mut turn = std::pin::pin!(Arc::clone(&part.ledger).lock_owned());
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            ledger = &mut turn => return ledger,
            _ = tick.tick() => report.so_far("Downloading", part.received()),
        }
    }
}
