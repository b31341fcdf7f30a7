//! The layers of one pull: a few downloads at once, each unpacked while it comes in.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::download::Download;
use crate::parts::{Lease, Parts};
use crate::places::Places;
use crate::progress::{LayerReport, ProgressFn, TICK};
use crate::pull::joined;
use crate::reader::{self, BlobReader};
use crate::sink::{ImageDraft, SinkError, Unpacked};
use crate::{Descriptor, Error, Result};

/// As many as there are processors, within these bounds.
const UNPACKING: (usize, usize) = (2, 6);

/// The parts that a pull uses, until its image is there or it has failed.
#[derive(Default)]
pub struct Leases(Mutex<Vec<Leased>>);

/// One of them.
pub struct Leased {
    pub lease: Arc<Lease>,
    /// The layer that it is the blob of, when all of it came.
    pub layer: Option<usize>,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Vec<Leased>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pull is over.
    pub fn take(&self) -> Vec<Leased> {
        std::mem::take(&mut *self.lock())
    }
}

pub struct Layers {
    pub places: Arc<Places>,
    pub parts: Arc<Parts>,
    pub draft: Arc<dyn ImageDraft>,
    pub layers: Vec<Descriptor>,
    pub progress: ProgressFn,
    pub tasks: TaskTracker,
    pub downloads: usize,
    /// How many layers all pulls unpack at once.
    pub unpackers: Arc<Semaphore>,
    pub leases: Arc<Leases>,
}

/// What all layers of a pull share.
#[derive(Clone)]
struct Shared {
    places: Arc<Places>,
    parts: Arc<Parts>,
    draft: Arc<dyn ImageDraft>,
    tasks: TaskTracker,
    leases: Arc<Leases>,
    /// Layers that are unpacked at once: each has three threads and some four MiB of buffers. Others are fetched meanwhile.
    unpacking: Arc<Semaphore>,
    /// And by all pulls together.
    unpackers: Arc<Semaphore>,
    /// Connections beside one for each download.
    further: Arc<Semaphore>,
}

/// One layer's work.
struct Work {
    shared: Shared,
    index: usize,
    descriptor: Descriptor,
    report: Arc<LayerReport>,
    /// Its place among the downloads.
    permit: Option<OwnedSemaphorePermit>,
    /// Tells when the layer below is there, where that matters.
    below: Option<oneshot::Receiver<()>>,
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
        let shared = self.shared();
        let (mut running, mut next) = (JoinSet::new(), missing.into_iter().peekable());
        let mut below = None;
        loop {
            // In order, so that the lowest layer that is not there always has a slot: one that waits for those below
            // it keeps its own slot, and still they come.
            tokio::select! {
                permit = slots.clone().acquire_owned(), if next.peek().is_some() => {
                    let (Ok(permit), Some(index)) = (permit, next.next()) else { continue };
                    let (above, receiver) = oneshot::channel();
                    let descriptor = self.layers[index].clone();
                    let report = Arc::new(LayerReport::new(&descriptor, self.progress.clone()));
                    let shared = shared.clone();
                    let work = Work { shared, index, descriptor, report, permit: Some(permit), below: below.take() };
                    below = (!self.draft.unpacks_in_parallel()).then_some(receiver);
                    running.spawn(self.tasks.track_future(async move {
                        work.run().await?;
                        // Nobody may be above.
                        let _ = above.send(());
                        Ok(())
                    }));
                }
                Some(done) = running.join_next() => joined(done)?,
                else => return Ok(()),
            }
        }
    }

    fn shared(&self) -> Shared {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let unpacking = processors.clamp(UNPACKING.0, UNPACKING.1);
        Shared {
            places: Arc::clone(&self.places),
            parts: Arc::clone(&self.parts),
            draft: Arc::clone(&self.draft),
            tasks: self.tasks.clone(),
            leases: Arc::clone(&self.leases),
            unpacking: Arc::new(Semaphore::new(unpacking)),
            unpackers: Arc::clone(&self.unpackers),
            further: Arc::new(Semaphore::new(self.downloads)),
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
}

impl Shared {
    /// The part of a blob, which stays until the pull is over.
    async fn lease(&self, blob: &Descriptor) -> Result<Arc<Lease>> {
        let (parts, blob) = (Arc::clone(&self.parts), blob.clone());
        let lease = Arc::new(joined(self.tasks.spawn_blocking(move || parts.lease(&blob)).await)?);
        self.leases.lock().push(Leased { lease: Arc::clone(&lease), layer: None });
        Ok(lease)
    }

    async fn unpack(
        self,
        index: usize,
        below: Option<oneshot::Receiver<()>>,
        mut reader: BlobReader,
    ) -> Result<Unpacked> {
        if let Some(below) = below {
            // Its sender goes without a word only when the pull has failed: this task ends with it.
            if below.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let place = (self.unpacking.acquire_owned().await, self.unpackers.acquire_owned().await);
        let draft = self.draft;
        let unpack = move || -> std::result::Result<Unpacked, SinkError> {
            let _place = place;
            let outcome = draft.unpack(index, &mut reader)?;
            if outcome == Unpacked::Fresh {
                reader.finish()?;
            }
            Ok(outcome)
        };
        joined(self.tasks.spawn_blocking(move || unpack().map_err(Error::Unpack)).await)
    }
}

impl Work {
    async fn run(mut self) -> Result<()> {
        let lease = self.shared.lease(&self.descriptor).await?;
        let outcome = loop {
            if let Some(outcome) = self.attempt(&lease).await? {
                break outcome;
            }
        };
        if lease.part.is_whole() {
            let mut leases = self.shared.leases.lock();
            if let Some(leased) = leases.iter_mut().find(|leased| Arc::ptr_eq(&leased.lease, &lease)) {
                leased.layer = Some(self.index);
            }
        }
        match outcome {
            Unpacked::Shared => self.report.state("Already exists"),
            Unpacked::Fresh => {
                self.report.exactly("Extracting", self.descriptor.size);
                self.report.state("Pull complete");
            }
        }
        Ok(())
    }

    /// Fetches and unpacks; `None` when what was unpacked turned out to be damaged and was fetched anew.
    async fn attempt(&mut self, lease: &Lease) -> Result<Option<Unpacked>> {
        let part = &lease.part;
        let round = part.round();
        let (supply, reader) = reader::read(part);
        let unpack = self.shared.clone().unpack(self.index, self.below.take(), reader);
        let download = Download {
            places: &self.shared.places,
            lease,
            descriptor: &self.descriptor,
            report: Arc::clone(&self.report),
            tasks: &self.shared.tasks,
            further: Arc::clone(&self.shared.further),
        };
        let (mut unpack, mut download) = (std::pin::pin!(unpack), std::pin::pin!(download.run()));
        let keeps = self.shared.draft.keeps_blobs();
        let (mut early, mut is_shared) = (None, false);
        loop {
            // Of two failures the download's is the cause: it is looked at first.
            tokio::select! {
                biased;
                downloaded = &mut download => break downloaded?,
                unpacked = &mut unpack, if early.is_none() && !is_shared => match unpacked {
                    // The layer is there, and its blob is wanted all the same.
                    Ok(Unpacked::Shared) if keeps => is_shared = true,
                    Ok(outcome) => return Ok(Some(outcome)),
                    // What an earlier pull left of it may be what is wrong: the digest tells.
                    Err(error) if part.is_old() || part.round() != round => early = Some(error),
                    Err(error) => return Err(error),
                },
            }
        }
        self.permit = None;
        self.report.state("Verifying Checksum");
        self.report.state("Download complete");
        if is_shared {
            return Ok(Some(Unpacked::Shared));
        }
        let unpacked = match early {
            Some(error) => Err(error),
            None => {
                let mut tick = tokio::time::interval(TICK);
                loop {
                    tokio::select! {
                        biased;
                        unpacked = &mut unpack => break unpacked,
                        _ = tick.tick() => self.report.so_far("Extracting", supply.consumed.load(Ordering::Relaxed)),
                    }
                }
            }
        };
        match unpacked {
            Ok(outcome) => Ok(Some(outcome)),
            Err(_) if part.round() != round => Ok(None),
            Err(error) => Err(error),
        }
    }
}
