//! Recovery: what an earlier daemon left is taken up again, or its end is recorded, or it is litter and goes.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use gantry_execdriver::{Error as ExecError, Exit, Running};
use gantry_linux::fs;
use jiff::Timestamp;
use tracing::{info, warn};

use super::{exit, remove, restart, start};
use crate::container::state::Run;
use crate::container::{Container, Record, State};
use crate::engine::{Engine, blocking};
use crate::networks;

/// The code of a container whose end nobody saw: the machine went down.
const UNSEEN: i32 = 255;

/// How long to wait before a supervisor that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// What was found of one container.
enum Found {
    /// It ended, perhaps unseen.
    Ended(Arc<Container>, Exit),
    /// Its supervisor is there and does not answer.
    Silent(Arc<Container>),
}

/// Takes up every container.
pub async fn all(engine: &Arc<Engine>) {
    let worker = Arc::clone(engine);
    let found = blocking(move || {
        let found = reattach(&worker);
        litter(&worker);
        // A container that has no record has a link all the same.
        if !worker.graph.was_rescued() && worker.containers.unreadable().is_empty() {
            worker.networks.restored(&worker);
            worker.names.forget_others();
        }
        networks::finish(&worker);
        if let Err(error) = worker.graph.end_rescue() {
            warn!("the next start takes the database for damaged again: {error}");
        }
        Ok(found)
    });
    let found = match found.await {
        Ok(found) => found,
        Err(error) => return warn!("take up containers: {error}"),
    };
    for found in found {
        match found {
            Found::Ended(container, exit) => exit::handle(engine, &container, exit).await,
            Found::Silent(container) => {
                tokio::spawn(ask_again(Arc::downgrade(engine), container));
            }
        }
    }
    let mut containers = engine.containers.all();
    // Those that others link to come first.
    containers.sort_by_cached_key(|container| height(engine, container.id()));
    for container in containers {
        revive(engine, &container).await;
    }
}

/// How many containers a container stands on by its links, one upon the other.
fn height(engine: &Engine, id: &str) -> usize {
    let links = engine.containers.links_of(id).into_iter();
    links.map(|(_, child)| 1 + height(engine, child.id())).max().unwrap_or(0)
}

/// Finds the supervisors of containers that ran, or were about to; returns those that do not simply go on.
fn reattach(engine: &Arc<Engine>) -> Vec<Found> {
    let listed: HashSet<String> = match engine.drivers.exec.list() {
        Ok(ids) => ids.into_iter().collect(),
        Err(error) => {
            warn!("list supervisors: {error}");
            HashSet::new()
        }
    };
    let mut found = Vec::new();
    for container in engine.containers.all() {
        let ran = container.record().state.has_processes();
        if ran || listed.contains(container.id()) {
            found.extend(look(engine, &container, ran));
        }
    }
    found
}

/// Looks for the supervisor of one container.
fn look(engine: &Arc<Engine>, container: &Arc<Container>, ran: bool) -> Option<Found> {
    match engine.drivers.exec.restore(container.id()) {
        Ok(running) => {
            adopt(engine, container, running);
            None
        }
        Err(ExecError::NotFound(_)) if ran => Some(Found::Ended(Arc::clone(container), last_exit(engine, container))),
        Err(ExecError::NotFound(_)) => {
            // Its end was recorded, and the daemon died before it could forget the run; or the start never came to be.
            if let Err(error) = engine.drivers.exec.forget(container.id()) {
                warn!("forget the run of container {}: {error}", container.id());
            }
            None
        }
        Err(error) => {
            warn!("the supervisor of container {} does not answer: {error}", container.id());
            // Whatever it does, the container goes on: its links, addresses and ports are nobody else's.
            networks::restore(engine, &container.record());
            networks::names::put(engine, container, None);
            Some(Found::Silent(Arc::clone(container)))
        }
    }
}

/// Takes a running container up, also one whose start an earlier daemon did not live to record.
fn adopt(engine: &Arc<Engine>, container: &Arc<Container>, running: Arc<dyn Running>) {
    let record = container.record();
    networks::restore(engine, &record);
    if !record.state.has_processes() {
        let state = State::Running(Run { pid: running.pid(), started_at: Timestamp::now() });
        let changed = Record { state, ..Record::clone(&record) };
        if let Err(error) = engine.containers.save(container, changed.clone()) {
            warn!("record that container {} runs: {error}", container.id());
            container.publish(changed);
        }
    }
    container.set_phase(|phase| phase.active = true);
    container.set_running(Some(Arc::clone(&running)));
    networks::names::put(engine, container, None);
    start::follow(engine, container.id(), &running);
    info!(container = container.id(), pid = running.pid(), "container goes on");
}

/// How the supervisor recorded the end, or that nobody saw it.
fn last_exit(engine: &Engine, container: &Container) -> Exit {
    let unseen = || Exit { code: UNSEEN, oom_killed: false, finished_at: SystemTime::now() };
    match engine.drivers.exec.last_exit(container.id()) {
        Ok(exit) => exit.unwrap_or_else(unseen),
        Err(error) => {
            warn!("read how container {} ended: {error}", container.id());
            unseen()
        }
    }
}

/// Asks a silent supervisor until it answers or is gone.
async fn ask_again(engine: Weak<Engine>, container: Arc<Container>) {
    loop {
        tokio::time::sleep(AGAIN).await;
        let Some(engine) = engine.upgrade().filter(|engine| !engine.is_stopping()) else { return };
        let (worker, subject) = (Arc::clone(&engine), Arc::clone(&container));
        match blocking(move || Ok(look(&worker, &subject, true))).await {
            Ok(None) => return,
            Ok(Some(Found::Ended(container, exit))) => return exit::handle(&engine, &container, exit).await,
            Ok(Some(Found::Silent(_))) => {}
            Err(error) => return warn!("take up container {}: {error}", container.id()),
        }
    }
}

/// Removes what belongs to no container: supervisors, writable layers, directories.
fn litter(engine: &Engine) {
    if engine.graph.was_rescued() {
        // What has no record may have had one in the database that was damaged.
        return warn!("the database was damaged: what belongs to no known container is left alone");
    }
    let mut known: HashSet<String> =
        engine.containers.all().iter().map(|container| container.id().to_owned()).collect();
    known.extend(engine.containers.unreadable().into_keys());
    known.extend(engine.graph.lost_layers());
    match engine.drivers.exec.list() {
        Ok(ids) => {
            for id in ids.iter().filter(|id| !known.contains(*id)) {
                warn!("container {id} has a supervisor and no record: ending it");
                if let Ok(running) = engine.drivers.exec.restore(id)
                    && let Err(error) = running.kill_all()
                {
                    warn!("end container {id}: {error}");
                }
                if let Err(error) = engine.drivers.exec.forget(id) {
                    warn!("forget container {id}: {error}");
                }
            }
        }
        Err(error) => warn!("list supervisors: {error}"),
    }
    for id in engine.graph.container_layers().iter().filter(|id| !known.contains(*id)) {
        if let Err(error) = engine.graph.remove_container_layer(id) {
            warn!("remove the layer of a container that is gone: {error}");
        }
    }
    let directories = fs::list(engine.options.data_root.join("containers")).unwrap_or_default();
    for name in directories.iter().filter_map(|name| name.to_str()).filter(|name| name.len() == 64) {
        if !known.contains(name)
            && let Err(error) = remove::put_aside(engine, name)
        {
            warn!("remove the directory of a container that is gone: {error}");
        }
    }
}

/// Starts what its policy wants running, and removes what `--rm` wants gone.
async fn revive(engine: &Arc<Engine>, container: &Arc<Container>) {
    let record = container.record();
    if record.host_config.auto_remove && !record.state.is_active() {
        if let Err(error) = remove::remove(engine, container, false, true).await {
            warn!("remove container {} (--rm): {error}", container.id());
        }
        return;
    }
    let policy = record.host_config.restart_policy.name.as_str();
    let wanted = match &record.state {
        State::Restarting(_) => true,
        // `always` means with the daemon, whoever stopped it.
        State::Exited(_) if policy == "always" => true,
        State::Exited(ended) => policy != "on-failure" && restart::wanted(&record, ended.code),
        _ => false,
    };
    if wanted && let Err(error) = start::start(engine, container).await {
        warn!("start container {} by its restart policy: {error}", container.id());
    }
}
