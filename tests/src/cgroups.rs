//! Cgroups as the harness needs them: one to find every process that a daemon left, and CPU time of a whole stack.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait::until;

/// The mounted hierarchies: `(controllers, mount point)`; controllers are empty for v2.
#[must_use]
pub fn hierarchies() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = if kind == "cgroup" { options } else { "" };
        kind.starts_with("cgroup").then(|| (controllers.to_owned(), PathBuf::from(point)))
    };
    mounts.lines().filter_map(parse).collect()
}

/// A cgroup without limits that remembers who descends from whom: containers leave it, supervisors do not.
#[derive(Debug)]
pub struct Tracker(Option<PathBuf>);

impl Tracker {
    /// Makes it in the named hierarchy (v1), else in the unified one; without either, it tracks nobody.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let all = hierarchies();
        let named = all.iter().find(|(options, _)| options.contains("name="));
        let place = named.or_else(|| all.iter().find(|(options, _)| options.is_empty()));
        let path = place.map(|(_, point)| point.join(name));
        Self(path.filter(|path| fs::create_dir(path).is_ok() || path.is_dir()))
    }

    /// Where a process writes `0` to be tracked.
    #[must_use]
    pub fn procs(&self) -> Option<PathBuf> {
        self.0.as_ref().map(|path| path.join("cgroup.procs"))
    }

    /// Host pids of the tracked processes.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.0.as_deref().map(pids).unwrap_or_default()
    }

    /// Kills every tracked process and waits until they are gone.
    pub fn kill(&self) {
        if let Some(path) = &self.0 {
            kill(path);
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.kill();
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// Host pids in this cgroup and those below it.
#[must_use]
pub fn pids(path: &Path) -> Vec<i32> {
    let own = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for child in children(path) {
        all.extend(pids(&child));
    }
    all
}

/// Lets frozen processes in this cgroup and those below it run again, so that they can end.
pub fn thaw(path: &Path) {
    for (file, running) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        // Each cgroup has one of them or neither, and it may go meanwhile.
        if path.join(file).exists() {
            fs::write(path.join(file), running).ok();
        }
    }
    for child in children(path) {
        thaw(&child);
    }
}

/// Kills all processes in this cgroup and those below it; waits at most five seconds for their end.
pub fn kill(path: &Path) {
    thaw(path);
    until(Duration::from_secs(5), || {
        let all = pids(path);
        for pid in all.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
            // It may have ended by itself.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        all.is_empty().then_some(())
    });
}

/// Removes the cgroup and those below it, as far as they are empty.
pub fn remove(path: &Path) {
    for child in children(path) {
        remove(&child);
    }
    until(Duration::from_secs(1), || (fs::remove_dir(path).is_ok() || !path.exists()).then_some(()));
}

/// The cgroups directly below.
#[must_use]
pub fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// CPU time that this cgroup and all below it have ever used.
#[must_use]
pub fn cpu_time(path: &Path) -> Duration {
    if let Ok(usage) = fs::read_to_string(path.join("cpuacct.usage")) {
        return Duration::from_nanos(usage.trim().parse().unwrap_or(0));
    }
    let stat = fs::read_to_string(path.join("cpu.stat")).unwrap_or_default();
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|text| text.parse().ok());
    Duration::from_micros(micros.unwrap_or(0))
}
