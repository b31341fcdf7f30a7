//! Limits as the kernel's files: which, in which order, and back again when one is refused.

use std::path::PathBuf;

use gantry_linux::{Error, Result, ResultExt};

use super::hierarchies::Version;
use super::leaf::{Leaf, read_file, unsupported, write_file};
use crate::config::Resources;

/// One file to be written.
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
}

fn setting(controller: &'static str, file: &'static str, value: impl ToString) -> Setting {
    Setting { controller, file, value: value.to_string() }
}

impl Leaf {
    /// Sets the limits and device rules of a leaf that nobody else relies on yet: stops at the first failure.
    pub fn apply(&self, resources: &Resources) -> Result<()> {
        for setting in self.settings(resources)? {
            let path = self.file(setting.controller, setting.file)?;
            write_setting(&path, &setting)?;
        }
        self.apply_devices(&resources.device_rules)
    }

    /// Changes limits of a running container: where one is refused, those already changed get their old value back.
    /// Device rules are not part of it.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let mut done: Vec<(PathBuf, String)> = Vec::new();
        for setting in self.settings(resources)? {
            let path = self.file(setting.controller, setting.file)?;
            let changed = read_file(&path).and_then(|old| write_setting(&path, &setting).map(|()| old));
            match changed {
                Ok(old) => done.push((path, old)),
                Err(mut error) => {
                    for (path, old) in done.into_iter().rev() {
                        if let Err(second) = write_file(&path, restorable(&old).as_bytes()) {
                            error.subject = format!("{} (and restoring {}: {second})", error.subject, path.display());
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn settings(&self, resources: &Resources) -> Result<Vec<Setting>> {
        match self.hierarchies.version() {
            Version::V1 => self.settings_v1(resources),
            Version::V2 => settings_v2(self.path(), resources),
        }
    }

    fn settings_v1(&self, r: &Resources) -> Result<Vec<Setting>> {
        let mut list = Vec::with_capacity(8);
        let memory = r.memory.filter(|m| *m != 0).map(|m| setting("memory", "memory.limit_in_bytes", m));
        let swap = r.memory_swap.filter(|m| *m != 0).map(|m| setting("memory", "memory.memsw.limit_in_bytes", m));
        // The kernel keeps memory ≤ memory+swap at every moment, so the direction decides the order.
        if swap.is_some() && memory.is_some() && self.raises_memsw(r.memory_swap.unwrap_or(-1))? {
            list.extend(swap);
            list.extend(memory);
        } else {
            list.extend(memory);
            list.extend(swap);
        }
        list.extend(
            r.memory_reservation.filter(|m| *m != 0).map(|m| setting("memory", "memory.soft_limit_in_bytes", m)),
        );
        list.extend(r.memory_swappiness.map(|s| setting("memory", "memory.swappiness", s)));
        if r.oom_kill_disable {
            list.push(setting("memory", "memory.oom_control", 1));
        }
        list.extend(shares(r).map(|s| setting("cpu", "cpu.shares", s)));
        list.extend(r.cpu_period.filter(|p| *p != 0).map(|p| setting("cpu", "cpu.cfs_period_us", p)));
        list.extend(r.cpu_quota.filter(|q| *q != 0).map(|q| setting("cpu", "cpu.cfs_quota_us", q)));
        list.extend(cpuset(r));
        list.extend(pids(r));
        if let Some(weight) = r.blkio_weight.filter(|w| *w != 0) {
            let has = |file| self.file("blkio", file).is_ok_and(|p| p.exists());
            match ["blkio.weight", "blkio.bfq.weight"].into_iter().find(|f| has(f)) {
                Some(file) => list.push(setting("blkio", file, weight)),
                None => return Err(unsupported("set blkio weight of", self.path(), "this kernel has no I/O weights")),
            }
        }
        Ok(list)
    }

    fn raises_memsw(&self, wanted: i64) -> Result<bool> {
        let path = self.file("memory", "memory.memsw.limit_in_bytes")?;
        let current: i64 = read_file(&path)?.trim().parse().unwrap_or(i64::MAX);
        Ok(wanted < 0 || wanted > current)
    }
}

fn settings_v2(path: &str, r: &Resources) -> Result<Vec<Setting>> {
    if r.oom_kill_disable {
        return Err(unsupported("disable the OOM killer of", path, "cgroup v2 has no such switch"));
    }
    if r.memory_swappiness.is_some() {
        return Err(unsupported("set swappiness of", path, "cgroup v2 has none per group"));
    }
    let mut list = Vec::with_capacity(8);
    list.extend(r.memory.filter(|m| *m != 0).map(|m| setting("memory", "memory.max", or_max(m))));
    match (r.memory_swap, r.memory) {
        (None | Some(0), _) => {}
        (Some(total), Some(memory)) if total > 0 && memory > 0 => {
            list.push(setting("memory", "memory.swap.max", (total - memory).max(0)));
        }
        (Some(total), _) if total < 0 => list.push(setting("memory", "memory.swap.max", "max")),
        _ => return Err(unsupported("set memory and swap of", path, "cgroup v2 needs the memory limit with it")),
    }
    list.extend(r.memory_reservation.filter(|m| *m != 0).map(|m| setting("memory", "memory.low", or_max(m))));
    // 2–262144 shares on the scale 1–10000.
    list.extend(shares(r).map(|s| setting("cpu", "cpu.weight", 1 + (s - 2) * 9999 / 262_142)));
    let (quota, period) = (r.cpu_quota.filter(|q| *q != 0), r.cpu_period.filter(|p| *p != 0));
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".to_owned(), or_max);
        list.push(setting("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
    }
    list.extend(cpuset(r));
    list.extend(pids(r));
    list.extend(r.blkio_weight.filter(|w| *w != 0).map(|w| {
        // 10–1000 on the scale 1–10000.
        setting("io", "io.weight", 1 + (u64::from(w).max(10) - 10) * 9999 / 990)
    }));
    Ok(list)
}

fn cpuset(r: &Resources) -> impl Iterator<Item = Setting> {
    let of = |file, list: &Option<String>| list.as_ref().filter(|l| !l.is_empty()).map(|l| setting("cpuset", file, l));
    of("cpuset.cpus", &r.cpuset_cpus).into_iter().chain(of("cpuset.mems", &r.cpuset_mems))
}

fn pids(r: &Resources) -> Option<Setting> {
    r.pids.filter(|p| *p != 0).map(|p| setting("pids", "pids.max", or_max(p)))
}

fn shares(r: &Resources) -> Option<u64> {
    r.cpu_shares.filter(|s| *s != 0).map(|s| s.clamp(2, 262_144))
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn write_setting(path: &std::path::Path, setting: &Setting) -> Result<()> {
    let written = write_file(path, setting.value.as_bytes());
    written.during("set", Subject { path, setting }).map_err(explain)
}

/// Renders only when the write has failed.
struct Subject<'a> {
    path: &'a std::path::Path,
    setting: &'a Setting,
}

impl std::fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let directory = self.path.parent().unwrap_or(self.path).display();
        write!(f, "{} of {directory} to {}", self.setting.file, self.setting.value)
    }
}

fn explain(mut error: Error) -> Error {
    match error.errno() {
        libc::EBUSY if error.subject.starts_with("memory.") => {
            error.subject.push_str(" (the container uses more than that; give it more)");
        }
        libc::EINVAL if error.subject.starts_with("memory.limit_in_bytes") => {
            error.subject.push_str(" (above its memory+swap limit; raise that at the same time)");
        }
        libc::ENOENT if error.subject.starts_with("memory.memsw") => {
            error.subject.push_str(" (this kernel does not account swap; boot with swapaccount=1)");
        }
        _ => {}
    }
    error
}

/// What was read, in the form in which the kernel takes it back.
fn restorable(old: &str) -> &str {
    let old = old.trim();
    // memory.oom_control reads as several lines.
    match old.strip_prefix("oom_kill_disable ") {
        Some(rest) => rest.lines().next().unwrap_or("0"),
        None => old,
    }
}
