//! Limits: from the API's numbers to the kernel's, with Docker's refusals.

use gantry_api::hostconfig::{HostConfig, Ulimit};
use libcontainer::config::{Resources, Rlimit};

use super::host::Host;
use crate::error::{Error, Result};

/// Docker's smallest memory limit.
const MINIMUM_MEMORY: i64 = 6 << 20;
/// The period of `--cpus`, microseconds.
const CPU_PERIOD: i64 = 100_000;

/// Checks limits before anything is made.
///
/// # Errors
/// The first limit that cannot be had, in Docker's words.
pub fn validate(host_config: &HostConfig, host: &Host) -> Result<()> {
    let refuse = |message: &str| Err(Error::invalid(message));
    let HostConfig { memory, memory_swap, memory_reservation, nano_cpus, cpu_period, cpu_quota, .. } = *host_config;
    if memory != 0 && memory < MINIMUM_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && memory_swap > 0 && memory_swap < memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && memory_swap > 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if memory_reservation < 0 || (memory_reservation > 0 && memory_reservation < MINIMUM_MEMORY) {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if memory > 0 && memory_reservation > memory {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if host_config.memory_swappiness.is_some_and(|percent| !(-1..=100).contains(&percent)) {
        return refuse("Invalid value for memory swappiness: valid memory swappiness range is 0-100");
    }
    if nano_cpus != 0 && (cpu_period != 0 || cpu_quota != 0) {
        return refuse("Conflicting options: Nano CPUs and CPU Period (or CPU Quota) cannot both be set");
    }
    if nano_cpus < 0 || nano_cpus > i64::from(host.cpus) * 1_000_000_000 || (1..10_000_000).contains(&nano_cpus) {
        let cpus = host.cpus;
        return refuse(&format!("range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"));
    }
    if cpu_period != 0 && !(1_000..=1_000_000).contains(&cpu_period) {
        return refuse("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if cpu_quota > 0 && cpu_quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if host_config.cpu_shares < 0 {
        return refuse(&format!("shares value {} is invalid: it cannot be negative", host_config.cpu_shares));
    }
    validate_cpuset(&host_config.cpuset_cpus, host.cpus)?;
    if host_config.blkio_weight != 0 && !(10..=1000).contains(&host_config.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    if !(-1000..=1000).contains(&host_config.oom_score_adj) {
        let value = host_config.oom_score_adj;
        return refuse(&format!("Invalid value {value}, range for oom score adj is [-1000, 1000]"));
    }
    if host_config.shm_size < 0 {
        return refuse("SHM size can not be less than 0");
    }
    rlimits(host_config.ulimits.as_deref().unwrap_or_default()).map(|_| ())
}

fn validate_cpuset(list: &str, cpus: u32) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let syntax = || Error::invalid(format!("Invalid value {list} for cpuset cpus: write it as 0-2,4"));
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| syntax())?;
        let last: u32 = last.trim().parse().map_err(|_| syntax())?;
        if first > last {
            return Err(syntax());
        }
        if last >= cpus {
            let available = if cpus == 1 { "0".to_owned() } else { format!("0-{}", cpus - 1) };
            return Err(Error::invalid(format!(
                "Requested CPUs are not available - requested {list}, available: {available}"
            )));
        }
    }
    Ok(())
}

/// The kernel's numbers.
#[must_use]
pub fn resources(host_config: &HostConfig) -> Resources {
    let some = |number: i64| (number != 0).then_some(number);
    let memory = some(host_config.memory);
    let (cpu_quota, cpu_period) = match host_config.nano_cpus {
        0 => (some(host_config.cpu_quota), some(host_config.cpu_period)),
        nano => (Some(nano * CPU_PERIOD / 1_000_000_000), Some(CPU_PERIOD)),
    };
    Resources {
        memory,
        // Docker: as much swap as memory, unless something else was said.
        memory_swap: some(host_config.memory_swap).or_else(|| memory.map(|bytes| bytes.saturating_mul(2))),
        memory_reservation: some(host_config.memory_reservation),
        memory_swappiness: host_config.memory_swappiness.and_then(|percent| u64::try_from(percent).ok()),
        oom_kill_disable: host_config.oom_kill_disable.unwrap_or(false),
        cpu_shares: u64::try_from(host_config.cpu_shares).ok().filter(|shares| *shares > 0),
        cpu_quota,
        cpu_period: cpu_period.and_then(|period| u64::try_from(period).ok()),
        cpuset_cpus: Some(host_config.cpuset_cpus.clone()).filter(|list| !list.is_empty()),
        cpuset_mems: Some(host_config.cpuset_mems.clone()).filter(|list| !list.is_empty()),
        pids: host_config.pids_limit.filter(|limit| *limit != 0).map(|limit| limit.max(-1)),
        blkio_weight: Some(host_config.blkio_weight).filter(|weight| *weight > 0),
        ..Resources::default()
    }
}

/// `--ulimit`s by their `RLIMIT_` names.
///
/// # Errors
/// A name that the kernel does not have, a soft limit above the hard one.
pub fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<Rlimit>> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    ulimits
        .iter()
        .map(|ulimit| {
            let name = ulimit.name.trim_start_matches("RLIMIT_").to_ascii_lowercase();
            if !NAMES.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid ulimit type: {}", ulimit.name)));
            }
            let (soft, hard) = (value(ulimit.soft), value(ulimit.hard));
            if soft > hard {
                return Err(Error::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    ulimit.soft, ulimit.hard
                )));
            }
            Ok(Rlimit { name: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft, hard })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_twice_the_memory_unless_said_otherwise() {
        let mut host_config = HostConfig { memory: 64 << 20, ..HostConfig::default() };
        assert_eq!(resources(&host_config).memory_swap, Some(128 << 20));
        host_config.memory_swap = -1;
        assert_eq!(resources(&host_config).memory_swap, Some(-1));
    }

    #[test]
    fn half_a_cpu_is_half_a_period() {
        let limits = resources(&HostConfig { nano_cpus: 500_000_000, ..HostConfig::default() });
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(50_000), Some(100_000)));
    }

    #[test]
    fn a_cpu_list_that_the_host_does_not_have_is_refused() {
        assert!(validate_cpuset("0-1", 2).is_ok());
        for bad in ["2", "0-2", "1-0", "x", "0,,1", "-1"] {
            assert!(validate_cpuset(bad, 2).is_err(), "{bad}");
        }
    }
}
