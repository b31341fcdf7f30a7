//! One measurement: wall time and the CPU time of everything that a stack did for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gantry_tests::cgroups;

/// A cgroup in which a whole stack runs: its client, its daemons, and, nested or beside it, its containers.
#[derive(Debug)]
pub struct Account {
    own: PathBuf,
    others: Vec<PathBuf>,
}

impl Account {
    /// Makes the cgroup `name`; `others` are further ones that belong to the stack, relative to the hierarchy.
    pub fn new(name: &str, others: &[PathBuf]) -> Result<Self> {
        let all = cgroups::hierarchies();
        let cpu = all.iter().find(|(options, _)| options.split(',').any(|option| option == "cpuacct"));
        let (_, point) =
            cpu.or_else(|| all.iter().find(|(o, _)| o.is_empty())).context("no cgroup hierarchy is mounted")?;
        let own = point.join(name);
        std::fs::create_dir_all(&own).with_context(|| format!("make {}", own.display()))?;
        Ok(Self { own, others: others.iter().map(|path| point.join(path)).collect() })
    }

    /// Moves this process in; what it starts from now on is the stack's.
    pub fn enter(&self) -> Result<()> {
        std::fs::write(self.own.join("cgroup.procs"), "0").with_context(|| format!("enter {}", self.own.display()))
    }

    /// Moves this process back to where it belongs to nobody.
    pub fn leave(&self) -> Result<()> {
        let parent = self.own.parent().context("the cgroup has no parent")?;
        std::fs::write(parent.join("cgroup.procs"), "0").with_context(|| format!("leave {}", self.own.display()))
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Duration {
        cgroups::cpu_time(&self.own) + self.others.iter().map(|path| cgroups::cpu_time(path)).sum::<Duration>()
    }

    /// The same with further cgroups.
    pub fn with(mut self, others: &[PathBuf]) -> Self {
        let point = self.own.parent().unwrap_or(Path::new("/")).to_owned();
        self.others.extend(others.iter().map(|path| point.join(path)));
        self
    }

    /// Host pids of the stack and its containers without this process.
    pub fn pids(&self) -> Vec<i32> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let all = self.others.iter().chain([&self.own]).flat_map(|path| cgroups::pids(path));
        all.filter(|pid| *pid != own).collect()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.leave().ok();
        cgroups::kill(&self.own);
        for path in self.others.iter().chain([&self.own]) {
            cgroups::kill(path);
            cgroups::remove(path);
        }
    }
}

/// Proportional set size of processes, in bytes; those that are gone count nothing.
pub fn pss(pids: &[i32]) -> u64 {
    let of = |pid: &i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

/// One result.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Until the call returned.
    pub wall: Duration,
    /// Of all processes of the stack, also what they do after the call has returned.
    pub cpu: Duration,
}

/// Runs `work` once for its cost, when the stack rests.
pub fn cost(account: &Account, work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    cost_then(account, work, |_| Ok(()))
}

/// The same, and `then` with the instant at which the work began, as soon as it is done.
pub fn cost_then(
    account: &Account,
    work: impl FnOnce() -> Result<()>,
    then: impl FnOnce(Instant) -> Result<()>,
) -> Result<Cost> {
    // What the stack still does of something else is not this one's.
    settle(account);
    let before = account.cpu();
    let started = Instant::now();
    let result = work();
    let wall = started.elapsed();
    let after = then(started);
    settle(account);
    result.and(after)?;
    Ok(Cost { wall, cpu: account.cpu().saturating_sub(before) })
}

/// Waits until the stack rests: less than half a millisecond of CPU time in fifty, or a second has passed.
fn settle(account: &Account) {
    let mut last = account.cpu();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        let now = account.cpu();
        if now.saturating_sub(last) < Duration::from_micros(500) {
            return;
        }
        last = now;
    }
}

/// All results: operation → stack → rounds.
#[derive(Debug, Default)]
pub struct Results(pub BTreeMap<usize, (String, BTreeMap<usize, Vec<Cost>>)>);

impl Results {
    /// Keeps one.
    pub fn add(&mut self, operation: (usize, &str), stack: usize, cost: Cost) {
        let (_, row) = self.0.entry(operation.0).or_insert_with(|| (operation.1.to_owned(), BTreeMap::new()));
        row.entry(stack).or_default().push(cost);
    }
}

/// The middle one.
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
