//! `create`: makes a container of an image: checks everything, then its layer, its volumes, its record.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::ErrorKind;
use gantry_api::container::{Config, CreateRequest, CreateResponse};
use gantry_api::hostconfig::HostConfig;
use gantry_api::volume::VolumeCreate;
use gantry_graph::Image;
use gantry_linux::fs;
use jiff::Timestamp;

use crate::container::{Record, State};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::spec::mounts::Wanted;
use crate::spec::{self, merge_environment, mounts, resources, security};
use crate::{names, networks};

/// Makes a container.
pub struct Create {
    /// Its name; a random one where none is given.
    pub name: Option<String>,
    /// `os/architecture`, where one was asked for.
    pub platform: Option<String>,
    /// Everything else.
    pub request: CreateRequest,
}

impl Job for Create {
    const NAME: &'static str = "create";
    const DOC: &'static str = "makes a container of an image";
    const CLASS: Class = Class::Change;
    type Output = CreateResponse;

    fn arguments(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        format!("{} {name}", self.request.config.image).trim_end().to_owned()
    }

    async fn run(self, context: Context) -> Result<CreateResponse> {
        let engine = Arc::clone(&context.engine);
        blocking(move || create(&engine, self)).await
    }
}

/// Refuses a name that does not follow the grammar.
pub(super) fn check_name(name: &str) -> Result<()> {
    if names::is_valid(name) {
        return Ok(());
    }
    Err(Error::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

fn create(engine: &Engine, job: Create) -> Result<CreateResponse> {
    let Create { name, platform, request } = job;
    let name = name.map(|name| name.strip_prefix('/').unwrap_or(&name).to_owned());
    if let Some(name) = &name {
        check_name(name)?;
    }
    let image = image_of(engine, &request.config.image, platform.as_deref())?;
    // Clients take "not found" for the image, and pull it; what else is missing is told as a bad request.
    let (mut record, wanted) = plan(engine, &image, request).map_err(|error| match error.kind {
        ErrorKind::NotFound => Error::invalid(error.message),
        _ => error,
    })?;
    if let Err(error) = make(engine, &image, &mut record, wanted, name) {
        undo(engine, &record);
        return Err(error);
    }
    engine.events.publish("container", "create", &record.id, record.event_attributes());
    let foreign = platform.is_none_or(|platform| platform.is_empty()).then(|| foreign_platform(&image)).flatten();
    Ok(CreateResponse { id: record.id, warnings: foreign.into_iter().collect() })
}

/// Docker's warning about an image for another machine.
fn foreign_platform(image: &Image) -> Option<String> {
    let (os, architecture) = (&image.config.os, &image.config.architecture);
    let host = super::version::architecture();
    (!architecture.is_empty() && architecture != host).then(|| {
        format!(
            "The requested image's platform ({os}/{architecture}) does not match the detected host platform \
             (linux/{host}) and no specific platform was requested"
        )
    })
}

/// Checks everything, and makes nothing.
fn plan(engine: &Engine, image: &Image, request: CreateRequest) -> Result<(Record, Vec<Wanted>)> {
    let CreateRequest { mut config, mut host_config, networking_config } = request;
    let hostname_given = !config.hostname.is_empty();
    merge(&mut config, image.config.config.as_ref());
    let (path, args) = command(&config)?;
    let exposed: Vec<String> = config.exposed_ports.iter().flatten().map(|(key, _)| key.clone()).collect();
    fill_in(engine, &config, &mut host_config)?;
    networks::validate(engine, &mut host_config, &exposed, hostname_given)?;
    let networks = endpoints(networking_config.endpoints_config, &host_config)?;
    validate(engine, &config, &host_config)?;
    let wanted = mounts::wanted(&config, &host_config, &engine.containers)?;
    let record = Record {
        id: names::random_id()?,
        name: String::new(),
        created: Timestamp::now(),
        image_id: image.id.to_string(),
        image_name: config.image.clone(),
        config,
        host_config,
        networks,
        path,
        args,
        mounts: Vec::new(),
        state: State::Created { failure: None },
        restart_count: 0,
        stopped_by_user: false,
        endpoint: None,
        anonymous_volumes: Vec::new(),
    };
    // An unusable setting is refused here, not at the start.
    spec::mounts::mounts(&[], &record.host_config)?;
    crate::lifecycle::start::log_file(engine, &record)?;
    Ok((record, wanted))
}

fn image_of(engine: &Engine, name: &str, platform: Option<&str>) -> Result<Arc<Image>> {
    if name.is_empty() {
        return Err(Error::invalid("config cannot be empty in order to create a container: name an image"));
    }
    let image = crate::images::find(engine, name)?;
    if let Some(platform) = platform.filter(|platform| !platform.is_empty()) {
        let (os, architecture) = (image.config.os.as_str(), image.config.architecture.as_str());
        let mut parts = platform.split('/');
        let (wanted_os, wanted_arch) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(architecture));
        if !os.eq_ignore_ascii_case(wanted_os) || architecture != wanted_arch {
            return Err(Error::not_found(format!(
                "image with reference {name} was found but its platform ({os}/{architecture}) does not match the \
                 specified platform ({platform})"
            )));
        }
    }
    Ok(image)
}

/// The image's configuration under the caller's.
fn merge(config: &mut Config, image: Option<&Config>) {
    let Some(image) = image else { return };
    let string = |own: &mut String, other: &String| {
        if own.is_empty() {
            own.clone_from(other);
        }
    };
    string(&mut config.user, &image.user);
    string(&mut config.working_dir, &image.working_dir);
    string(&mut config.stop_signal, &image.stop_signal);
    if config.entrypoint.is_none() {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        config.entrypoint.clone_from(&image.entrypoint);
    } else if config.entrypoint.as_deref() == Some(&[String::new()]) {
        // `--entrypoint ""` takes the image's away.
        config.entrypoint = None;
    }
    let mut env = image.env.clone().unwrap_or_default();
    merge_environment(&mut env, config.env.as_deref().unwrap_or_default());
    config.env = Some(env);
    for (port, empty) in image.exposed_ports.iter().flatten() {
        config.exposed_ports.get_or_insert_default().entry(port.clone()).or_insert(*empty);
    }
    for (path, empty) in image.volumes.iter().flatten() {
        config.volumes.get_or_insert_default().entry(path.clone()).or_insert(*empty);
    }
    let mut labels = image.labels.clone().unwrap_or_default();
    labels.extend(config.labels.take().unwrap_or_default());
    config.labels = Some(labels);
    if config.healthcheck.is_none() {
        config.healthcheck.clone_from(&image.healthcheck);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
}

/// Program and arguments.
fn command(config: &Config) -> Result<(String, Vec<String>)> {
    let mut words = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned();
    match words.next() {
        Some(path) => Ok((path, words.collect())),
        None => Err(Error::invalid("no command specified")),
    }
}

/// Defaults of what the caller left open.
fn fill_in(engine: &Engine, config: &Config, host_config: &mut HostConfig) -> Result<()> {
    let options = &engine.options;
    if host_config.shm_size == 0 {
        host_config.shm_size = options.shm_size;
    }
    let log = &mut host_config.log_config;
    if log.kind.is_empty() {
        log.kind.clone_from(&options.log_driver);
    }
    if log.kind == options.log_driver && log.config.as_ref().is_none_or(BTreeMap::is_empty) {
        log.config = Some(options.log_options.clone()).filter(|map| !map.is_empty());
    }
    if !matches!(host_config.log_config.kind.as_str(), "json-file" | "none" | "local") {
        let driver = &host_config.log_config.kind;
        return Err(Error::invalid(format!(
            "logger: no log driver named '{driver}' is registered: use json-file or none"
        )));
    }
    if host_config.log_config.kind == "local" {
        return Err(Error::not_implemented(
            "log driver local is not supported yet: use json-file, which rotates by default",
        ));
    }
    host_config.log_config.config.get_or_insert_default();
    for (name, _) in host_config.log_config.config.iter().flatten() {
        if !matches!(name.as_str(), "max-size" | "max-file") {
            return Err(Error::invalid(format!("unknown log opt '{name}' for json-file log driver")));
        }
    }
    if host_config.ipc_mode.is_empty() {
        host_config.ipc_mode = "private".into();
    }
    if host_config.cgroupns_mode.is_empty() {
        host_config.cgroupns_mode = if host_config.privileged { "host" } else { "private" }.into();
    }
    if host_config.runtime.is_empty() {
        host_config.runtime = engine.drivers.exec.name().into();
    } else if host_config.runtime != engine.drivers.exec.name() {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host_config.runtime)));
    }
    if host_config.masked_paths.is_none() {
        host_config.masked_paths = Some(security::masked_paths(host_config));
        host_config.readonly_paths = Some(security::readonly_paths(host_config));
    }
    if config.network_disabled {
        host_config.network_mode = "none".into();
    }
    Ok(())
}

fn endpoints(
    asked: Option<BTreeMap<String, gantry_api::network::EndpointSettings>>,
    host_config: &HostConfig,
) -> Result<BTreeMap<String, gantry_api::network::EndpointSettings>> {
    let mode = &host_config.network_mode;
    let mut kept = BTreeMap::new();
    for (name, settings) in asked.into_iter().flatten() {
        let name = if name == "default" { mode.clone() } else { name };
        if name != *mode {
            return Err(Error::not_found(format!("network {name} not found")));
        }
        kept.insert(name, settings);
    }
    Ok(kept)
}

fn validate(engine: &Engine, config: &Config, host_config: &HostConfig) -> Result<()> {
    resources::validate(host_config, &engine.host)?;
    security::security_options(host_config)?;
    security::capabilities(host_config)?;
    security::devices(host_config)?;
    spec::namespaces(
        &HostConfig {
            pid_mode: strip_container(&host_config.pid_mode),
            network_mode: String::new(),
            ..host_config.clone()
        },
        &engine.containers,
    )?;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for variable in config.env.iter().flatten() {
        if variable.starts_with('=') || variable.contains('\0') {
            return Err(Error::invalid(format!("invalid environment variable: {variable}")));
        }
    }
    if !config.stop_signal.is_empty() {
        super::kill::parse_signal(&config.stop_signal)?;
    }
    let policy = &host_config.restart_policy;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if policy.maximum_retry_count != 0 => {
            return Err(Error::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ));
        }
        "" | "no" => {}
        "always" | "unless-stopped" | "on-failure" if host_config.auto_remove => {
            return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
        }
        "always" | "unless-stopped" => {}
        "on-failure" if policy.maximum_retry_count < 0 => {
            return Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"));
        }
        "on-failure" => {}
        other => {
            return Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    }
    refuse_unsupported(host_config)
}

fn strip_container(mode: &str) -> String {
    if mode.starts_with("container:") { String::new() } else { mode.to_owned() }
}

/// What Docker has and this does not have yet is refused by name, never ignored.
fn refuse_unsupported(host_config: &HostConfig) -> Result<()> {
    let some = |list: &Option<Vec<serde_json::Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let unsupported = [
        ("--cgroup-parent", !host_config.cgroup_parent.is_empty()),
        ("--blkio-weight-device", some(&host_config.blkio_weight_device)),
        ("--device-read-bps", some(&host_config.blkio_device_read_bps)),
        ("--device-write-bps", some(&host_config.blkio_device_write_bps)),
        ("--device-read-iops", some(&host_config.blkio_device_read_iops)),
        ("--device-write-iops", some(&host_config.blkio_device_write_iops)),
        ("--gpus", some(&host_config.device_requests)),
        ("--cpu-rt-runtime", host_config.cpu_realtime_runtime != 0 || host_config.cpu_realtime_period != 0),
        ("--storage-opt", host_config.storage_opt.as_ref().is_some_and(|map| !map.is_empty())),
        ("--volume-driver", !matches!(host_config.volume_driver.as_str(), "" | "local")),
        ("--isolation", !matches!(host_config.isolation.as_str(), "" | "default")),
    ];
    match unsupported.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Error::not_implemented(format!("{flag} is not supported yet"))),
        None => Ok(()),
    }
}

fn make(engine: &Engine, image: &Image, record: &mut Record, wanted: Vec<Wanted>, name: Option<String>) -> Result<()> {
    fs::create_dir_mode(record.directory(&engine.options.data_root), 0o710)?;
    engine.graph.create_container_layer(&record.id, &image.id)?;
    for wanted in wanted {
        let point = mount_point(engine, image, record, wanted)?;
        record.mounts.push(point);
    }
    if let Some(name) = name {
        record.name = name;
        engine.containers.add(record.clone())?;
        return Ok(());
    }
    for attempt in 0..20 {
        record.name = names::random_name(attempt)?;
        match engine.containers.add(record.clone()) {
            Err(error) if error.kind == ErrorKind::Conflict => {}
            other => return other.map(|_| ()),
        }
    }
    Err(Error::conflict("no free name was found in 20 attempts: give one with --name"))
}

/// Makes what a mount needs on the host.
fn mount_point(
    engine: &Engine,
    image: &Image,
    record: &mut Record,
    wanted: Wanted,
) -> Result<gantry_api::inspect::MountPoint> {
    let mut point = wanted.point;
    if point.kind == "bind" && wanted.make_source && fs::symlink_metadata(&point.source).is_err() {
        fs::create_dir_all(&point.source)?;
    }
    if point.kind == "volume" && point.source.is_empty() {
        let anonymous = point.name.is_empty();
        let request = VolumeCreate { name: point.name.clone(), labels: wanted.labels, ..VolumeCreate::default() };
        let (volume, new) = engine.volumes.create(&request)?;
        if anonymous {
            record.anonymous_volumes.push(volume.name.clone());
        }
        if new {
            let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
            engine.events.publish("volume", "create", &volume.name, attributes);
        }
        if !wanted.no_copy {
            crate::archive::copy_up(engine, image, &point.destination, std::path::Path::new(&volume.mountpoint))?;
        }
        point.name.clone_from(&volume.name);
        point.source.clone_from(&volume.mountpoint);
    }
    Ok(point)
}

/// Takes back what a failed create made.
fn undo(engine: &Engine, record: &Record) {
    let mut failures: Vec<String> = Vec::new();
    let mut note = |result: Result<()>| failures.extend(result.err().map(|error| error.to_string()));
    note(engine.graph.remove_container_layer(&record.id).map_err(Into::into));
    note(crate::lifecycle::remove::put_aside(engine, &record.id));
    for name in &record.anonymous_volumes {
        note(engine.volumes.remove(name));
    }
    engine.sweep_soon();
    for failure in failures {
        tracing::warn!("undo the failed create of container {}: {failure}", record.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Config {
        Config {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["arg".into()]),
            env: Some(vec!["A=1".into(), "B=2".into()]),
            ..Config::default()
        }
    }

    #[test]
    fn the_callers_command_replaces_the_images_and_keeps_its_entrypoint() {
        let mut config = Config { cmd: Some(vec!["mine".into()]), ..Config::default() };
        merge(&mut config, Some(&image()));
        assert_eq!(command(&config).unwrap(), ("/entry".into(), vec!["mine".into()]));
    }

    #[test]
    fn the_callers_entrypoint_drops_the_images_command() {
        let mut config = Config { entrypoint: Some(vec!["/mine".into()]), ..Config::default() };
        merge(&mut config, Some(&image()));
        assert_eq!(command(&config).unwrap(), ("/mine".into(), vec![]));
        let mut config =
            Config { entrypoint: Some(vec![String::new()]), cmd: Some(vec!["x".into()]), ..Config::default() };
        merge(&mut config, Some(&image()));
        assert_eq!(command(&config).unwrap(), ("x".into(), vec![]));
    }

    #[test]
    fn variables_of_the_caller_win() {
        let mut config = Config { env: Some(vec!["B=3".into()]), ..Config::default() };
        merge(&mut config, Some(&image()));
        assert_eq!(config.env.unwrap(), ["A=1", "B=3"]);
    }
}
