//! A place of one's own on the machine: a directory, a bridge name, a subnet, that no other live test process has.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{cgroups, command, paths};

/// How many places there are: subnets 10.200.0.0/24 to 10.207.255.0/24.
const SLOTS: u32 = 2048;

/// First parts of bridges' names, by who uses them.
const PREFIXES: [&str; 3] = ["gt", "gdemo", "gbench"];

/// One place. It is free again when the value is dropped or the process dies.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    prefix: &'static str,
    root: PathBuf,
    /// Keeps the lock.
    _lock: File,
}

impl Slot {
    /// Takes the first free place and removes what an earlier owner that was killed has left there.
    pub fn acquire(prefix: Option<&'static str>) -> Result<Self> {
        let base = std::env::temp_dir().join("gantry-tests");
        fs::create_dir_all(&base).with_context(|| format!("make {}", base.display()))?;
        for number in 0..SLOTS {
            let path = base.join(format!("{number}.lock"));
            let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            if lock.try_lock().is_ok() {
                let prefix = prefix.unwrap_or(PREFIXES[0]);
                let slot = Self { number, prefix, root: base.join(number.to_string()), _lock: lock };
                slot.purge();
                fs::create_dir_all(&slot.root).with_context(|| format!("make {}", slot.root.display()))?;
                return Ok(slot);
            }
        }
        bail!("all {SLOTS} places under {} are in use", base.display());
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bridge's name, which is also the name of its nftables tables.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("{}{}", self.prefix, self.number)
    }

    /// The bridge's address with its prefix length.
    #[must_use]
    pub fn bip(&self) -> String {
        format!("{}1/24", self.prefix())
    }

    /// `10.x.y.`
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("10.{}.{}.", 200 + self.number / 256, self.number % 256)
    }

    /// The name of the cgroup in which the harness tracks this place's processes.
    #[must_use]
    pub fn tracker(&self) -> String {
        format!("gantry-test-{}", self.number)
    }

    /// Where the place's daemon keeps its cgroups, in every hierarchy.
    #[must_use]
    pub fn container_cgroups(&self) -> Vec<PathBuf> {
        let Some(parent) = self.cgroup_parent() else { return Vec::new() };
        cgroups::hierarchies().into_iter().map(|(_, point)| point.join(&parent)).filter(|path| path.is_dir()).collect()
    }

    /// The cgroup below which this place's daemon keeps its containers, relative to a hierarchy's root.
    #[must_use]
    pub fn cgroup_parent(&self) -> Option<PathBuf> {
        fs::read_to_string(self.root.join("cgroups")).ok().map(PathBuf::from)
    }

    /// Finds that cgroup by a process in it that a tracked one has started, and remembers it for [`Slot::purge`].
    pub fn find_cgroups(&self, tracked: &[i32]) -> Result<()> {
        for (_, point) in cgroups::hierarchies() {
            for path in cgroups::children(&point.join("gantry")) {
                let pids = cgroups::pids(&path);
                if pids.iter().filter_map(|pid| parent(*pid)).any(|parent| tracked.contains(&parent)) {
                    let relative = path.strip_prefix(&point).unwrap_or(&path).display().to_string();
                    return fs::write(self.root.join("cgroups"), relative).context("remember the daemon's cgroups");
                }
            }
        }
        bail!("no cgroup below gantry/ has a process of this daemon");
    }

    /// Removes everything that a daemon may have left here: processes, cgroups, mounts, bridge, tables, files.
    pub fn purge(&self) {
        drop(cgroups::Tracker::new(&self.tracker()));
        for path in self.container_cgroups() {
            cgroups::kill(&path);
            cgroups::remove(&path);
        }
        for mount in mounts_below(&self.root).iter().rev() {
            if let Err(error) = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH) {
                warn(&format!("unmount {}: {error}", mount.display()));
            }
        }
        for prefix in PREFIXES {
            let bridge = format!("{prefix}{}", self.number);
            for network in networks(&bridge) {
                purge_network(&network);
            }
            purge_network(&bridge);
        }
        let removed = fs::remove_dir_all(&self.root);
        if let Err(error) = removed.or_else(|error| if self.root.exists() { Err(error) } else { Ok(()) }) {
            warn(&format!("remove {}: {error}", self.root.display()));
        }
    }
}

/// The bridges that the daemon of that bridge made for networks: it leaves a note on each.
#[must_use]
pub fn networks(bridge: &str) -> Vec<String> {
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let note = format!("network of {bridge}");
    let made =
        links.filter(|link| fs::read_to_string(link.path().join("ifalias")).is_ok_and(|text| text.trim() == note));
    made.map(|link| link.file_name().to_string_lossy().into_owned()).collect()
}

/// Deletes a bridge, the nftables tables that carry its name, and the routing rules of its daemon.
fn purge_network(bridge: &str) {
    let limit = Duration::from_secs(10);
    let mut deletions = Vec::new();
    if Path::new("/sys/class/net").join(bridge).exists() {
        deletions.extend(routing_rules(bridge).into_iter().map(|rule| ("ip", rule)));
        deletions.push(("ip", vec!["link".to_owned(), "delete".to_owned(), bridge.to_owned()]));
    }
    for (family, table) in tables(bridge) {
        deletions.push(("nft", vec!["delete".to_owned(), "table".to_owned(), family, table]));
    }
    for (program, arguments) in deletions {
        let done = paths::need(program).and_then(|path| command::succeed(Command::new(path).args(arguments), limit));
        if let Err(error) = done {
            warn(&error.to_string());
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.purge();
    }
}

/// The nftables tables that belong to a bridge: `(family, name)`.
#[must_use]
pub fn tables(bridge: &str) -> Vec<(String, String)> {
    let Some(nft) = paths::program("nft") else { return Vec::new() };
    let Ok(output) = command::succeed(Command::new(nft).args(["list", "tables"]), Duration::from_secs(10)) else {
        return Vec::new();
    };
    let parse = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let belongs = |name: &str| name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == bridge);
    output.stdout.lines().filter_map(parse).filter(|(_, name)| belongs(name)).collect()
}

/// How to delete the routing rules of the daemon of that bridge: they lead to a routing table of its own, which has a route
/// to the bridge. The others are for all daemons.
fn routing_rules(bridge: &str) -> Vec<Vec<String>> {
    let ip = |arguments: &[&str]| -> String {
        let output = paths::need("ip").map(|path| Command::new(path).args(arguments).output());
        output.ok().and_then(Result::ok).map_or_else(String::new, |o| String::from_utf8_lossy(&o.stdout).into_owned())
    };
    let families = ["-4", "-6"];
    let own = |line: &str| line.split_once(" table ").and_then(|(_, rest)| rest.split(' ').next()).map(str::to_owned);
    let table = families.iter().find_map(|family| {
        let routes = ip(&[family, "route", "show", "table", "all", "dev", bridge]);
        routes.lines().filter(|line| line.contains(" proto 103")).find_map(own)
    });
    let Some(table) = table else { return Vec::new() };
    let mut deletions = Vec::new();
    for family in families {
        for line in ip(&[family, "rule", "list"]).lines() {
            let Some((place, rule)) = line.split_once(':') else { continue };
            if rule.split_whitespace().any(|word| word == table) {
                deletions.push([family, "rule", "delete", "pref", place, "lookup", &table].map(str::to_owned).to_vec());
            }
        }
    }
    deletions
}

/// Mount points at or below a directory, in the order of their mounting.
#[must_use]
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn warn(text: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "cleaning up: {text}").ok();
}
