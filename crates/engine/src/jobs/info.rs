//! `info`: what the daemon has, and how it is set up.

use std::collections::BTreeMap;

use gantry_api::system::{self, IndexConfig, Plugins, RegistryConfig, Runtime, Swarm};
use gantry_linux::fs;
use jiff::Timestamp;

use super::version::VERSION;
use crate::container::State;
use crate::engine::{Engine, blocking};
use crate::error::Result;
use crate::job::{Class, Context, Job};

/// The daemon's state and settings.
pub struct Info;

impl Job for Info {
    const NAME: &'static str = "info";
    const DOC: &'static str = "tells what the daemon has and how it is set up";
    const CLASS: Class = Class::Read;
    type Output = system::Info;

    async fn run(self, context: Context) -> Result<system::Info> {
        let engine = context.engine;
        blocking(move || Ok(describe(&engine))).await
    }
}

fn describe(engine: &Engine) -> system::Info {
    let states: Vec<State> = engine.containers.all().iter().map(|container| container.record().state.clone()).collect();
    let count = |wanted: fn(&State) -> bool| i64::try_from(states.iter().filter(|s| wanted(s)).count()).unwrap_or(0);
    let options = &engine.options;
    let mut driver_status: Vec<[String; 2]> =
        engine.drivers.graph.status().into_iter().map(|(name, value)| [name, value]).collect();
    driver_status.push(["Chosen because".into(), engine.drivers.graph_reason.clone()]);
    system::Info {
        id: engine.networks.derived_id("daemon"),
        containers: i64::try_from(states.len()).unwrap_or(0),
        containers_running: count(|state| matches!(state, State::Running(_) | State::Restarting(_))),
        containers_paused: count(|state| matches!(state, State::Paused(_))),
        containers_stopped: count(|state| !state.is_active()),
        images: i64::try_from(engine.graph.images().iter().count()).unwrap_or(0),
        driver: engine.drivers.graph.name().into(),
        driver_status,
        execution_driver: engine.drivers.exec.name().into(),
        plugins: Plugins {
            volume: vec!["local".into()],
            network: vec!["bridge".into(), "host".into(), "null".into()],
            authorization: None,
            log: vec!["json-file".into(), "none".into()],
        },
        debug: options.debug,
        n_fd: fs::list("/proc/self/fd").map_or(-1, |fds| i64::try_from(fds.len()).unwrap_or(-1)),
        n_goroutines: fs::list("/proc/self/task").map_or(-1, |tasks| i64::try_from(tasks.len()).unwrap_or(-1)),
        n_events_listener: i64::try_from(engine.events.listeners()).unwrap_or(0),
        system_time: Timestamp::now().to_string(),
        logging_driver: options.log_driver.clone(),
        index_server_address: "https://index.docker.io/v1/".into(),
        registry_config: Some(registries(options)),
        docker_root_dir: options.data_root.to_string_lossy().into_owned(),
        labels: options.labels.clone(),
        server_version: VERSION.into(),
        runtimes: BTreeMap::from([(engine.drivers.exec.name().to_owned(), Runtime::default())]),
        default_runtime: engine.drivers.exec.name().into(),
        swarm: Swarm { local_node_state: "inactive".into(), ..Swarm::default() },
        live_restore_enabled: true,
        init_binary: "built in".into(),
        security_options: security_options(engine),
        warnings: Some(warnings(engine)).filter(|list| !list.is_empty()),
        http_proxy: masked(&options.http_proxy),
        https_proxy: masked(&options.https_proxy),
        no_proxy: options.no_proxy.clone(),
        ..of_host(engine)
    }
}

/// What the machine is, and can.
fn of_host(engine: &Engine) -> system::Info {
    system::Info {
        memory_limit: true,
        swap_limit: true,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        oom_kill_disable: true,
        ipv4_forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1"),
        cgroup_driver: "cgroupfs".into(),
        cgroup_version: match engine.host.hierarchies.version() {
            libcontainer::cgroups::Version::V1 => "1",
            libcontainer::cgroups::Version::V2 => "2",
        }
        .into(),
        kernel_version: engine.host.kernel.clone(),
        operating_system: engine.host.system.clone(),
        os_version: engine.host.system_version.clone(),
        os_type: "linux".into(),
        architecture: std::env::consts::ARCH.into(),
        n_cpu: i64::from(engine.host.cpus),
        mem_total: engine.host.memory,
        name: engine.host.name.clone(),
        ..system::Info::default()
    }
}

fn warnings(engine: &Engine) -> Vec<String> {
    let mut warnings = damage(engine);
    warnings.extend(engine.apparmor.lacking().map(|lacking| format!("WARNING: {lacking}")));
    if engine.options.security.seccomp_name != "builtin" {
        warnings.push("WARNING: daemon is not using the default seccomp profile".into());
    }
    warnings
}

/// What is stored and damaged, and what was put aside.
fn damage(engine: &Engine) -> Vec<String> {
    let aside = engine.graph.quarantined().into_iter().map(|(path, reason)| {
        format!("{reason}; it was put aside in {}: remove that when it is of no use any more", path.display())
    });
    let unreadable = engine.containers.unreadable().into_iter().map(|(id, reason)| {
        format!("the record of container {id} cannot be read and was left alone: {reason}: see `gantry system fsck`")
    });
    aside.chain(engine.graph.damage()).chain(unreadable).map(|line| format!("WARNING: {line}")).collect()
}

/// What confines containers that do not say, as Docker lists it.
fn security_options(engine: &Engine) -> Vec<String> {
    let options = &engine.options;
    let seccomp = format!("name=seccomp,profile={}", options.security.seccomp_name);
    let all = [
        ("name=apparmor", engine.apparmor.visible()),
        (&seccomp, true),
        ("name=cgroupns", options.cgroupns_mode == "private"),
        ("name=no-new-privileges", options.security.no_new_privileges),
        ("name=userns", options.userns_remap.is_some()),
    ];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.to_owned()).collect()
}

/// An address without the password that may be in it, as Docker shows it.
fn masked(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (&url[..scheme.len() + 3], rest));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}xxxxx:xxxxx@{host}"),
        None => url.to_owned(),
    }
}

fn registries(options: &crate::options::Options) -> RegistryConfig {
    let hub = IndexConfig {
        name: "docker.io".into(),
        mirrors: options.registry_mirrors.clone(),
        secure: true,
        official: true,
    };
    let insecure = options.insecure_registries.iter();
    let (cidrs, hosts): (Vec<_>, Vec<_>) = insecure.cloned().partition(|registry| registry.contains('/'));
    let mut index_configs = BTreeMap::from([("docker.io".to_owned(), hub)]);
    for name in hosts {
        index_configs.insert(name.clone(), IndexConfig { name, ..IndexConfig::default() });
    }
    RegistryConfig {
        insecure_registry_cidrs: cidrs.into_iter().chain(["127.0.0.0/8".to_owned(), "::1/128".into()]).collect(),
        index_configs,
        mirrors: options.registry_mirrors.clone(),
    }
}
