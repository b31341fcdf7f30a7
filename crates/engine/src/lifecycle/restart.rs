//! Restart policies: whether, and after which delay.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::start;
use crate::container::{Container, Record, State};
use crate::engine::Engine;

/// The first delay; it doubles with each quick end.
const FIRST: Duration = Duration::from_millis(100);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length counts as success and starts the delays anew.
const LONG_RUN: Duration = Duration::from_secs(10);

/// Whether the policy wants the container back after an end with `code`.
#[must_use]
pub fn wanted(record: &Record, code: i32) -> bool {
    let policy = &record.host_config.restart_policy;
    match policy.name.as_str() {
        "always" | "unless-stopped" => !record.stopped_by_user,
        "on-failure" => {
            !record.stopped_by_user
                && code != 0
                && (policy.maximum_retry_count == 0 || record.restart_count < policy.maximum_retry_count)
        }
        _ => false,
    }
}

/// The delay before the next start, `None` when the policy does not want one.
#[must_use]
pub fn delay(container: &Container, record: &Record, code: i32, ran: Duration) -> Option<Duration> {
    wanted(record, code).then(|| {
        container.next_backoff(|last| match last {
            Some(last) if ran < LONG_RUN => (last * 2).min(LONGEST),
            _ => FIRST,
        })
    })
}

/// Starts the container after `delay`, unless something else happens to it first.
pub fn schedule(engine: &Arc<Engine>, container: &Arc<Container>, delay: Duration) {
    let cancelled = CancellationToken::new();
    container.set_restart(Some(cancelled.clone()));
    let (engine, container) = (Arc::downgrade(engine), Arc::clone(container));
    tokio::spawn(async move {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        let Some(engine) = engine.upgrade().filter(|engine| !engine.is_stopping()) else { return };
        let _guard = container.operation.lock().await;
        if cancelled.is_cancelled() || !matches!(container.record().state, State::Restarting(_)) {
            return;
        }
        container.set_restart(None);
        if let Err(error) = start::start_locked(&engine, &container).await {
            info!("restart container {}: {error}", container.id());
            again(&engine, &container).await;
        }
    });
}

/// After a failed start: the policy decides anew.
async fn again(engine: &Arc<Engine>, container: &Arc<Container>) {
    let record = container.record();
    let State::Exited(ended) = record.state.clone() else { return };
    let Some(delay) = delay(container, &record, ended.code, Duration::ZERO) else { return };
    let changed =
        Record { state: State::Restarting(ended), restart_count: record.restart_count + 1, ..Record::clone(&record) };
    let (worker, subject) = (Arc::clone(engine), Arc::clone(container));
    let saved = crate::engine::blocking(move || worker.containers.save(&subject, changed)).await;
    if let Err(error) = saved {
        tracing::warn!("record the restart of container {}: {error}", container.id());
        return;
    }
    container.set_phase(|phase| phase.active = true);
    schedule(engine, container, delay);
}
