//! `stats`: what a container uses, once or every second.

use std::time::Duration;

use gantry_linux::fs;
use jiff::Timestamp;
use libcontainer::cgroups::Stats as Usage;
use serde_json::{Value, json};

use crate::container::Container;
use crate::engine::blocking;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};
use crate::spec::host::Host;
use crate::stream::{Opening, Outlet};

/// Streams statistics.
pub struct Stats {
    /// Name or id.
    pub container: String,
    /// Every second, until the container or the caller ends.
    pub stream: bool,
    /// Do not wait for a second sample.
    pub one_shot: bool,
    /// Gets one JSON document each.
    pub outlet: Outlet,
}

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

impl Job for Stats {
    const NAME: &'static str = "stats";
    const DOC: &'static str = "streams what a container uses";
    const CLASS: Class = Class::Stream;
    const READS: bool = true;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        self.outlet.open(Opening::default());
        let mut ticker = tokio::time::interval(INTERVAL);
        let mut previous = Value::Null;
        let mut phases = container.phases();
        for round in 0_u64.. {
            tokio::select! {
                _ = ticker.tick() => {}
                _ = phases.changed() => if !phases.borrow().active { return Ok(()) },
                () = self.outlet.closed() => return Ok(()),
                () = context.cancelled.cancelled() => return Ok(()),
            }
            let sample = sample(&context.engine.host, &container, &previous).await?;
            previous = sample["cpu_stats"].clone();
            let whole = self.one_shot || round > 0 || self.stream || container.running().is_none();
            if !whole {
                continue;
            }
            if !self.outlet.send_json(&sample).await || !self.stream {
                return Ok(());
            }
        }
        Ok(())
    }
}

async fn sample(host: &Host, container: &Container, previous: &Value) -> Result<Value> {
    let record = container.record();
    let Some(running) = container.running() else {
        return Ok(json!({ "id": record.id, "name": format!("/{}", record.name) }));
    };
    let pid = running.pid();
    let (mut usage, system, network) = blocking(move || Ok((running.stats()?, system_cpu(), network(pid)))).await?;
    // The kernel's "no limit" is more than any machine has.
    usage.memory_limit = usage.memory_limit.min(u64::try_from(host.memory).unwrap_or(u64::MAX));
    Ok(json!({
        "id": record.id,
        "name": format!("/{}", record.name),
        "read": Timestamp::now().to_string(),
        "preread": "0001-01-01T00:00:00Z",
        "num_procs": 0,
        "pids_stats": { "current": usage.pids_current, "limit": usage.pids_limit },
        "cpu_stats": cpu(&usage, system, host.cpus),
        "precpu_stats": if previous.is_null() { json!({"cpu_usage": {"total_usage": 0}}) } else { previous.clone() },
        "memory_stats": memory(&usage),
        "blkio_stats": { "io_service_bytes_recursive": blkio(&usage.blkio_bytes), "io_serviced_recursive": blkio(&usage.blkio_ops) },
        "networks": network,
    }))
}

fn cpu(usage: &Usage, system: u64, cpus: u32) -> Value {
    json!({
        "cpu_usage": {
            "total_usage": usage.cpu_total,
            "percpu_usage": usage.cpu_per_cpu,
            "usage_in_kernelmode": usage.cpu_system,
            "usage_in_usermode": usage.cpu_user,
        },
        "system_cpu_usage": system,
        "online_cpus": cpus,
        "throttling_data": {
            "periods": usage.periods,
            "throttled_periods": usage.throttled_periods,
            "throttled_time": usage.throttled_time,
        },
    })
}

fn memory(usage: &Usage) -> Value {
    let stat: serde_json::Map<String, Value> =
        usage.memory_stat.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "usage": usage.memory_usage,
        "max_usage": usage.memory_max_usage,
        "failcnt": usage.memory_failcnt,
        "limit": usage.memory_limit,
        "stats": stat,
    })
}

fn blkio(entries: &[(u32, u32, String, u64)]) -> Value {
    entries
        .iter()
        .map(|(major, minor, op, value)| json!({ "major": major, "minor": minor, "op": op, "value": value }))
        .collect()
}

/// CPU time of the whole host, nanoseconds; 0 where `/proc/stat` cannot be read.
fn system_cpu() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    line.split_whitespace().take(8).filter_map(|text| text.parse::<u64>().ok()).sum::<u64>() * 10_000_000
}

/// Bytes and packets of each link of the container's network namespace.
fn network(pid: i32) -> Value {
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut links = serde_json::Map::new();
    for line in table.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|text| text.parse().ok()).collect();
        if name.trim() == "lo" || numbers.len() < 12 {
            continue;
        }
        links.insert(
            name.trim().to_owned(),
            json!({
                "rx_bytes": numbers[0], "rx_packets": numbers[1], "rx_errors": numbers[2], "rx_dropped": numbers[3],
                "tx_bytes": numbers[8], "tx_packets": numbers[9], "tx_errors": numbers[10], "tx_dropped": numbers[11],
            }),
        );
    }
    Value::Object(links)
}
