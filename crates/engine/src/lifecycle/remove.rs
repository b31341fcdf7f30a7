//! Removal: invisible and its name free at once; the space comes back off the path.

use std::sync::Arc;

use gantry_linux::fs;
use tracing::warn;

use super::stop;
use crate::container::{Container, Record, State};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};

/// Below `containers/`: directories of removed containers.
const REMOVED: &str = ".removed";

/// Removes a container; with `force` one that runs, with `volumes` its anonymous volumes.
///
/// # Errors
/// `Conflict` when it runs and `force` was not given.
pub async fn remove(engine: &Arc<Engine>, container: &Arc<Container>, force: bool, volumes: bool) -> Result<()> {
    if container.record().state.is_active() {
        if !force {
            let state = container.record().state.name();
            let hint = if state == "paused" { "unpause and then stop" } else { "stop" };
            return Err(Error::conflict(format!(
                "cannot remove container \"/{}\": container is {state}: {hint} the container before removing or force remove",
                container.record().name
            )));
        }
        match stop::stop(engine, container, 9, 0).await {
            Err(error) if error.kind != gantry_api::ErrorKind::NotModified => return Err(error),
            _ => {}
        }
    }
    let _guard = container.operation.lock().await;
    if container.phases().borrow().removed {
        // `--rm` was quicker.
        return Ok(());
    }
    remove_locked(engine, container, volumes).await
}

/// The same for a caller that holds the container's lock; it must not run.
pub(super) async fn remove_locked(engine: &Arc<Engine>, container: &Arc<Container>, volumes: bool) -> Result<()> {
    let record = container.record();
    if record.state.has_processes() {
        return Err(Error::conflict(format!("container {} has been started again meanwhile", record.id)));
    }
    container.cancel_restart();
    container.publish(Record { state: State::Removing(record.state.to_ended()), ..Record::clone(&record) });
    let (worker, subject, removed) = (Arc::clone(engine), Arc::clone(container), Arc::clone(&record));
    let result = blocking(move || erase(&worker, &subject, &removed, volumes)).await;
    if let Err(error) = result {
        container.publish(Record { state: State::Dead(record.state.to_ended()), ..Record::clone(&record) });
        let error = error.context(format!("remove container {}", record.id));
        container.set_phase(|phase| phase.removal_error = Some(error.message.clone()));
        return Err(error);
    }
    engine.events.publish("container", "destroy", container.id(), record.event_attributes());
    drop(container.take_waiting());
    container.set_phase(|phase| {
        phase.active = false;
        phase.removed = true;
    });
    engine.sweep_soon();
    Ok(())
}

/// The record goes first: what is left of a container without one is litter, which the next start removes.
fn erase(engine: &Engine, container: &Container, record: &Record, volumes: bool) -> Result<()> {
    engine.containers.remove(container)?;
    let mut failures: Vec<String> = Vec::new();
    let mut note = |result: Result<()>| failures.extend(result.err().map(|error| error.to_string()));
    note(engine.graph.remove_container_layer(&record.id).map_err(Into::into));
    note(put_aside(engine, &record.id));
    for name in record.anonymous_volumes.iter().filter(|_| volumes) {
        if in_use(engine, name).is_none() {
            note(engine.volumes.remove(name));
        }
    }
    for failure in failures {
        warn!("remove what container {} had: {failure}", record.id);
    }
    Ok(())
}

/// The container that uses a volume, if any.
pub(crate) fn in_use(engine: &Engine, volume: &str) -> Option<Arc<Container>> {
    let uses =
        |container: &Arc<Container>| container.record().mounts.iter().any(|m| m.kind == "volume" && m.name == volume);
    engine.containers.all().into_iter().find(uses)
}

/// That there are containers of which nobody knows what they use.
pub(crate) fn unknown_users(engine: &Engine) -> Option<String> {
    if let Some((id, _)) = engine.containers.unreadable().first_key_value() {
        return Some(format!("the record of container {} cannot be read", id.get(..12).unwrap_or(id)));
    }
    // Those of images have no directory there.
    let directories = engine.options.data_root.join("containers");
    let is_container = |id: &String| fs::symlink_metadata(directories.join(id)).is_ok();
    let lost = engine.graph.lost_layers().into_iter().find(is_container)?;
    Some(format!("the record of container {} was lost with a damaged database", lost.get(..12).unwrap_or(&lost)))
}

/// Moves a container's directory to where the sweep deletes it.
pub(crate) fn put_aside(engine: &Engine, id: &str) -> Result<()> {
    let containers = engine.options.data_root.join("containers");
    let aside = containers.join(REMOVED);
    fs::create_dir_all(&aside)?;
    match fs::rename(containers.join(id), aside.join(format!("{id}.{}", fs::unique()))) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Deletes the directories of removed containers; one that cannot be deleted does not keep the others.
pub(crate) fn sweep_directories(engine: &Engine) -> Result<()> {
    fs::remove_children(engine.options.data_root.join("containers").join(REMOVED))?;
    Ok(engine.volumes.sweep()?)
}
