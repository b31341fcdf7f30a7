//! Recovery: what an earlier daemon left is taken up again, or its end is recorded, or it is litter and goes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use gantry_execdriver::{Error as ExecError, Exit};
use gantry_linux::fs;
use tracing::{info, warn};

use super::{exit, remove, restart, start};
use crate::container::{Container, State};
use crate::engine::{Engine, blocking};

/// The code of a container whose end nobody saw: the machine went down.
const UNSEEN: i32 = 255;

/// Takes up every container.
pub async fn all(engine: &Arc<Engine>) {
    let worker = Arc::clone(engine);
    let ended = blocking(move || {
        let ended = reattach(&worker);
        litter(&worker);
        if let Some(bridge) = &worker.drivers.bridge
            && let Err(error) = bridge.restored()
        {
            warn!("clean the bridge network: {error}");
        }
        Ok(ended)
    });
    let ended = match ended.await {
        Ok(ended) => ended,
        Err(error) => return warn!("take up containers: {error}"),
    };
    for (container, exit) in ended {
        exit::handle(engine, &container, exit).await;
    }
    for container in engine.containers.all() {
        revive(engine, &container).await;
    }
}

/// Finds the supervisors of containers that ran; returns those that have ended meanwhile.
fn reattach(engine: &Arc<Engine>) -> Vec<(Arc<Container>, Exit)> {
    let mut ended = Vec::new();
    for container in engine.containers.all() {
        let record = container.record();
        if !record.state.has_processes() {
            continue;
        }
        match engine.drivers.exec.restore(container.id()) {
            Ok(running) => {
                restore_network(engine, &container);
                container.set_running(Some(Arc::clone(&running)));
                start::follow(engine, container.id(), &running);
                info!(container = container.id(), pid = running.pid(), "container goes on");
            }
            Err(error) => {
                if !matches!(error, ExecError::NotFound(_)) {
                    warn!("reach the supervisor of container {}: {error}", container.id());
                }
                let exit = match engine.drivers.exec.last_exit(container.id()) {
                    Ok(Some(exit)) => exit,
                    Ok(None) => Exit { code: UNSEEN, oom_killed: false, finished_at: SystemTime::now() },
                    Err(error) => {
                        warn!("read how container {} ended: {error}", container.id());
                        Exit { code: UNSEEN, oom_killed: false, finished_at: SystemTime::now() }
                    }
                };
                ended.push((container, exit));
            }
        }
    }
    ended
}

fn restore_network(engine: &Engine, container: &Container) {
    let record = container.record();
    let Some(endpoint) = &record.endpoint else { return };
    let restored = match engine.networks.driver(engine, &record.host_config.network_mode) {
        Ok(Some(driver)) => driver.restore(endpoint).map_err(Into::into),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = restored {
        warn!("take up the network of container {}: {error}", container.id());
    }
}

/// Removes what belongs to no container: supervisors, writable layers, directories.
fn litter(engine: &Engine) {
    let known: HashSet<String> = engine.containers.all().iter().map(|container| container.id().to_owned()).collect();
    match engine.drivers.exec.list() {
        Ok(ids) => {
            for id in ids.iter().filter(|id| !known.contains(*id)) {
                warn!("container {id} has a supervisor and no record: ending it");
                if let Ok(running) = engine.drivers.exec.restore(id)
                    && let Err(error) = running.kill_all().and_then(|()| running.wait().map(|_| ()))
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

/// Starts what its policy wants running.
async fn revive(engine: &Arc<Engine>, container: &Arc<Container>) {
    let record = container.record();
    let wanted = match &record.state {
        State::Restarting(_) => true,
        State::Exited(ended) => {
            record.host_config.restart_policy.name != "on-failure" && restart::wanted(&record, ended.code)
        }
        _ => false,
    };
    if wanted && let Err(error) = start::start(engine, container).await {
        warn!("start container {} by its restart policy: {error}", container.id());
    }
}
