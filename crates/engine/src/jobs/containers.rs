//! `containers`: the list that `docker ps` shows.

use std::cmp::Reverse;
use std::sync::Arc;

use gantry_api::container::{ContainerSummary, PortSummary, SummaryHostConfig, SummaryNetworks};
use gantry_api::filters::{Filters, Matcher};
use gantry_api::reference::Reference;
use jiff::Timestamp;

use crate::container::{Container, Record};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Environment, Job};
use crate::networks::{self, port_map, protocol_name};

const KNOWN: [&str; 16] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "ip",
];
const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// Lists containers.
pub struct Containers {
    /// Those that do not run as well.
    pub all: bool,
    /// At most so many, the newest; more than 0 implies `all`.
    pub limit: i64,
    /// With sizes.
    pub size: bool,
    /// As the query says them.
    pub filters: Option<String>,
}

impl Job for Containers {
    const NAME: &'static str = "containers";
    const DOC: &'static str = "lists containers";
    const CLASS: Class = Class::Read;
    type Output = Vec<ContainerSummary>;

    async fn run(self, context: Context) -> Result<Vec<ContainerSummary>> {
        let filters = Filters::parse(self.filters.as_deref(), &KNOWN)?;
        for state in filters.get("status") {
            if !STATES.contains(&state) {
                return Err(Error::invalid(format!("invalid filter 'status={state}'")));
            }
        }
        let Context { engine, environment, .. } = context;
        if !self.size {
            return list(&engine, &self, &filters, &environment);
        }
        blocking(move || list(&engine, &self, &filters, &environment)).await
    }
}

fn list(
    engine: &Engine,
    job: &Containers,
    filters: &Filters,
    environment: &Environment,
) -> Result<Vec<ContainerSummary>> {
    let mut records: Vec<Arc<Record>> = engine.containers.all().iter().map(|container| container.record()).collect();
    records.retain(|record| environment.shows(&record.labels()));
    records.sort_by_key(|record| Reverse(record.created));
    // Who may not be seen has no age either.
    let shown = |container: &Container| environment.shows(&container.record().labels());
    let created = |name: &str| engine.containers.get_among(name, shown).map(|container| container.record().created);
    let before = filters.get("before").map(created).collect::<Result<Vec<_>>>()?;
    let since = filters.get("since").map(created).collect::<Result<Vec<_>>>()?;
    let names = filters.matcher("name")?;
    let by_state = filters.get("status").next().is_some() || filters.get("exited").next().is_some();
    let wanted = |record: &&Arc<Record>| {
        (job.all || job.limit > 0 || by_state || record.state.has_processes() || record.state.is_active())
            && before.iter().all(|moment| record.created < *moment)
            && since.iter().all(|moment| record.created > *moment)
            && matches(engine, record, filters, &names)
    };
    let limit = usize::try_from(job.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let now = Timestamp::now();
    records.iter().filter(wanted).take(limit).map(|record| summary(engine, record, now, job.size)).collect()
}

fn matches(engine: &Engine, record: &Record, filters: &Filters, names: &Matcher) -> bool {
    let port = |wanted: &str, host: bool| {
        let (wanted, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        let (first, last) = wanted.split_once('-').unwrap_or((wanted, wanted));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { return false };
        ports(record).iter().any(|port| {
            let number = if host { port.public_port } else { port.private_port };
            port.kind == protocol && (first..=last).contains(&number)
        })
    };
    let ancestor = |wanted: &str| {
        record.image_id == wanted
            || record.image_id.trim_start_matches("sha256:").starts_with(wanted) && wanted.len() >= 4
            || crate::images::find(engine, wanted).is_ok_and(|image| image.id.as_str() == record.image_id)
    };
    filters.labels(&record.labels())
        && filters.any("id", |wanted| record.id.starts_with(wanted))
        && (names.matches(&record.name) || names.matches(&format!("/{}", record.name)))
        && filters.any("status", |wanted| record.state.name() == wanted)
        && filters
            .any("exited", |wanted| record.state.name() == "exited" && wanted.parse() == Ok(record.state.exit_code()))
        && filters.any("ancestor", ancestor)
        && filters.any("network", |wanted| {
            record.networks.keys().any(|name| name == wanted || engine.networks.id(name).starts_with(wanted))
        })
        && filters.any("volume", |wanted| record.mounts.iter().any(|m| m.name == wanted || m.destination == wanted))
        && filters.any("publish", |wanted| port(wanted, true))
        && filters.any("expose", |wanted| port(wanted, false))
        && filters.any("health", |wanted| wanted == "none")
        && filters.any("is-task", |wanted| wanted == "false")
}

/// Published and exposed ports.
fn ports(record: &Record) -> Vec<PortSummary> {
    let mut list = Vec::new();
    for port in record.endpoints.values().flat_map(|endpoint| &endpoint.ports) {
        list.push(PortSummary {
            ip: port.host_ip.to_string(),
            private_port: port.container_port,
            public_port: port.host_port,
            kind: protocol_name(port.protocol).into(),
        });
    }
    if record.state.has_processes() {
        let exposed: Vec<String> = record.config.exposed_ports.iter().flatten().map(|(key, _)| key.clone()).collect();
        for (key, _) in port_map(record.endpoints.values(), &exposed).iter().filter(|(_, bindings)| bindings.is_none())
        {
            let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            if let Ok(private_port) = port.parse() {
                list.push(PortSummary { private_port, kind: protocol.into(), ..PortSummary::default() });
            }
        }
    }
    list.sort();
    list
}

fn summary(engine: &Engine, record: &Record, now: Timestamp, size: bool) -> Result<ContainerSummary> {
    // One that is removed meanwhile has no size.
    let sizes = size.then(|| engine.graph.container_size(&record.id).ok()).flatten();
    let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(ContainerSummary {
        id: record.id.clone(),
        names: networks::links::names(engine, record),
        image: shown_image(engine, record),
        image_id: record.image_id.clone(),
        command: command(record),
        created: record.created.as_second(),
        ports: ports(record),
        size_rw: sizes.map(|(own, _)| bytes(own)).filter(|own| *own > 0),
        size_root_fs: sizes.map(|(_, whole)| bytes(whole)),
        labels: record.labels(),
        state: record.state.name().into(),
        status: record.state.sentence(now),
        host_config: SummaryHostConfig { network_mode: record.host_config.network_mode.clone() },
        network_settings: SummaryNetworks { networks: engine.networks.of_container(record) },
        mounts: record.mounts.clone(),
    })
}

/// The name that was asked for while it still means that image, else the image's id.
fn shown_image(engine: &Engine, record: &Record) -> String {
    let images = engine.graph.images();
    match images.resolve(&record.image_name) {
        Ok(image) if image.id.as_str() == record.image_id => record.image_name.clone(),
        _ if Reference::parse(&record.image_name).is_ok() => record.image_id.clone(),
        _ => record.image_name.clone(),
    }
}

fn command(record: &Record) -> String {
    let quote = |word: &String| {
        if word.contains([' ', '\t', '"']) { format!("'{word}'") } else { word.clone() }
    };
    std::iter::once(&record.path).chain(&record.args).map(quote).collect::<Vec<_>>().join(" ")
}
