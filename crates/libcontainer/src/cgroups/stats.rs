//! What a leaf has used, read from either version's files.

use std::path::Path;

use gantry_linux::Result;

use super::Stats;
use super::hierarchies::Version;
use super::leaf::{Leaf, read_file};

impl Leaf {
    /// Everything at once. A controller that is not mounted leaves its fields 0.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        match self.hierarchies.version() {
            Version::V1 => self.stats_v1(&mut stats)?,
            Version::V2 => self.stats_v2(&mut stats)?,
        }
        Ok(stats)
    }

    /// How many processes the OOM killer has taken from the leaf.
    pub fn oom_kills(&self) -> Result<u64> {
        let (file, name) = match self.hierarchies.version() {
            Version::V1 => ("memory.oom_control", "oom_kill"),
            Version::V2 => ("memory.events", "oom_kill"),
        };
        Ok(field(&read_file(&self.file("memory", file)?)?, name))
    }

    fn stats_v1(&self, stats: &mut Stats) -> Result<()> {
        if self.hierarchies.controller("cpuacct").is_some() {
            let text = |file| read_file(&self.file("cpuacct", file)?);
            stats.cpu_total = number(&text("cpuacct.usage")?);
            stats.cpu_user = number(&text("cpuacct.usage_user")?);
            stats.cpu_system = number(&text("cpuacct.usage_sys")?);
            let per_cpu = text("cpuacct.usage_percpu")?;
            stats.cpu_per_cpu = per_cpu.split_whitespace().map(number).collect();
        }
        if self.hierarchies.controller("cpu").is_some() {
            let text = read_file(&self.file("cpu", "cpu.stat")?)?;
            stats.periods = field(&text, "nr_periods");
            stats.throttled_periods = field(&text, "nr_throttled");
            stats.throttled_time = field(&text, "throttled_time");
        }
        if self.hierarchies.controller("memory").is_some() {
            let text = |file| read_file(&self.file("memory", file)?);
            stats.memory_usage = number(&text("memory.usage_in_bytes")?);
            stats.memory_max_usage = number(&text("memory.max_usage_in_bytes")?);
            stats.memory_limit = number(&text("memory.limit_in_bytes")?);
            stats.memory_failcnt = number(&text("memory.failcnt")?);
            stats.memory_stat = pairs(&text("memory.stat")?);
            stats.oom_kills = self.oom_kills()?;
        }
        if self.hierarchies.controller("blkio").is_some() {
            // The throttle files count everywhere; bfq's only where that scheduler runs.
            stats.blkio_bytes = operations(&read_file(&self.file("blkio", "blkio.throttle.io_service_bytes")?)?);
            stats.blkio_ops = operations(&read_file(&self.file("blkio", "blkio.throttle.io_serviced")?)?);
        }
        self.stats_pids(stats)
    }

    fn stats_v2(&self, stats: &mut Stats) -> Result<()> {
        let cpu = read_file(&self.file("cgroup", "cpu.stat")?)?;
        stats.cpu_total = field(&cpu, "usage_usec") * 1000;
        stats.cpu_user = field(&cpu, "user_usec") * 1000;
        stats.cpu_system = field(&cpu, "system_usec") * 1000;
        stats.periods = field(&cpu, "nr_periods");
        stats.throttled_periods = field(&cpu, "nr_throttled");
        stats.throttled_time = field(&cpu, "throttled_usec") * 1000;
        if self.hierarchies.controller("memory").is_some() {
            let text = |file| read_file(&self.file("memory", file)?);
            stats.memory_usage = number(&text("memory.current")?);
            // memory.peak is younger than our oldest kernel.
            stats.memory_max_usage = optional(&self.file("memory", "memory.peak")?)?;
            stats.memory_limit = limit(&text("memory.max")?, u64::MAX);
            stats.memory_failcnt = field(&text("memory.events")?, "max");
            stats.memory_stat = pairs(&text("memory.stat")?);
            stats.oom_kills = self.oom_kills()?;
        }
        if self.hierarchies.controller("io").is_some() {
            io_stat(&read_file(&self.file("io", "io.stat")?)?, stats);
        }
        self.stats_pids(stats)
    }

    fn stats_pids(&self, stats: &mut Stats) -> Result<()> {
        if self.hierarchies.controller("pids").is_some() {
            stats.pids_current = number(&read_file(&self.file("pids", "pids.current")?)?);
            stats.pids_limit = limit(&read_file(&self.file("pids", "pids.max")?)?, 0);
        }
        Ok(())
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn limit(text: &str, unlimited: u64) -> u64 {
    if text.trim() == "max" { unlimited } else { number(text) }
}

fn optional(path: &Path) -> Result<u64> {
    match read_file(path) {
        Ok(text) => Ok(number(&text)),
        Err(error) if error.is_not_found() => Ok(0),
        Err(error) => Err(error),
    }
}

fn pairs(text: &str) -> Vec<(String, u64)> {
    text.lines().filter_map(|l| l.split_once(' ')).map(|(n, v)| (n.to_owned(), number(v))).collect()
}

fn field(text: &str, name: &str) -> u64 {
    let value = |l: &str| l.split_once(' ').filter(|(n, _)| *n == name).map(|(_, v)| number(v));
    text.lines().find_map(value).unwrap_or(0)
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// v1: lines of `8:0 Read 4096`, and a sum without a device that is skipped.
fn operations(text: &str) -> Vec<(u32, u32, String, u64)> {
    let line = |l: &str| {
        let mut words = l.split(' ');
        let (major, minor) = device(words.next()?)?;
        Some((major, minor, words.next()?.to_owned(), number(words.next()?)))
    };
    text.lines().filter_map(line).collect()
}

/// v2: lines of `8:0 rbytes=4096 wbytes=0 rios=1 …`.
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

    #[test]
    fn v2_io_stat_reads_as_v1_operations() {
        let mut stats = Stats::default();
        io_stat("8:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n", &mut stats);
        assert_eq!(stats.blkio_bytes[0], (8, 0, "Read".into(), 4096));
        assert_eq!(stats.blkio_ops[1], (8, 0, "Write".into(), 3));
        assert_eq!(operations("8:0 Read 7\nTotal 7\n"), [(8, 0, "Read".into(), 7)]);
    }
}
