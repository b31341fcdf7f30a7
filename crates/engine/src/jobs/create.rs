//! `create`: makes a container of an image: checks everything, then its layer, its volumes, its record.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::ErrorKind;
use gantry_api::container::{Config, CreateRequest, CreateResponse, Healthcheck};
use gantry_api::hostconfig::HostConfig;
use gantry_graph::Image;
use jiff::Timestamp;

use crate::container::Record;
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Caller, Class, Context, Job};
use crate::policy::{Known, Subject};
use crate::spec::confinement::SecurityOptions;
use crate::spec::mounts::Wanted;
use crate::spec::{self, merge_environment, mounts, security};
use crate::{lifecycle, names, networks};

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

    fn subject(&self) -> Subject<'_> {
        Subject::NewContainer(&self.request)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.request(&mut self.request);
    }

    fn arguments(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        format!("{} {name}", self.request.config.image).trim_end().to_owned()
    }

    async fn run(self, context: Context) -> Result<CreateResponse> {
        let engine = Arc::clone(&context.engine);
        let caller = match context.environment.caller {
            Caller::Process { uid, gid, .. } => Some((uid, gid)),
            Caller::Daemon | Caller::Remote { .. } => None,
        };
        let judged = context.environment.door.as_ref().is_some_and(|door| door.is_guarded());
        blocking(move || create(&engine, self, caller, judged)).await
    }
}

/// Refuses a name that does not follow the grammar.
pub(super) fn check_name(name: &str) -> Result<()> {
    if names::is_valid(name) {
        return Ok(());
    }
    Err(Error::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

fn create(engine: &Engine, job: Create, caller: Option<(u32, u32)>, judged: bool) -> Result<CreateResponse> {
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
    (record.caller, record.exact_binds) = (caller, judged);
    if judged {
        mounts::refuse_links(&wanted)?;
    }
    let links = networks::links::wanted(engine, &record.host_config).map_err(|error| match error.kind {
        ErrorKind::NotFound => Error::invalid(error.message),
        _ => error,
    })?;
    let warnings = spec::users::unmappable(record.users.as_ref(), &wanted)?;
    lifecycle::make::make(engine, &image, &mut record, wanted, links, name)?;
    engine.events.publish("container", "create", &record.id, record.event_attributes());
    let foreign = platform.is_none_or(|platform| platform.is_empty()).then(|| foreign_platform(&image)).flatten();
    let discarded = record.host_config.network_mode == "host"
        && record.host_config.port_bindings.as_ref().is_some_and(|map| !map.is_empty());
    let discarded = discarded.then(|| "Published ports are discarded when using host network mode".to_owned());
    Ok(CreateResponse { id: record.id, warnings: foreign.into_iter().chain(warnings).chain(discarded).collect() })
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
    let probes = |check: &Healthcheck| check.test.iter().flatten().next().is_some_and(|word| word != "NONE");
    if config.healthcheck.as_ref().is_some_and(probes) {
        return Err(Error::not_implemented("health checks (--health-cmd) are not supported yet"));
    }
    let asked = networking_config.endpoints_config;
    networks::check_shared(&config, &host_config, asked.as_ref())?;
    merge(&mut config, image.config.config.as_ref());
    let (path, args) = command(&config)?;
    let exposed: Vec<String> = config.exposed_ports.iter().flatten().map(|(key, _)| key.clone()).collect();
    fill_in(engine, &config, &mut host_config)?;
    let networks = networks::validate(engine, &mut host_config, asked, &exposed)?;
    spec::identify(&mut host_config, &engine.containers)?;
    networks::check_mac(engine, &host_config, &config.mac_address)?;
    spec::validate::validate(engine, &config, &host_config)?;
    spec::host_name(&mut config, &host_config);
    let users = spec::users::of(engine, &host_config)?;
    let wanted = mounts::wanted(&config, &host_config, &engine.containers)?;
    let image_name = config.image.clone();
    let record = Record {
        image_id: image.id.to_string(),
        image_name,
        networks,
        path,
        args,
        users,
        ..Record::new(names::random_id()?, Timestamp::now(), config, host_config)
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

/// The cgroup namespace of a container that asks for none.
pub fn usual_cgroup_namespace<'a>(engine: &'a Engine, host_config: &HostConfig) -> &'a str {
    if host_config.privileged { "host" } else { &engine.options.cgroupns_mode }
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
        host_config.ipc_mode.clone_from(&options.ipc_mode);
    }
    if host_config.cgroupns_mode.is_empty() {
        host_config.cgroupns_mode = usual_cgroup_namespace(engine, host_config).to_owned();
    }
    if host_config.runtime.is_empty() {
        host_config.runtime = engine.drivers.exec.name().into();
    } else if host_config.runtime != engine.drivers.exec.name() {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host_config.runtime)));
    }
    if SecurityOptions::new(host_config, &options.security)?.system_paths {
        host_config.masked_paths.get_or_insert_default();
        host_config.readonly_paths.get_or_insert_default();
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
