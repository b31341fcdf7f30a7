//! `container_inspect`: everything about one container.

use gantry_api::hostconfig::HostConfig;
use gantry_api::inspect;

use crate::container::Record;
use crate::container::state::format_time;
use crate::engine::{Engine, blocking};
use crate::error::Result;
use crate::exec::ExecState;
use crate::job::{Class, Context, Job};
use crate::networks;
use crate::policy::{Known, Subject};
use crate::spec::confinement::SecurityOptions;

/// Shows a container.
pub struct ContainerInspect {
    /// Name or id.
    pub container: String,
    /// With sizes.
    pub size: bool,
}

impl Job for ContainerInspect {
    const NAME: &'static str = "container_inspect";
    const DOC: &'static str = "shows everything about a container";
    const CLASS: Class = Class::Read;
    type Output = inspect::ContainerInspect;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<inspect::ContainerInspect> {
        let engine = context.engine;
        let container = engine.containers.get(&self.container)?;
        let live = container.execs().into_iter().filter(|exec| !matches!(exec.state(), ExecState::Ended { .. }));
        let execs: Vec<String> = live.map(|exec| exec.id.clone()).collect();
        let record = container.record();
        let mut shown = describe(&engine, &record);
        shown.exec_ids = Some(execs).filter(|list| !list.is_empty());
        let (worker, id) = (std::sync::Arc::clone(&engine), record.id.clone());
        shown.graph_driver =
            blocking(move || Ok(crate::images::graph_driver(&worker, worker.graph.container_places(&id)))).await?;
        if self.size {
            let id = record.id.clone();
            let (own, whole) = blocking(move || Ok(engine.graph.container_size(&id)?)).await?;
            shown.size_rw = i64::try_from(own).ok();
            shown.size_root_fs = i64::try_from(whole).ok();
        }
        Ok(shown)
    }
}

fn describe(engine: &Engine, record: &Record) -> inspect::ContainerInspect {
    let directory = crate::files::directory(engine, record);
    let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let log_path = if record.host_config.log_config.kind == "none" {
        String::new()
    } else {
        record.log_path(&engine.options.data_root).to_string_lossy().into_owned()
    };
    let mut config = record.config.clone();
    config.hostname = record.hostname().to_owned();
    inspect::ContainerInspect {
        id: record.id.clone(),
        created: format_time(record.created),
        path: record.path.clone(),
        args: record.args.clone(),
        state: record.state.to_api(),
        image: record.image_id.clone(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path,
        name: format!("/{}", record.name),
        restart_count: record.restart_count,
        driver: engine.drivers.graph.name().into(),
        platform: "linux".into(),
        app_armor_profile: apparmor_profile(engine, record),
        host_config: HostConfig { links: networks::links::shown(engine, record), ..record.host_config.clone() },
        mounts: record.mounts.clone(),
        config,
        network_settings: network_settings(engine, record),
        ..inspect::ContainerInspect::default()
    }
}

/// As [`crate::spec`] will have it; a record that cannot be read any more names none.
fn apparmor_profile(engine: &Engine, record: &Record) -> String {
    let host_config = &record.host_config;
    let asked = SecurityOptions::new(host_config, &engine.options.security).ok().and_then(|security| security.apparmor);
    engine.apparmor.shown(asked.as_deref(), host_config.privileged).to_owned()
}

fn network_settings(engine: &Engine, record: &Record) -> inspect::NetworkSettings {
    let exposed: Vec<String> = record.config.exposed_ports.iter().flatten().map(|(key, _)| key.clone()).collect();
    let running = record.state.has_processes();
    let mut settings = inspect::NetworkSettings {
        ports: if running { networks::port_map(record.endpoints.values(), &exposed) } else { Default::default() },
        networks: engine.networks.of_container(record),
        ..inspect::NetworkSettings::default()
    };
    if let Some(run) = record.state.current_run() {
        settings.sandbox_id = engine.networks.derived_id(&format!("sandbox {}", record.id));
        settings.sandbox_key = format!("/proc/{}/ns/net", run.pid);
    }
    if let Some(bridge) = settings.networks.get("bridge").cloned() {
        settings.endpoint_id = bridge.endpoint_id;
        settings.gateway = bridge.gateway;
        settings.ip_address = bridge.ip_address;
        settings.ip_prefix_len = bridge.ip_prefix_len;
        settings.mac_address = bridge.mac_address;
        settings.ipv6_gateway = bridge.ipv6_gateway;
        settings.global_ipv6_address = bridge.global_ipv6_address;
        settings.global_ipv6_prefix_len = bridge.global_ipv6_prefix_len;
    }
    settings
}
