//! A container as the engine holds it: an immutable record that readers take without waiting, and the one lock that
//! serialises its changes.

pub mod copy;
pub mod links;
pub mod record;
pub mod state;
pub mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use gantry_execdriver::{Attach, Running};
use tokio::sync::watch;

use crate::exec::ExecInstance;
pub use record::Record;
pub use state::State;

/// One container.
pub struct Container {
    id: String,
    record: RwLock<Arc<Record>>,
    /// Held by whatever changes the container's life; never by readers.
    pub(crate) operation: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
    phase: watch::Sender<Phase>,
    /// How many clients are on their way to being attached: a start waits for them, so that they miss no byte.
    arriving: watch::Sender<usize>,
}

/// A client that is about to attach.
pub(crate) struct Arrival<'a>(&'a Container);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.arriving.send_modify(|count| *count -= 1);
    }
}

/// What exists only while this daemon knows the container.
#[derive(Default)]
struct Live {
    running: Option<Arc<dyn Running>>,
    /// Clients that attached before the start, by number.
    waiting: BTreeMap<u64, Attach>,
    next_waiting: u64,
    /// `restart` is between its stop and its start: `--rm` must not remove it.
    restarting: bool,
    execs: HashMap<String, Arc<ExecInstance>>,
    /// Ends a restart that waits for its delay.
    restart: Option<tokio_util::sync::CancellationToken>,
    /// The last delay before a restart.
    backoff: Option<std::time::Duration>,
}

/// What waiters look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phase {
    /// How often it has ended since this daemon knows it.
    pub ends: u64,
    /// Whether it runs, is paused, or is about to be restarted.
    pub active: bool,
    /// Its last exit code.
    pub code: i32,
    /// It is gone.
    pub removed: bool,
    /// Why its removal failed.
    pub removal_error: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    /// Takes a record up.
    #[must_use]
    pub fn new(record: Record) -> Self {
        let phase = Phase { active: record.state.is_active(), code: record.state.exit_code(), ..Phase::default() };
        Self {
            id: record.id.clone(),
            record: RwLock::new(Arc::new(record)),
            operation: tokio::sync::Mutex::new(()),
            live: Mutex::default(),
            phase: watch::Sender::new(phase),
            arriving: watch::Sender::new(0),
        }
    }

    /// Its 64 digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything that is recorded of it, as of now.
    #[must_use]
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes `record` what readers see.
    pub(crate) fn publish(&self, record: Record) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    /// Its first process, while it runs.
    #[must_use]
    pub fn running(&self) -> Option<Arc<dyn Running>> {
        lock(&self.live).running.clone()
    }

    pub(crate) fn set_running(&self, running: Option<Arc<dyn Running>>) {
        lock(&self.live).running = running;
    }

    /// Attaches a client now, or keeps it for the start: then under the number that is returned.
    pub(crate) fn attach(&self, attach: Attach) -> Result<Option<u64>, gantry_execdriver::Error> {
        let mut live = lock(&self.live);
        match live.running.clone() {
            Some(running) => {
                drop(live);
                running.attach(attach).map(|()| None)
            }
            None => {
                let number = live.next_waiting;
                live.next_waiting += 1;
                live.waiting.insert(number, attach);
                Ok(Some(number))
            }
        }
    }

    /// A client that waited for the start has gone away.
    pub(crate) fn forget_waiting(&self, number: u64) {
        lock(&self.live).waiting.remove(&number);
    }

    pub(crate) fn set_restarting(&self, restarting: bool) {
        lock(&self.live).restarting = restarting;
    }

    pub(crate) fn is_restarting(&self) -> bool {
        lock(&self.live).restarting
    }

    /// Announces a client that will attach once its connection is taken over.
    pub(crate) fn arrival(&self) -> Arrival<'_> {
        self.arriving.send_modify(|count| *count += 1);
        Arrival(self)
    }

    /// Returns when no client is on its way, or after a second: a client that is slow must not hold the start up.
    pub(crate) async fn arrivals_settled(&self) {
        let mut arriving = self.arriving.subscribe();
        let settled = arriving.wait_for(|count| *count == 0);
        // Either way the start goes on.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), settled).await;
    }

    /// Its first process. A start that is under way is waited for: its output may have reached the caller before its
    /// success was recorded.
    pub(crate) async fn running_or_starting(&self) -> Option<Arc<dyn Running>> {
        if let Some(running) = self.running() {
            return Some(running);
        }
        let _guard = self.operation.lock().await;
        self.running()
    }

    /// The clients that attached before the start.
    pub(crate) fn take_waiting(&self) -> Vec<Attach> {
        std::mem::take(&mut lock(&self.live).waiting).into_values().collect()
    }

    pub(crate) fn add_exec(&self, exec: Arc<ExecInstance>) {
        lock(&self.live).execs.insert(exec.id.clone(), exec);
    }

    /// Its execs, ended ones included until the container ends.
    #[must_use]
    pub fn execs(&self) -> Vec<Arc<ExecInstance>> {
        lock(&self.live).execs.values().cloned().collect()
    }

    /// One of its execs.
    #[must_use]
    pub fn exec(&self, id: &str) -> Option<Arc<ExecInstance>> {
        lock(&self.live).execs.get(id).cloned()
    }

    /// Drops execs that ended a while ago, or all of them; returns their ids.
    pub(crate) fn forget_execs(&self, all: bool) -> Vec<String> {
        let mut forgotten = Vec::new();
        lock(&self.live).execs.retain(|id, exec| {
            let keep = !all && !exec.ended_long_ago();
            if !keep {
                forgotten.push(id.clone());
            }
            keep
        });
        forgotten
    }

    /// Works out the next delay before a restart from the last one.
    pub(crate) fn next_backoff(
        &self,
        next: impl FnOnce(Option<std::time::Duration>) -> std::time::Duration,
    ) -> std::time::Duration {
        let mut live = lock(&self.live);
        let delay = next(live.backoff);
        live.backoff = Some(delay);
        delay
    }

    pub(crate) fn set_restart(&self, token: Option<tokio_util::sync::CancellationToken>) {
        lock(&self.live).restart = token;
    }

    /// Gives up a restart that is waiting for its delay.
    pub(crate) fn cancel_restart(&self) {
        if let Some(token) = lock(&self.live).restart.take() {
            token.cancel();
        }
    }

    /// Follows its phases.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn set_phase(&self, change: impl FnOnce(&mut Phase)) {
        self.phase.send_modify(change);
    }
}
