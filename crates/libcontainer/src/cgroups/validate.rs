//! Limits refused before anything is made, in the words that Docker's users know.

use std::collections::BTreeSet;

use gantry_linux::{Result, fs};

use super::files::read as read_file;
use super::hierarchies::{Hierarchies, Version};
use crate::config::Resources;

const MINIMUM_MEMORY: i64 = 6 << 20;

/// What limits are measured against; read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostInfo {
    /// Processors that a container can use.
    pub cpus: u32,
    /// The same as a list, `0-3`.
    pub cpu_list: String,
    /// Memory nodes, as a list.
    pub node_list: String,
    /// Swap is accounted.
    pub swap_limit: bool,
    /// Weighted I/O is there.
    pub blkio_weight: bool,
}

impl HostInfo {
    /// Reads it from the root of the hierarchies.
    pub fn read(hierarchies: &Hierarchies) -> Result<Self> {
        let v1 = hierarchies.version() == Version::V1;
        let cpuset = hierarchies.controller("cpuset").map(|h| h.mount.as_path());
        let effective = |file: &str| cpuset.and_then(|m| read_file(&m.join(file)).ok()).map(|t| t.trim().to_owned());
        let cpu_list = match effective("cpuset.effective_cpus").or_else(|| effective("cpuset.cpus.effective")) {
            Some(list) if !list.is_empty() => list,
            _ => fs::read_to_string("/sys/devices/system/cpu/online")?.trim().to_owned(),
        };
        let node_list = match effective("cpuset.effective_mems").or_else(|| effective("cpuset.mems.effective")) {
            Some(list) if !list.is_empty() => list,
            _ => "0".to_owned(),
        };
        let there =
            |controller, file: &str| hierarchies.controller(controller).is_some_and(|h| h.mount.join(file).exists());
        let cpus = parse_list(&cpu_list).map_or(1, |s| u32::try_from(s.len()).unwrap_or(u32::MAX));
        // On v2 the files are missing from the root; swap is accounted wherever memory is.
        let swap_limit = if v1 {
            there("memory", "memory.memsw.limit_in_bytes")
        } else {
            hierarchies.controller("memory").is_some()
        };
        let blkio_weight = if v1 {
            there("blkio", "blkio.weight") || there("blkio", "blkio.bfq.weight")
        } else {
            hierarchies.controller("io").is_some()
        };
        Ok(Self { cpus, cpu_list, node_list, swap_limit, blkio_weight })
    }
}

/// Refuses limits that make no sense or that the host cannot give; the message is for the person who asked.
pub fn validate(resources: &Resources, host: &HostInfo) -> std::result::Result<(), String> {
    memory(resources)?;
    cpu(resources, host)?;
    if let Some(weight) = resources.blkio_weight
        && weight != 0
        && !(10..=1000).contains(&weight)
    {
        return Err("Range of blkio weight is from 10 to 1000".to_owned());
    }
    for rule in &resources.device_rules {
        if rule.access.is_empty() || rule.access.len() > 3 || rule.access.chars().any(|c| !"rwm".contains(c)) {
            return Err(format!("invalid device access {:?}: use letters of rwm", rule.access));
        }
    }
    Ok(())
}

/// `--cpus` in billionths, against the host.
pub fn validate_nano_cpus(nano_cpus: i64, host: &HostInfo) -> std::result::Result<(), String> {
    let n = host.cpus;
    if nano_cpus == 0 || (nano_cpus >= 10_000_000 && nano_cpus <= i64::from(n) * 1_000_000_000) {
        return Ok(());
    }
    Err(format!("range of CPUs is from 0.01 to {n}.00, as there are only {n} CPUs available"))
}

fn memory(r: &Resources) -> std::result::Result<(), String> {
    let (memory, swap) = (r.memory.unwrap_or(0), r.memory_swap.unwrap_or(0));
    let reservation = r.memory_reservation.unwrap_or(0);
    if memory != 0 && memory != -1 && memory < MINIMUM_MEMORY {
        return Err("Minimum memory limit allowed is 6MB".to_owned());
    }
    if memory > 0 && swap > 0 && swap < memory {
        return Err("Minimum memoryswap limit should be larger than memory limit, see usage".to_owned());
    }
    if memory == 0 && swap > 0 {
        return Err("You should always set the Memory limit when using Memoryswap limit, see usage".to_owned());
    }
    if swap < -1 {
        return Err(format!("invalid value: {swap}, memory and swap together is -1 (unlimited) or a number of bytes"));
    }
    if let Some(swappiness) = r.memory_swappiness.filter(|s| *s > 100) {
        return Err(format!("invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    if reservation != 0 && reservation < MINIMUM_MEMORY {
        return Err("Minimum memory reservation allowed is 6MB".to_owned());
    }
    if memory > 0 && reservation > 0 && memory < reservation {
        return Err("Minimum memory limit can not be less than memory reservation limit, see usage".to_owned());
    }
    Ok(())
}

fn cpu(r: &Resources, host: &HostInfo) -> std::result::Result<(), String> {
    if r.cpu_period.is_some_and(|p| p != 0 && !(1_000..=1_000_000).contains(&p)) {
        return Err("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)".to_owned());
    }
    if r.cpu_quota.is_some_and(|q| q != 0 && q != -1 && q < 1_000) {
        return Err("CPU cfs quota can not be less than 1ms (i.e. 1000)".to_owned());
    }
    let lists = [
        (&r.cpuset_cpus, &host.cpu_list, "cpuset cpus", "CPUs"),
        (&r.cpuset_mems, &host.node_list, "cpuset mems", "memory nodes"),
    ];
    for (wanted, available, field, noun) in lists {
        let Some(wanted) = wanted.as_deref().filter(|w| !w.is_empty()) else { continue };
        let Some(set) = parse_list(wanted) else {
            return Err(format!("Invalid value {wanted} for {field}"));
        };
        if !parse_list(available).is_some_and(|have| set.is_subset(&have)) {
            return Err(format!("Requested {noun} are not available - requested {wanted}, available: {available}"));
        }
    }
    Ok(())
}

/// A kernel list such as `0-2,4`; `None` when it is not one.
fn parse_list(text: &str) -> Option<BTreeSet<u16>> {
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 8191 {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostInfo {
        HostInfo { cpus: 2, cpu_list: "0-1".into(), node_list: "0".into(), ..HostInfo::default() }
    }

    #[test]
    fn bad_limits_are_refused_in_dockers_words() {
        let of = |r: Resources| validate(&r, &host()).unwrap_err();
        assert_eq!(of(Resources { memory: Some(1024), ..Resources::default() }), "Minimum memory limit allowed is 6MB");
        assert_eq!(
            of(Resources { cpuset_cpus: Some("0-7".into()), ..Resources::default() }),
            "Requested CPUs are not available - requested 0-7, available: 0-1"
        );
        assert_eq!(
            of(Resources { cpuset_cpus: Some("x".into()), ..Resources::default() }),
            "Invalid value x for cpuset cpus"
        );
        assert_eq!(
            validate_nano_cpus(1_000_000_000_000, &host()).unwrap_err(),
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
        );
        let good =
            Resources { memory: Some(64 << 20), memory_swap: Some(-1), cpu_quota: Some(-1), ..Resources::default() };
        assert_eq!(validate(&good, &host()), Ok(()));
    }
}
