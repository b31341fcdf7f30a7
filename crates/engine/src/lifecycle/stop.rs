//! Stopping: a signal, patience, then the kernel's own end.

use std::sync::Arc;
use std::time::Duration;

use crate::container::{Container, Record, State};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};

/// How long a container may take to end after `SIGTERM` where nothing else is said.
pub const DEFAULT_TIMEOUT: i64 = 10;
const SIGKILL: i32 = 9;
/// How long the kernel may take to end it after `SIGKILL`.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Stops a container and returns when it has ended. `timeout` in seconds; negative waits for ever.
///
/// # Errors
/// `NotModified` when it does not run; when it survives even `SIGKILL`.
pub async fn stop(engine: &Arc<Engine>, container: &Arc<Container>, signal: i32, timeout: i64) -> Result<()> {
    let mut phases = container.phases();
    let ends = phases.borrow_and_update().ends;
    if !mark(engine, container).await? {
        return Err(Error::not_modified(""));
    }
    let Some(running) = container.running() else { return Ok(()) };
    tell(engine, container, signal);
    let signalled = Arc::clone(&running);
    let paused = matches!(container.record().state, State::Paused(_));
    blocking(move || {
        if paused {
            signalled.unpause()?;
        }
        ignore_gone(signalled.signal(signal))
    })
    .await?;
    let patience = u64::try_from(timeout).map(Duration::from_secs);
    let ended = phases.wait_for(|phase| phase.ends > ends || phase.removed);
    let ended = match patience {
        Ok(patience) => tokio::time::timeout(patience, ended).await.is_ok(),
        Err(_) => ended.await.is_ok(),
    };
    match ended {
        true => Ok(()),
        // It was told that it is killed.
        false if signal == SIGKILL => end(container).await,
        false => kill(engine, container).await,
    }
}

/// Kills every process of a container and waits for its end.
///
/// # Errors
/// When it does not end.
pub async fn kill(engine: &Engine, container: &Arc<Container>) -> Result<()> {
    if container.running().is_some() {
        // Told before it is sent: the end must not be told first.
        tell(engine, container, SIGKILL);
    }
    end(container).await
}

async fn end(container: &Arc<Container>) -> Result<()> {
    let mut phases = container.phases();
    let ends = phases.borrow_and_update().ends;
    let Some(running) = container.running() else { return Ok(()) };
    blocking(move || ignore_gone(running.kill_all())).await?;
    let ended = phases.wait_for(|phase| phase.ends > ends || phase.removed);
    tokio::time::timeout(KILL_DEADLINE, ended).await.map(|_| ()).map_err(|_| {
        Error::system(format!(
            "container {} did not end within {} s of SIGKILL: a process of it hangs in the kernel",
            container.id(),
            KILL_DEADLINE.as_secs()
        ))
    })
}

/// The event of a signal.
pub fn tell(engine: &Engine, container: &Container, signal: i32) {
    let mut attributes = container.record().event_attributes();
    attributes.insert("signal".into(), signal.to_string());
    engine.events.publish("container", "kill", container.id(), attributes);
}

fn ignore_gone(result: std::result::Result<(), gantry_execdriver::Error>) -> Result<()> {
    match result {
        Err(gantry_execdriver::Error::NotFound(_)) => Ok(()),
        other => Ok(other?),
    }
}

/// Records that a person wants it stopped; whether there is anything to stop.
async fn mark(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<bool> {
    let _guard = container.operation.lock().await;
    let record = container.record();
    container.cancel_restart();
    let state = match &record.state {
        State::Restarting(ended) => State::Exited(ended.clone()),
        state if state.has_processes() => state.clone(),
        _ => return Ok(false),
    };
    let was_waiting = matches!(record.state, State::Restarting(_));
    let changed = Record { stopped_by_user: true, state, ..Record::clone(&record) };
    let (worker, subject) = (Arc::clone(engine), Arc::clone(container));
    blocking(move || worker.containers.save(&subject, changed)).await?;
    if was_waiting {
        container.set_phase(|phase| phase.active = false);
    }
    Ok(true)
}
