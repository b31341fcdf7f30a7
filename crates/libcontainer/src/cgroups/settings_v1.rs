//! Limits as the files of the v1 controllers.

use gantry_linux::Result;

use super::files::unsupported;
use super::setting::{Missing, Setting, setting};
use crate::config::{BlockRateKind, RdmaLimit, Resources};

const NO_KERNEL_LIMIT: &str = "this kernel does not limit kernel memory by itself; it counts as memory";

/// In the order in which they are written, and warnings.
pub(super) fn settings(r: &Resources) -> Result<(Vec<Setting>, Vec<String>)> {
    if let Some(file) = r.unified.keys().next() {
        let why = "`unified` is for cgroup v2, and this machine's controllers are mounted as v1";
        return Err(unsupported("set", file, why));
    }
    let mut list = Vec::with_capacity(8);
    memory(r, &mut list);
    cpu(r, &mut list);
    list.extend(cpuset(r));
    list.extend(pids(r));
    blkio(r, &mut list);
    for (size, limit) in &r.hugepages {
        list.push(setting("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit));
        list.push(setting("hugetlb", format!("hugetlb.{size}.rsvd.limit_in_bytes"), limit).missing(Missing::Ignore));
    }
    list.extend(r.network_class.map(|class| setting("net_cls", "net_cls.classid", class)));
    for (interface, priority) in &r.network_priorities {
        let line = format!("{interface} {priority}");
        list.push(setting("net_prio", "net_prio.ifpriomap", line).clear(format!("{interface} 0")));
    }
    list.extend(rdma(r));
    Ok((list, Vec::new()))
}

/// The kernel keeps memory ≤ memory+swap at every moment: where the new memory limit is above the old sum, it takes it
/// after the new sum only.
fn memory(r: &Resources, list: &mut Vec<Setting>) {
    // Without limit means without any: the sum cannot stay below it.
    let swap = match (r.memory, given(r.memory_swap)) {
        (Some(-1), None) => Some(-1),
        (_, swap) => swap,
    };
    list.extend(given(r.memory).map(|m| setting("memory", "memory.limit_in_bytes", m).again()));
    let absent = if swap == Some(-1) && r.memory_swap != Some(-1) { Missing::Ignore } else { Missing::Refuse };
    list.extend(swap.map(|m| setting("memory", "memory.memsw.limit_in_bytes", m).missing(absent)));
    list.extend(given(r.memory_reservation).map(|m| setting("memory", "memory.soft_limit_in_bytes", m)));
    list.extend(
        given(r.memory_kernel)
            .map(|m| setting("memory", "memory.kmem.limit_in_bytes", m).missing(Missing::Warn(NO_KERNEL_LIMIT))),
    );
    list.extend(given(r.memory_kernel_tcp).map(|m| setting("memory", "memory.kmem.tcp.limit_in_bytes", m)));
    list.extend(r.memory_swappiness.map(|s| setting("memory", "memory.swappiness", s)));
    if r.oom_kill_disable {
        list.push(setting("memory", "memory.oom_control", 1));
    }
}

/// A quota is limited by burst, period and the parent's share, which is why each of these may have to wait for the others.
fn cpu(r: &Resources, list: &mut Vec<Setting>) {
    list.extend(r.cpu_realtime_period.filter(|p| *p != 0).map(|p| setting("cpu", "cpu.rt_period_us", p).again()));
    list.extend(r.cpu_realtime_runtime.filter(|p| *p != 0).map(|p| setting("cpu", "cpu.rt_runtime_us", p)));
    // An idle group has no weight; its file is refused.
    list.extend(r.cpu_idle.map(|idle| setting("cpu", "cpu.idle", u8::from(idle))));
    if r.cpu_idle != Some(true) {
        list.extend(shares(r).map(|s| setting("cpu", "cpu.shares", s)));
    }
    list.extend(r.cpu_period.filter(|p| *p != 0).map(|p| setting("cpu", "cpu.cfs_period_us", p).again()));
    list.extend(r.cpu_burst.map(|b| setting("cpu", "cpu.cfs_burst_us", b).again()));
    list.extend(given(r.cpu_quota).map(|q| setting("cpu", "cpu.cfs_quota_us", q).again()));
}

fn blkio(r: &Resources, list: &mut Vec<Setting>) {
    let weight = |weight: u16| {
        setting("blkio", "blkio.weight", weight).missing(Missing::Instead("blkio.bfq.weight", weight.to_string()))
    };
    list.extend(r.blkio_weight.filter(|w| *w != 0).map(weight));
    list.extend(r.blkio_leaf_weight.filter(|w| *w != 0).map(|w| setting("blkio", "blkio.leaf_weight", w)));
    for device in &r.blkio_device_weights {
        let name = format!("{}:{}", device.major, device.minor);
        list.extend(device.weight.map(|weight| {
            let line = format!("{name} {weight}");
            let other = Missing::Instead("blkio.bfq.weight_device", line.clone());
            setting("blkio", "blkio.weight_device", line).clear(format!("{name} 0")).missing(other)
        }));
        list.extend(device.leaf_weight.map(|weight| {
            setting("blkio", "blkio.leaf_weight_device", format!("{name} {weight}")).clear(format!("{name} 0"))
        }));
    }
    for limit in &r.blkio_rates {
        let file = match limit.kind {
            BlockRateKind::ReadBytes => "blkio.throttle.read_bps_device",
            BlockRateKind::WriteBytes => "blkio.throttle.write_bps_device",
            BlockRateKind::ReadOperations => "blkio.throttle.read_iops_device",
            BlockRateKind::WriteOperations => "blkio.throttle.write_iops_device",
        };
        let name = format!("{}:{}", limit.major, limit.minor);
        list.push(setting("blkio", file, format!("{name} {}", limit.rate)).clear(format!("{name} 0")));
    }
}

pub(super) fn cpuset(r: &Resources) -> impl Iterator<Item = Setting> {
    let of = |file, list: &Option<String>| list.as_ref().filter(|l| !l.is_empty()).map(|l| setting("cpuset", file, l));
    of("cpuset.cpus", &r.cpuset_cpus).into_iter().chain(of("cpuset.mems", &r.cpuset_mems))
}

pub(super) fn pids(r: &Resources) -> Option<Setting> {
    given(r.pids).map(|p| setting("pids", "pids.max", or_max(p)))
}

/// The same file on both versions.
pub(super) fn rdma(r: &Resources) -> impl Iterator<Item = Setting> {
    let number = |n: Option<u32>| n.map_or_else(|| "max".to_owned(), |n| n.to_string());
    r.rdma.iter().map(move |(device, RdmaLimit { handles, objects })| {
        let line = format!("{device} hca_handle={} hca_object={}", number(*handles), number(*objects));
        setting("rdma", "rdma.max", line).clear(format!("{device} hca_handle=max hca_object=max"))
    })
}

/// The kernel's range.
pub(super) fn shares(r: &Resources) -> Option<u64> {
    r.cpu_shares.filter(|s| *s != 0).map(|s| s.clamp(2, 262_144))
}

/// 0 is not given, as everywhere in Docker and runc.
pub(super) fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

pub(super) fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}
