//! Limits as the files of cgroup v2, converted from v1's terms where the specification has only those.

use gantry_linux::Result;

use super::files::{invalid, unsupported};
use super::leaf::valid_name;
use super::setting::{Missing, Setting, setting};
use super::settings_v1::{cpuset, given, or_max, pids, rdma, shares};
use crate::config::{BlockRateKind, Resources};

/// Files of the core that are the runtime's own business.
const OURS: [&str; 7] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.type",
    "cgroup.subtree_control",
    "cgroup.pressure",
];

/// In the order in which they are written, and warnings. `quota` gives the one in force, for a period that comes alone.
pub(super) fn settings(r: &Resources, quota: impl FnOnce() -> Result<String>) -> Result<(Vec<Setting>, Vec<String>)> {
    refuse(r)?;
    let mut list = Vec::with_capacity(8);
    memory(r, &mut list)?;
    cpu(r, quota, &mut list)?;
    list.extend(cpuset(r));
    list.extend(pids(r));
    io(r, &mut list);
    for (size, limit) in &r.hugepages {
        list.push(setting("hugetlb", format!("hugetlb.{size}.max"), limit));
        list.push(setting("hugetlb", format!("hugetlb.{size}.rsvd.max"), limit).missing(Missing::Ignore));
    }
    list.extend(rdma(r));
    for (file, value) in &r.unified {
        list.push(unified(file, value)?);
    }
    Ok((list, warnings(r)))
}

/// What a program may rely on and v2 cannot give.
fn refuse(r: &Resources) -> Result<()> {
    let table = [
        (r.network_class.is_some(), "a network class", "match the cgroup in a firewall rule instead"),
        (!r.network_priorities.is_empty(), "network priorities", "match the cgroup in a firewall rule instead"),
        (r.cpu_realtime_runtime.is_some_and(|n| n != 0), "realtime CPU time", "drop the limit"),
        (r.cpu_realtime_period.is_some_and(|n| n != 0), "a realtime CPU period", "drop the limit"),
        (given(r.memory_kernel_tcp).is_some(), "a limit of TCP memory", "it counts as memory: limit that"),
        (r.blkio_leaf_weight.is_some_and(|w| w != 0), "leaf weights", "drop it"),
    ];
    match table.iter().find(|(asked, ..)| *asked) {
        Some((_, what, instead)) => {
            Err(unsupported("give the container", *what, format!("cgroup v2 has none; {instead}")))
        }
        None => Ok(()),
    }
}

fn warnings(r: &Resources) -> Vec<String> {
    let table = [
        (r.oom_kill_disable, "the OOM killer cannot be disabled on cgroup v2; that was left out"),
        (r.memory_swappiness.is_some(), "cgroup v2 has no swappiness per container; that was left out"),
        (
            given(r.memory_kernel).is_some(),
            "cgroup v2 has no limit of kernel memory, which counts as memory; that was left out",
        ),
    ];
    table.iter().filter(|(asked, _)| *asked).map(|(_, text)| (*text).to_owned()).collect()
}

/// v2 limits swap by itself: the sum less the memory.
fn memory(r: &Resources, list: &mut Vec<Setting>) -> Result<()> {
    let (memory, swap) = (given(r.memory), given(r.memory_swap));
    let swap = match (swap, memory) {
        (None, Some(..0)) => Some("max".to_owned()),
        (None, _) => None,
        (Some(..0), _) => Some("max".to_owned()),
        (Some(total), Some(memory @ 1..)) if total >= memory => Some((total - memory).to_string()),
        (Some(total), Some(1..)) => {
            return Err(invalid("set memory and swap to", total, "it is less than the memory limit"));
        }
        (Some(total), _) => {
            let why = "cgroup v2 limits swap by itself, so the memory limit is needed with it";
            return Err(invalid("set memory and swap to", total, why));
        }
    };
    list.extend(memory.map(|m| setting("memory", "memory.max", or_max(m))));
    list.extend(swap.map(|swap| {
        // Without swap accounting there is no swap to be had.
        let missing = if matches!(swap.as_str(), "max" | "0") { Missing::Ignore } else { Missing::Refuse };
        setting("memory", "memory.swap.max", swap).missing(missing)
    }));
    list.extend(given(r.memory_reservation).map(|m| setting("memory", "memory.low", or_max(m))));
    Ok(())
}

fn cpu(r: &Resources, current: impl FnOnce() -> Result<String>, list: &mut Vec<Setting>) -> Result<()> {
    list.extend(r.cpu_idle.map(|idle| setting("cpu", "cpu.idle", u8::from(idle))));
    if r.cpu_idle != Some(true) {
        list.extend(shares(r).map(|s| setting("cpu", "cpu.weight", weight_of_shares(s))));
    }
    list.extend(r.cpu_burst.map(|b| setting("cpu", "cpu.max.burst", b).again()));
    let value = match (given(r.cpu_quota), r.cpu_period.filter(|p| *p != 0)) {
        (None, None) => None,
        (Some(quota), None) => Some(or_max(quota)),
        (Some(quota), Some(period)) => Some(format!("{} {period}", or_max(quota))),
        (None, Some(period)) => Some(format!("{} {period}", current()?)),
    };
    list.extend(value.map(|value| setting("cpu", "cpu.max", value).again()));
    Ok(())
}

/// Shares (2–262144, 1024 is normal) on v2's scale (1–10000, 100 is normal): ends and middle meet, and between them the
/// exponents follow a parabola, as runc and crun have it.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    #![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1–10000")]
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // Rounding errors must not lift the 100 of 1024.
            (10_f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
}

fn io(r: &Resources, list: &mut Vec<Setting>) {
    let weight = |line: &dyn Fn(u64) -> String, plain: u16| {
        // BFQ's scale is v1's own.
        let other = Missing::Instead("io.bfq.weight", line(u64::from(plain)));
        setting("io", "io.weight", line(weight_of_blkio(plain))).missing(other)
    };
    list.extend(r.blkio_weight.filter(|w| *w != 0).map(|w| weight(&|w| format!("default {w}"), w)));
    for device in &r.blkio_device_weights {
        let name = format!("{}:{}", device.major, device.minor);
        list.extend(device.weight.map(|w| {
            let line = |w: u64| if w == 0 { format!("{name} default") } else { format!("{name} {w}") };
            weight(&line, w).clear(format!("{name} default"))
        }));
    }
    for limit in &r.blkio_rates {
        let key = match limit.kind {
            BlockRateKind::ReadBytes => "rbps",
            BlockRateKind::WriteBytes => "wbps",
            BlockRateKind::ReadOperations => "riops",
            BlockRateKind::WriteOperations => "wiops",
        };
        let name = format!("{}:{}", limit.major, limit.minor);
        let rate = if limit.rate == 0 { "max".to_owned() } else { limit.rate.to_string() };
        let clear = format!("{name} rbps=max wbps=max riops=max wiops=max");
        list.push(setting("io", "io.max", format!("{name} {key}={rate}")).clear(clear));
    }
}

/// 10–1000 on the scale 1–10000; 0 stays 0.
fn weight_of_blkio(weight: u16) -> u64 {
    if weight == 0 { 0 } else { 1 + (u64::from(weight).max(10) - 10) * 9999 / 990 }
}

fn unified(file: &str, value: &str) -> Result<Setting> {
    let Some((controller, _)) = file.split_once('.').filter(|_| valid_name(file)) else {
        return Err(invalid("set", file, "not the name of a file in a cgroup, such as memory.high"));
    };
    if OURS.contains(&file) {
        return Err(invalid("set", file, "this file is the runtime's own"));
    }
    // `memory.high` is of a controller, which is named in errors; of an unknown one the core's directory is as good.
    let known = ["memory", "cpu", "cpuset", "io", "pids", "hugetlb", "rdma", "misc"];
    let controller = known.into_iter().find(|name| *name == controller).unwrap_or("cgroup");
    Ok(setting(controller, file.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BlockRate, BlockWeight};

    fn lines(r: &Resources) -> Vec<String> {
        let (list, _) = settings(r, || Ok("70000".to_owned())).unwrap();
        list.into_iter().map(|s| format!("{}={}", s.file, s.value)).collect()
    }

    #[test]
    fn weights_meet_at_both_ends_and_in_the_middle() {
        for (shares, weight) in [(2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert_eq!((weight_of_blkio(10), weight_of_blkio(1000), weight_of_blkio(0)), (1, 10_000, 0));
    }

    #[test]
    fn swap_is_the_sum_less_the_memory() {
        let of = |memory, memory_swap| Resources { memory, memory_swap, ..Resources::default() };
        assert_eq!(lines(&of(Some(100), Some(150))), ["memory.max=100", "memory.swap.max=50"]);
        assert_eq!(lines(&of(Some(100), Some(100))), ["memory.max=100", "memory.swap.max=0"]);
        assert_eq!(lines(&of(Some(100), Some(-1))), ["memory.max=100", "memory.swap.max=max"]);
        assert_eq!(lines(&of(Some(-1), None)), ["memory.max=max", "memory.swap.max=max"]);
        assert_eq!(lines(&of(Some(100), None)), ["memory.max=100"]);
        for bad in [of(None, Some(5)), of(Some(-1), Some(5)), of(Some(10), Some(5))] {
            assert!(settings(&bad, || Ok(String::new())).is_err());
        }
    }

    #[test]
    fn a_quota_alone_keeps_the_period_and_the_reverse() {
        let of = |cpu_quota, cpu_period| Resources { cpu_quota, cpu_period, ..Resources::default() };
        assert_eq!(lines(&of(Some(50_000), None)), ["cpu.max=50000"]);
        assert_eq!(lines(&of(Some(-1), Some(10_000))), ["cpu.max=max 10000"]);
        assert_eq!(lines(&of(None, Some(10_000))), ["cpu.max=70000 10000"]);
    }

    #[test]
    fn devices_have_their_weights_and_rates() {
        let r = Resources {
            blkio_weight: Some(500),
            blkio_device_weights: vec![BlockWeight { major: 8, minor: 0, weight: Some(10), leaf_weight: None }],
            blkio_rates: vec![BlockRate { kind: BlockRateKind::WriteBytes, major: 8, minor: 0, rate: 0 }],
            ..Resources::default()
        };
        assert_eq!(lines(&r), ["io.weight=default 4950", "io.weight=8:0 1", "io.max=8:0 wbps=max"]);
    }

    #[test]
    fn unified_files_are_plain_names_and_not_the_runtimes_own() {
        let of = |file: &str| Resources { unified: [(file.to_owned(), "1".to_owned())].into(), ..Resources::default() };
        assert_eq!(lines(&of("memory.high")), ["memory.high=1"]);
        assert_eq!(lines(&of("cgroup.max.depth")), ["cgroup.max.depth=1"]);
        for bad in ["../memory.max", "memory", "cgroup.procs", "a/b.c", "cgroup.freeze", ""] {
            assert!(settings(&of(bad), || Ok(String::new())).is_err(), "{bad}");
        }
    }
}
