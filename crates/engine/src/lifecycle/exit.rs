//! The end of a container: recorded once, the network given back, then restarted or removed as its policy says.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use gantry_execdriver::Exit;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{remove, restart};
use crate::container::state::Ended;
use crate::container::{Container, Record, State};
use crate::engine::{Engine, blocking};
use crate::networks;

/// Takes the ends that the execdriver reports, each in a task of its own.
pub async fn watch(engine: Weak<Engine>, mut ended: mpsc::UnboundedReceiver<(String, Exit)>) {
    while let Some((id, exit)) = ended.recv().await {
        let Some(engine) = engine.upgrade() else { return };
        let Ok(container) = engine.containers.get(&id) else {
            warn!("container {id} ended, and nobody knows it");
            continue;
        };
        let tracker = engine.background.clone();
        tracker.spawn(async move { handle(&engine, &container, exit).await });
    }
}

/// Records the end and does what the container's policy says.
pub async fn handle(engine: &Arc<Engine>, container: &Arc<Container>, exit: Exit) {
    let _guard = container.operation.lock().await;
    let record = container.record();
    let Some(run) = record.state.current_run().cloned() else { return };
    let finished_at = Timestamp::try_from(exit.finished_at).unwrap_or_else(|_| Timestamp::now());
    let ended = Ended {
        started_at: Some(run.started_at),
        finished_at: Some(finished_at),
        code: exit.code,
        oom_killed: exit.oom_killed,
        error: String::new(),
    };
    let ran = Duration::try_from(finished_at.duration_since(run.started_at)).unwrap_or_default();
    let delay = restart::delay(container, &record, exit.code, ran).filter(|_| !engine.is_stopping());
    let id = record.id.clone();
    let changed = Record {
        state: if delay.is_some() { State::Restarting(ended) } else { State::Exited(ended) },
        endpoints: BTreeMap::new(),
        restart_count: record.restart_count + i64::from(delay.is_some()),
        ..Record::clone(&record)
    };
    let auto_remove = changed.host_config.auto_remove && delay.is_none() && !container.is_restarting();
    let (worker, subject, before) = (Arc::clone(engine), Arc::clone(container), Arc::clone(&record));
    let recorded = blocking(move || {
        networks::leave(&worker, &before);
        match worker.containers.save(&subject, changed.clone()) {
            // Only now: until the end is recorded, the supervisor's record of it is the only one.
            Ok(()) => {
                if let Err(error) = worker.drivers.exec.forget(&id) {
                    warn!("forget the run of container {id}: {error}");
                }
            }
            Err(error) => {
                warn!("record the end of container {id}: {error}");
                subject.publish(changed);
            }
        }
        subject.set_running(None);
        Ok(())
    });
    if let Err(error) = recorded.await {
        warn!("{error}");
    }
    tell(engine, container, &record, &exit, ran);
    networks::announce(engine, &record, "disconnect");
    container.set_phase(|phase| {
        phase.ends += 1;
        phase.active = delay.is_some();
        phase.code = exit.code;
    });
    if let Some(delay) = delay {
        restart::schedule(engine, container, delay);
    } else if auto_remove && let Err(error) = remove::remove_locked(engine, container, true).await {
        warn!("remove container {} (--rm): {error}", container.id());
    }
}

fn tell(engine: &Engine, container: &Container, record: &Record, exit: &Exit, ran: Duration) {
    let mut attributes = record.event_attributes();
    if exit.oom_killed {
        engine.events.publish("container", "oom", container.id(), attributes.clone());
    }
    attributes.insert("exitCode".into(), exit.code.to_string());
    attributes.insert("execDuration".into(), ran.as_secs().to_string());
    info!(container = container.id(), code = exit.code, oom_killed = exit.oom_killed, "container ended");
    engine.events.publish("container", "die", container.id(), attributes);
}
