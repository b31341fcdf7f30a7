//! `update`: other limits and another restart policy for a container that is there.

use std::sync::Arc;

use gantry_api::container::UpdateResponse;
use gantry_api::hostconfig::HostConfig;

use crate::container::{Record, State};
use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};
use crate::spec::{resources, validate};

/// Changes limits.
pub struct Update {
    /// Name or id.
    pub container: String,
    /// What is to be changed; what is empty there stays as it is.
    pub wanted: HostConfig,
}

impl Job for Update {
    const NAME: &'static str = "update";
    const DOC: &'static str = "changes limits and the restart policy of a container";
    const CLASS: Class = Class::Change;
    type Output = UpdateResponse;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<UpdateResponse> {
        let engine = &context.engine;
        let container = engine.containers.get(&self.container)?;
        validate::refuse_unsupported(&self.wanted)?;
        let _guard = container.operation.lock().await;
        let record = container.record();
        if matches!(record.state, State::Removing(_) | State::Dead(_)) {
            return Err(Error::conflict(format!(
                "Cannot update container {}: Container is marked for removal and cannot be \"update\".",
                record.id
            )));
        }
        let asks_limits = resources::resources(&self.wanted) != resources::resources(&HostConfig::default());
        let refused = |error: Error| error.context(format!("Cannot update container {}", record.id));
        validate::restart_policy(&self.wanted).map_err(refused)?;
        let merged = merge(&record.host_config, self.wanted).map_err(refused)?;
        validate::restart_policy(&merged).map_err(refused)?;
        let limits = resources::resources(&merged);
        // Limits that nobody asked to change may be none that this host would take today, and stay.
        if limits != resources::resources(&record.host_config) {
            resources::validate(&merged, &engine.host).map_err(refused)?;
        }
        let changed = Record { host_config: merged, ..Record::clone(&record) };
        let running = container.running().filter(|_| asks_limits && record.state.has_processes());
        let (worker, subject, before) = (Arc::clone(engine), Arc::clone(&container), Record::clone(&record));
        blocking(move || {
            worker.containers.save(&subject, changed)?;
            let set = running.map_or(Ok(()), |running| running.update(&limits));
            set.map_err(|error| {
                let mut error = Error::from(error);
                if let Err(more) = worker.containers.save(&subject, before) {
                    error.message =
                        format!("{}; and the earlier limits could not be written again: {more}", error.message);
                }
                error
            })
        })
        .await
        .map_err(refused)?;
        // The copy of one that runs says what it was before, and is written when it starts again.
        if !record.state.has_processes() {
            engine.containers.copy(&container.record());
        }
        engine.events.publish("container", "update", container.id(), container.record().event_attributes());
        Ok(UpdateResponse::default())
    }
}

/// What it has, with what is wanted in its place.
fn merge(old: &HostConfig, wanted: HostConfig) -> Result<HostConfig> {
    let refuse = |message: &str| Err(Error::conflict(message));
    if wanted.cpu_period > 0 && old.nano_cpus > 0 {
        return refuse("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set");
    }
    if wanted.cpu_quota > 0 && old.nano_cpus > 0 {
        return refuse("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    if wanted.nano_cpus > 0 && (old.cpu_period > 0 || old.cpu_quota > 0) {
        return refuse(
            "Conflicting options: NanoCPUs cannot be updated as CPU Period (or CPU Quota) has already been set",
        );
    }
    if old.memory_swap > 0 && wanted.memory > old.memory_swap && wanted.memory_swap == 0 {
        return refuse(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    let other = |wanted: i64, old: i64| if wanted == 0 { old } else { wanted };
    let text = |wanted: String, old: &String| if wanted.is_empty() { old.clone() } else { wanted };
    let mut merged = HostConfig {
        blkio_weight: if wanted.blkio_weight == 0 { old.blkio_weight } else { wanted.blkio_weight },
        cpu_shares: other(wanted.cpu_shares, old.cpu_shares),
        cpu_period: other(wanted.cpu_period, old.cpu_period),
        cpu_quota: other(wanted.cpu_quota, old.cpu_quota),
        nano_cpus: other(wanted.nano_cpus, old.nano_cpus),
        cpuset_cpus: text(wanted.cpuset_cpus, &old.cpuset_cpus),
        cpuset_mems: text(wanted.cpuset_mems, &old.cpuset_mems),
        memory: other(wanted.memory, old.memory),
        memory_reservation: other(wanted.memory_reservation, old.memory_reservation),
        memory_swap: other(wanted.memory_swap, old.memory_swap),
        // 0 is no limit, as for `run`; for what runs the earlier one has to be lifted.
        pids_limit: wanted.pids_limit.map(|limit| if limit == 0 { -1 } else { limit }).or(old.pids_limit),
        ..old.clone()
    };
    if !wanted.restart_policy.name.is_empty() {
        if old.auto_remove && wanted.restart_policy.name != "no" {
            return refuse("Restart policy cannot be updated because AutoRemove is enabled for the container");
        }
        merged.restart_policy = wanted.restart_policy;
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays_and_what_contradicts_is_refused() {
        let old =
            HostConfig { memory: 64 << 20, nano_cpus: 500_000_000, cpuset_cpus: "0".into(), ..HostConfig::default() };
        let merged =
            merge(&old, HostConfig { memory: 32 << 20, pids_limit: Some(0), ..HostConfig::default() }).unwrap();
        assert_eq!((merged.memory, merged.nano_cpus, merged.cpuset_cpus.as_str()), (32 << 20, 500_000_000, "0"));
        assert_eq!(merged.pids_limit, Some(-1));
        let refused = |old: &HostConfig, wanted: HostConfig| merge(old, wanted).unwrap_err().message;
        assert!(refused(&old, HostConfig { cpu_quota: 5000, ..HostConfig::default() }).contains("CPU Quota cannot be"));
        let old = HostConfig { memory: 64 << 20, memory_swap: 64 << 20, auto_remove: true, ..HostConfig::default() };
        let message = refused(&old, HostConfig { memory: 65 << 20, ..HostConfig::default() });
        assert!(message.contains("already set memoryswap limit"), "{message}");
        assert!(merge(&old, HostConfig { memory: 65 << 20, memory_swap: -1, ..HostConfig::default() }).is_ok());
        let mut wanted = HostConfig::default();
        wanted.restart_policy.name = "always".into();
        assert!(refused(&old, wanted).contains("AutoRemove is enabled"));
    }
}
