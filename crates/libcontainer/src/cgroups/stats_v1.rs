//! Statistics from the files of the v1 controllers.

use gantry_linux::Result;

use super::files::{field, number, read, read_optional};
use super::leaf::Leaf;
use super::stats::{MemoryUse, Stats, device, pairs, value};

/// From this on the kernel means no limit.
const UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

pub(super) fn read_all(leaf: &Leaf, stats: &mut Stats) -> Result<()> {
    if leaf.has("cpuacct") {
        let text = |file| read(&leaf.file("cpuacct", file)?);
        stats.cpu_total = number(&text("cpuacct.usage")?);
        (stats.cpu_per_cpu_user, stats.cpu_per_cpu_system) = per_cpu(&text("cpuacct.usage_all")?);
        stats.cpu_user = stats.cpu_per_cpu_user.iter().sum();
        stats.cpu_system = stats.cpu_per_cpu_system.iter().sum();
        stats.cpu_per_cpu = text("cpuacct.usage_percpu")?.split_whitespace().map(number).collect();
    }
    if leaf.has("cpu") {
        let text = read(&leaf.file("cpu", "cpu.stat")?)?;
        stats.periods = field(&text, "nr_periods");
        stats.throttled_periods = field(&text, "nr_throttled");
        stats.throttled_time = field(&text, "throttled_time");
        stats.burst_periods = field(&text, "nr_bursts");
        stats.burst_time = field(&text, "burst_time");
    }
    if leaf.has("memory") {
        memory(leaf, stats)?;
    }
    if leaf.has("blkio") {
        // The throttle files count everywhere; bfq's only where that scheduler runs.
        stats.blkio_bytes = operations(&read(&leaf.file("blkio", "blkio.throttle.io_service_bytes_recursive")?)?);
        stats.blkio_ops = operations(&read(&leaf.file("blkio", "blkio.throttle.io_serviced_recursive")?)?);
    }
    Ok(())
}

fn memory(leaf: &Leaf, stats: &mut Stats) -> Result<()> {
    let all = memory_use(leaf, "memory")?;
    stats.memory_usage = all.usage;
    stats.memory_max_usage = all.max_usage;
    stats.memory_limit = all.limit;
    stats.memory_failcnt = all.failcnt;
    stats.memory_stat = pairs(&read(&leaf.file("memory", "memory.stat")?)?);
    stats.memory_cache = value(&stats.memory_stat, "total_cache");
    stats.swap.usage = value(&stats.memory_stat, "total_swap");
    stats.memory_swap = memory_use(leaf, "memory.memsw")?;
    stats.memory_kernel = memory_use(leaf, "memory.kmem")?;
    stats.memory_kernel_tcp = memory_use(leaf, "memory.kmem.tcp")?;
    stats.oom_kills = leaf.oom_kills()?;
    Ok(())
}

/// Zeros for what this kernel does not account.
fn memory_use(leaf: &Leaf, prefix: &str) -> Result<MemoryUse> {
    let get = |name: &str| -> Result<Option<u64>> {
        let path = leaf.file("memory", &format!("{prefix}.{name}"))?;
        Ok(read_optional(&path)?.map(|text| number(&text)))
    };
    let Some(usage) = get("usage_in_bytes")? else { return Ok(MemoryUse::default()) };
    let limit = get("limit_in_bytes")?.unwrap_or(0);
    Ok(MemoryUse {
        usage,
        max_usage: get("max_usage_in_bytes")?.unwrap_or(0),
        limit: if limit >= UNLIMITED { u64::MAX } else { limit },
        failcnt: get("failcnt")?.unwrap_or(0),
    })
}

/// `cpuacct.usage_all`: a heading, and lines of `0 <user> <system>`.
fn per_cpu(text: &str) -> (Vec<u64>, Vec<u64>) {
    let row = |line: &str| {
        let mut words = line.split(' ').skip(1).map(number);
        Some((words.next()?, words.next()?))
    };
    text.lines().skip(1).filter_map(row).unzip()
}

/// Lines of `8:0 Read 4096`, and a sum without a device that is skipped.
fn operations(text: &str) -> Vec<(u32, u32, String, u64)> {
    let line = |l: &str| {
        let mut words = l.split(' ');
        let (major, minor) = device(words.next()?)?;
        Some((major, minor, words.next()?.to_owned(), number(words.next()?)))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        assert_eq!(operations("8:0 Read 7\nTotal 7\n"), [(8, 0, "Read".into(), 7)]);
        assert_eq!(per_cpu("cpu user system\n0 5 6\n1 7 8\n"), (vec![5, 7], vec![6, 8]));
    }
}
