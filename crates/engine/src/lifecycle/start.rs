//! Starting: a warm supervisor, a place on the network, the files, the description; undone when any of it fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_execdriver::{Error as ExecError, LogFile, NameDoors, Running, Sandbox, Start};
use jiff::Timestamp;
use tracing::warn;

use super::remove;
use crate::container::state::{Ended, Run, StartFailure};
use crate::container::{Container, Record, State};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::{files, networks, spec};

/// Starts a container.
///
/// # Errors
/// `NotModified` when it runs; the step that failed otherwise, also recorded in the container's state.
pub async fn start(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<()> {
    let _guard = container.operation.lock().await;
    start_locked(engine, container).await
}

/// The same for a caller that holds the container's lock.
pub(super) async fn start_locked(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<()> {
    let record = container.record();
    match &record.state {
        State::Running(_) => return Err(Error::not_modified("")),
        State::Paused(_) => {
            return Err(Error::conflict("cannot start a paused container, try unpause instead"));
        }
        State::Removing(_) | State::Dead(_) => {
            return Err(Error::conflict("container is marked for removal and cannot be started"));
        }
        State::Created { .. } | State::Restarting(_) | State::Exited(_) => {}
    }
    container.cancel_restart();
    engine.containers.clear_execs(container);
    container.arrivals_settled().await;
    let (worker, subject) = (Arc::clone(engine), Arc::clone(container));
    let auto_remove = record.host_config.auto_remove;
    let started = blocking(move || {
        let record = Record { stopped_by_user: false, endpoints: BTreeMap::new(), ..Record::clone(&record) };
        run(&worker, &subject, record)
    })
    .await;
    if started.is_err()
        && auto_remove
        && let Err(error) = remove::remove_locked(engine, container, true).await
    {
        warn!("remove container {} (--rm) after its failed start: {error}", container.id());
    }
    started
}

fn run(engine: &Arc<Engine>, container: &Arc<Container>, mut record: Record) -> Result<()> {
    let (running, doors) = match launch(engine, container, &mut record) {
        Ok(launched) => launched,
        Err(failure) => {
            record_failure(engine, container, record, &failure);
            return Err(failure.into());
        }
    };
    record.state = State::Running(Run { pid: running.pid(), started_at: Timestamp::now() });
    let attributes = record.event_attributes();
    if let Err(error) = engine.containers.save(container, record.clone()) {
        // It runs, and readers must know; the next daemon finds its supervisor and takes it up.
        warn!("record that container {} runs: {error}", record.id);
        container.publish(record);
    }
    container.set_running(Some(Arc::clone(&running)));
    container.set_phase(|phase| phase.active = true);
    let record = container.record();
    networks::names::put(engine, container, doors);
    networks::announce(engine, &record, "connect");
    // Those that link to it know its address from now on.
    for (parent, _) in engine.containers.linked_by(&record.id) {
        if parent.running().is_some()
            && let Err(error) = files::refresh_hosts(engine, &parent.record(), "")
        {
            warn!("tell container {} of its link: {error}", parent.id());
        }
    }
    engine.events.publish("container", "start", container.id(), attributes);
    follow(engine, container.id(), &running);
    Ok(())
}

/// Has the end of a container reported to the engine.
pub(super) fn follow(engine: &Engine, id: &str, running: &Arc<dyn Running>) {
    let (exits, id) = (engine.exits.clone(), id.to_owned());
    running.on_exit(Box::new(move |exit| {
        // The receiver is gone only when the daemon is: the next one learns it from the exit record.
        let _ = exits.send((id, exit));
    }));
}

/// A failed start: what the caller is told, and the exit code that is recorded.
struct Failure {
    error: Error,
    code: i32,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, code: 128 }
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        let code = match &error {
            ExecError::CommandNotFound(_) => 127,
            ExecError::CommandNotExecutable(_) => 126,
            _ => 128,
        };
        Self { error: Error::from(error).context("failed to start container"), code }
    }
}

/// What runs, and where its questions for names arrive.
type Launched = std::result::Result<(Arc<dyn Running>, Option<NameDoors>), Failure>;

fn launch(engine: &Engine, container: &Container, record: &mut Record) -> Launched {
    let mut sandbox = engine.drivers.exec.prepare()?;
    if let Some(users) = spec::users::namespace(engine, record)? {
        sandbox.map_users(&users)?;
    }
    let doors = sandbox.take_names();
    let keeper = files::keeper(engine, record);
    if let Some(keeper) = &keeper {
        // Who shares a network is called the same there, or would not find its own name.
        keeper.hostname().clone_into(&mut record.config.hostname);
        record.config.domainname.clone_from(&keeper.config.domainname);
    }
    // One that was made when such a container had a name of its own.
    spec::host_name(&mut record.config, &record.host_config);
    networks::links::check_running(engine, record)?;
    networks::join(engine, record, &*sandbox)?;
    // With its place on the network recorded, the next daemon can take it up however early this one dies.
    let recorded = engine.containers.save(container, record.clone()).map_err(Failure::from);
    let names_arrive = doors.is_some();
    let started =
        recorded.and_then(|()| launch_joined(engine, container, record, keeper.as_deref(), sandbox, names_arrive));
    let started = started.map_err(|failure| match engine.graph.look_over(&record.id) {
        // That is why, whatever the step that noticed says.
        Err(damage @ gantry_graph::Error::DamagedLayer { .. }) => Failure::from(Error::from(damage)),
        _ => failure,
    });
    if started.is_err() {
        networks::leave(engine, record);
        record.endpoints.clear();
    }
    Ok((started?, doors))
}

fn launch_joined(
    engine: &Engine,
    container: &Container,
    record: &Record,
    keeper: Option<&Record>,
    sandbox: Box<dyn Sandbox>,
    names_arrive: bool,
) -> std::result::Result<Arc<dyn Running>, Failure> {
    engine.containers.copy(record);
    if keeper.is_none() {
        files::write(engine, record, names_arrive)?;
    }
    let files = keeper.unwrap_or(record).directory(&engine.options.data_root);
    let root = engine.graph.container_root(&record.id, false).map_err(Error::from)?;
    let config = spec::build(engine, record, root, &files)?;
    Ok(sandbox.start(Start {
        config,
        log: log_file(engine, record)?,
        open_stdin: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
        attached: container.take_waiting(),
    })?)
}

/// Where the container's output goes; `None` with the log driver `none`.
pub(crate) fn log_file(engine: &Engine, record: &Record) -> Result<Option<LogFile>> {
    let log = &record.host_config.log_config;
    if log.kind == "none" {
        return Ok(None);
    }
    let option =
        |name: &str| log.config.iter().flatten().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
    let max_size = match option("max-size").unwrap_or("20m") {
        "-1" => None,
        text => Some(parse_size(text).ok_or_else(|| Error::invalid(format!("invalid log option max-size={text}")))?),
    };
    let max_files = option("max-file").map_or(Ok(5), str::parse);
    let max_files = max_files.ok().filter(|count| *count > 0);
    let max_files = max_files.ok_or_else(|| Error::invalid("invalid log option max-file: want a number above 0"))?;
    Ok(Some(LogFile { path: record.log_path(&engine.options.data_root), max_size, max_files }))
}

/// `10m`, `64k`, `1g`, plain bytes.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match lower[digits.len()..].trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok().filter(|number| *number > 0)?.checked_mul(factor)
}

fn record_failure(engine: &Engine, container: &Container, mut record: Record, failure: &Failure) {
    drop(container.take_waiting());
    let message = failure.error.message.clone();
    record.endpoints.clear();
    record.state = match &record.state {
        State::Created { .. } => {
            State::Created { failure: Some(StartFailure { code: failure.code, message: message.clone() }) }
        }
        earlier => State::Exited(Ended { code: failure.code, error: message.clone(), ..earlier.to_ended() }),
    };
    let mut attributes: BTreeMap<String, String> = record.event_attributes();
    attributes.insert("exitCode".into(), failure.code.to_string());
    if let Err(error) = engine.containers.save(container, record) {
        warn!("record the failed start of container {}: {error}", container.id());
    }
    engine.events.publish("container", "die", container.id(), attributes);
    container.set_phase(|phase| {
        phase.ends += 1;
        phase.active = false;
        phase.code = failure.code;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_logs_are_read_with_their_units() {
        for (text, bytes) in
            [("10", Some(10)), ("64k", Some(65536)), ("1MB", Some(1 << 20)), ("0", None), ("x", None), ("1t", None)]
        {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
