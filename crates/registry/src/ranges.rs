//! What is missing of a part, from one registry: from the byte on, a large blob in several ranges at once where the registry
//! gives ranges.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::header::{ETAG, HeaderValue};
use reqwest::{Method, Response};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::http::{is_part, network, shown};
use crate::parts::{Part, Piece};
use crate::progress::LayerReport;
use crate::pull::joined;
use crate::session::{Session, Span};
use crate::{Descriptor, Error, Result};

/// Attempts that bring nothing.
const ATTEMPTS: u32 = 5;
/// Connections of one blob.
const CONNECTIONS: usize = 4;
/// A large blob comes in at most so many ranges, so that few files are open.
const RANGES: u64 = 32;

/// One part that is being filled from one registry.
pub struct Filling {
    session: Arc<Session>,
    descriptor: Descriptor,
    part: Arc<Part>,
    report: Arc<LayerReport>,
    sender: mpsc::Sender<Piece>,
    queue: Mutex<Queue>,
    /// The registry gave a range.
    gives_ranges: AtomicBool,
    proven: Notify,
    /// What says that it is still the same file there.
    validator: Mutex<Option<HeaderValue>>,
}

/// What is to be fetched, and by how many.
struct Queue {
    /// Ranges that nobody fetches yet.
    ranges: VecDeque<Range<u64>>,
    /// Connections that are at work.
    workers: usize,
}

enum End {
    /// The answer ended.
    Answer,
    /// Nobody writes any more.
    Writer,
}

impl Filling {
    pub fn new(
        session: Arc<Session>,
        descriptor: &Descriptor,
        part: &Arc<Part>,
        report: &Arc<LayerReport>,
        sender: mpsc::Sender<Piece>,
    ) -> Arc<Self> {
        let ranges = split(part.gaps(), session.http.options.large);
        Arc::new(Self {
            session,
            descriptor: descriptor.clone(),
            part: Arc::clone(part),
            report: Arc::clone(report),
            sender,
            queue: Mutex::new(Queue { ranges: ranges.into(), workers: 0 }),
            gives_ranges: AtomicBool::new(false),
            proven: Notify::new(),
            validator: Mutex::default(),
        })
    }

    /// Fetches everything that is missing. Dropped, all of it ends.
    pub async fn run(self: Arc<Self>, tasks: &TaskTracker, further: &Arc<Semaphore>) -> Result<()> {
        let mut workers = JoinSet::new();
        workers.spawn(tasks.track_future(self.worker(None)));
        loop {
            tokio::select! {
                done = workers.join_next() => match done {
                    Some(done) => joined(done)?,
                    None => return Ok(()),
                },
                () = self.proven.notified() => {
                    let permits = std::iter::from_fn(|| Arc::clone(further).try_acquire_owned().ok());
                    let more = CONNECTIONS.saturating_sub(self.queue().workers);
                    for permit in permits.take(more) {
                        workers.spawn(tasks.track_future(self.worker(Some(permit))));
                    }
                }
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that fetches range after range; the permit is for one beside the first.
    fn worker(
        self: &Arc<Self>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        self.queue().workers += 1;
        let filling = Arc::clone(self);
        async move {
            let _permit = permit;
            while let Some(range) = filling.claim() {
                if !filling.fetch(range).await? {
                    break;
                }
            }
            Ok(())
        }
    }

    /// The next range; without one the connection is not at work any more.
    fn claim(&self) -> Option<Range<u64>> {
        let mut queue = self.queue();
        let range = queue.ranges.pop_front();
        if range.is_none() {
            queue.workers -= 1;
        }
        range
    }

    /// A connection that is refused leaves its range to the others and is not at work any more; false where there are none.
    fn leaves(&self, range: &Range<u64>, error: &Error) -> bool {
        if !matches!(error, Error::Network { .. } | Error::Status { .. } | Error::TooManyRequests { .. }) {
            return false;
        }
        let mut queue = self.queue();
        if queue.workers < 2 {
            return false;
        }
        queue.workers -= 1;
        queue.ranges.push_front(range.clone());
        tracing::debug!(%error, blob = %self.descriptor.digest, connections = queue.workers, "going on with fewer connections");
        true
    }

    /// One range; false when nobody writes any more, or others fetch it.
    async fn fetch(&self, mut range: Range<u64>) -> Result<bool> {
        let mut backoff = Backoff::new(self.session.pause(), ATTEMPTS);
        let mut was_alone = false;
        while !range.is_empty() {
            let before = range.start;
            let error = match self.attempt(&mut range).await {
                Ok(End::Writer) => return Ok(false),
                Ok(End::Answer) if range.is_empty() => break,
                Ok(End::Answer) => self.truncated(range.start),
                Err(error) => error,
            };
            if range.start > before {
                backoff.reset();
            } else if self.leaves(&range, &error) {
                return Ok(false);
            } else {
                was_alone = true;
            }
            if matches!(error, Error::TooManyRequests { .. }) && !self.session.patient {
                return Err(error);
            }
            self.report.waits(&mut backoff, error).await?;
        }
        if was_alone && self.gives_ranges.load(Ordering::Acquire) {
            // The line was down, and the others have left: they may come back.
            self.proven.notify_one();
        }
        Ok(true)
    }

    /// One answer; `range` becomes what is still missing.
    async fn attempt(&self, range: &mut Range<u64>) -> Result<End> {
        let size = self.descriptor.size;
        let path = format!("blobs/{}", self.descriptor.digest);
        let span = Span {
            from: range.start,
            to: Some(range.end).filter(|end| *end < size),
            same_as: self.validator.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let mut answer = self.session.send_span(Method::GET, &path, span).await?;
        self.remember(&answer);
        let mut skip = self.before(&answer, range).await?;
        let url = answer.url().clone();
        let silence = self.session.http.options.silence;
        loop {
            let chunk = tokio::time::timeout(silence, answer.chunk()).await.map_err(|_| {
                let reason = format!("nothing came for {} seconds", silence.as_secs_f32().ceil());
                Error::Network { method: "Get", url: shown(&url), reason }
            })?;
            let Some(mut chunk) = chunk.map_err(|error| network(&Method::GET, &url, &error))? else { break };
            if skip > 0 {
                let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                skip -= known as u64;
                drop(chunk.split_to(known));
            }
            let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            if chunk.len() > wanted && range.end == size {
                return Err(self.too_long());
            }
            chunk.truncate(wanted);
            if !chunk.is_empty() {
                let (at, length) = (range.start, chunk.len() as u64);
                if self.sender.send(Piece { at, bytes: chunk }).await.is_err() {
                    return Ok(End::Writer);
                }
                range.start += length;
                self.report.so_far("Downloading", self.part.received());
            }
            if range.is_empty() && range.end < size {
                break;
            }
        }
        Ok(End::Answer)
    }

    /// How many bytes of the answer come before the range. A registry that gives no ranges sends all: the first such answer
    /// is taken for all that is missing.
    async fn before(&self, answer: &Response, range: &mut Range<u64>) -> Result<u64> {
        let is_all = range.start == 0 && range.end == self.descriptor.size;
        if is_part(answer, range.start)? {
            if !self.gives_ranges.swap(true, Ordering::AcqRel) {
                self.proven.notify_one();
            }
            return Ok(0);
        }
        if !is_all && !self.gives_ranges.load(Ordering::Acquire) {
            self.queue().ranges.clear();
            let part = Arc::clone(&self.part);
            let kept = tokio::task::spawn_blocking(move || part.keep_beginning().map_err(Error::part(&part.digest)));
            joined(kept.await)?;
            range.end = self.descriptor.size;
        }
        Ok(range.start)
    }

    /// A strong validator goes along with the next request.
    fn remember(&self, answer: &Response) {
        if let Some(tag) = answer.headers().get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) {
            *self.validator.lock().unwrap_or_else(PoisonError::into_inner) = Some(tag.clone());
        }
    }

    fn truncated(&self, at: u64) -> Error {
        let reason = format!("unexpected EOF after {at} of {} bytes", self.descriptor.size);
        let url = shown(&self.session.url(&format!("blobs/{}", self.descriptor.digest)));
        Error::Network { method: "Get", url, reason }
    }

    fn too_long(&self) -> Error {
        let found = format!("more than the {} bytes that the manifest says", self.descriptor.size);
        Error::Digest { subject: "filesystem layer", expected: self.descriptor.digest.clone(), found }
    }
}

/// What is missing, cut into ranges that are worth a connection each when it is much.
fn split(gaps: Vec<Range<u64>>, large: u64) -> Vec<Range<u64>> {
    let missing: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
    if missing < large {
        return gaps;
    }
    let length = (large / 4).max(missing / RANGES).max(1);
    let cut = |gap: Range<u64>| {
        let starts = (gap.start..gap.end).step_by(usize::try_from(length).unwrap_or(usize::MAX));
        starts.map(move |start| start..(start + length).min(gap.end))
    };
    gaps.into_iter().flat_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_gaps_and_nothing_else() {
        assert_eq!(split(vec![3..10, 20..21], 100), [3..10, 20..21]);
        for (gaps, large) in [(vec![0..1000, 1001..1002], 100), (vec![10..400, 500..777], 64), (vec![5..6, 9..10], 1)] {
            let ranges = split(gaps.clone(), large);
            let bytes = |ranges: &[Range<u64>]| ranges.iter().cloned().flatten().collect::<Vec<_>>();
            assert_eq!(bytes(&ranges), bytes(&gaps));
            assert!(ranges.len() as u64 <= RANGES + gaps.len() as u64, "{ranges:?}");
        }
    }
}
