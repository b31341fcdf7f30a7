//! Statistics from the files of cgroup v2.

use gantry_linux::Result;

use super::files::{field, number, read, read_optional};
use super::leaf::Leaf;
use super::stats::{MemoryUse, Pressure, Stats, device, limit, pairs, value};

pub(super) fn read_all(leaf: &Leaf, stats: &mut Stats) -> Result<()> {
    let cpu = read(&leaf.file("cgroup", "cpu.stat")?)?;
    stats.cpu_total = field(&cpu, "usage_usec") * 1000;
    stats.cpu_user = field(&cpu, "user_usec") * 1000;
    stats.cpu_system = field(&cpu, "system_usec") * 1000;
    stats.periods = field(&cpu, "nr_periods");
    stats.throttled_periods = field(&cpu, "nr_throttled");
    stats.throttled_time = field(&cpu, "throttled_usec") * 1000;
    stats.burst_periods = field(&cpu, "nr_bursts");
    stats.burst_time = field(&cpu, "burst_usec") * 1000;
    if leaf.has("memory") {
        memory(leaf, stats)?;
    }
    if leaf.has("io") {
        io_stat(&read(&leaf.file("io", "io.stat")?)?, stats);
    }
    stats.cpu_pressure = pressure(leaf, "cpu.pressure")?;
    stats.memory_pressure = pressure(leaf, "memory.pressure")?;
    stats.io_pressure = pressure(leaf, "io.pressure")?;
    Ok(())
}

fn memory(leaf: &Leaf, stats: &mut Stats) -> Result<()> {
    let text = |file| read(&leaf.file("memory", file)?);
    // Files that are younger than our oldest kernel, or depend on its configuration.
    let optional = |file| read_optional(&leaf.file("memory", file)?);
    stats.memory_usage = number(&text("memory.current")?);
    stats.memory_max_usage = optional("memory.peak")?.map_or(0, |text| number(&text));
    stats.memory_limit = limit(&text("memory.max")?, u64::MAX);
    let events = text("memory.events")?;
    stats.memory_failcnt = field(&events, "max");
    stats.oom_kills = field(&events, "oom_kill");
    stats.memory_stat = pairs(&text("memory.stat")?);
    stats.memory_cache = value(&stats.memory_stat, "file");
    stats.memory_kernel.usage = value(&stats.memory_stat, "kernel");
    stats.memory_kernel_tcp.usage = value(&stats.memory_stat, "sock");
    if let Some(current) = optional("memory.swap.current")? {
        let swap = MemoryUse {
            usage: number(&current),
            max_usage: optional("memory.swap.peak")?.map_or(0, |text| number(&text)),
            limit: limit(&text("memory.swap.max")?, u64::MAX),
            failcnt: optional("memory.swap.events")?.map_or(0, |text| field(&text, "max")),
        };
        stats.swap = swap;
        // v1's sum of both.
        stats.memory_swap = MemoryUse {
            usage: swap.usage + stats.memory_usage,
            limit: swap.limit.saturating_add(stats.memory_limit),
            ..swap
        };
    }
    Ok(())
}

/// `None` where the kernel does not measure it (off when booting, or switched off for this cgroup).
fn pressure(leaf: &Leaf, file: &str) -> Result<Option<Pressure>> {
    match read_optional(&leaf.file("cgroup", file)?) {
        Ok(text) => Ok(text.map(|text| parse_pressure(&text))),
        Err(error) if error.errno() == libc::EOPNOTSUPP => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, text) in words.filter_map(|word| word.split_once('=')) {
            let percent = || text.parse().unwrap_or(0.0);
            match key {
                "avg10" => stall.avg10 = percent(),
                "avg60" => stall.avg60 = percent(),
                "avg300" => stall.avg300 = percent(),
                "total" => stall.total = number(text),
                _ => {}
            }
        }
    }
    pressure
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 …`.
fn io_stat(text: &str, stats: &mut Stats) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut stats.blkio_bytes, "Read"),
                "wbytes" => (&mut stats.blkio_bytes, "Write"),
                "dbytes" => (&mut stats.blkio_bytes, "Discard"),
                "rios" => (&mut stats.blkio_ops, "Read"),
                "wios" => (&mut stats.blkio_ops, "Write"),
                "dios" => (&mut stats.blkio_ops, "Discard"),
                _ => continue,
            };
            list.push((major, minor, operation.to_owned(), number(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::Stall;

    #[test]
    fn io_stat_reads_as_v1_operations() {
        let mut stats = Stats::default();
        io_stat("8:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n", &mut stats);
        assert_eq!(stats.blkio_bytes[0], (8, 0, "Read".into(), 4096));
        assert_eq!(stats.blkio_ops[1], (8, 0, "Write".into(), 3));
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = parse_pressure(text);
        assert_eq!(pressure.some, Stall { avg10: 1.5, total: 7, ..Stall::default() });
        assert_eq!((pressure.full.avg10, pressure.full.total), (0.25, 3));
    }
}
