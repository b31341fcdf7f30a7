//! The kernel's view of one daemon: what must be equal before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::{Daemon, cgroups, command, paths, slot, until};

const DESCRIPTORS: &str = "descriptors of the daemon";

/// Everything that a container could leave behind, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    /// Looks now.
    #[must_use]
    pub fn take(daemon: &Daemon) -> Self {
        let pids = daemon.pids();
        let mut view: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        view.insert(
            "mounts",
            slot::mounts_below(daemon.slot().root()).iter().map(|p| p.display().to_string()).collect(),
        );
        view.insert("links on the bridge", names(&Path::new("/sys/class/net").join(daemon.bridge()).join("brif")));
        let networks = slot::networks(&daemon.bridge());
        let joined = networks.iter().flat_map(|bridge| names(&Path::new("/sys/class/net").join(bridge).join("brif")));
        view.insert("links on networks", joined.collect());
        view.insert("networks", networks.into_iter().collect());
        view.insert("network namespaces", count(namespaces(&pids)));
        view.insert("processes", count(pids.len()));
        view.insert("cgroups", count(daemon.slot().container_cgroups().iter().map(|path| descendants(path)).sum()));
        view.insert("firewall elements", firewall(&daemon.bridge()));
        view.insert(DESCRIPTORS, count(descriptors(daemon.pid())));
        view.insert("directories under the exec root", names(&daemon.slot().root().join("run/c")));
        view.insert("log directories", visible(&daemon.data_root().join("containers")));
        Self(view)
    }

    /// Looks when the daemon rests: warm supervisors are made off the path, after it has begun to answer.
    #[must_use]
    pub fn settled(daemon: &Daemon) -> Self {
        let mut last = Self::take(daemon);
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(100));
            let now = Self::take(daemon);
            if now == last {
                break;
            }
            last = now;
        }
        last
    }

    /// The same without the daemon's descriptors, of which threads that are kept for a while have some.
    #[must_use]
    pub fn without_descriptors(mut self) -> Self {
        self.0.remove(DESCRIPTORS);
        self
    }

    /// Waits until nothing is there that was not there before, and panics with the difference when it stays. Warm
    /// supervisors come and go off the path, so the first look may be too early.
    #[track_caller]
    pub fn assert_restored(&self, daemon: &Daemon) {
        let same = || self.difference(&Self::take(daemon)).is_empty().then_some(());
        if until(Duration::from_secs(15), same).is_some() {
            return;
        }
        panic!("the kernel's view differs from before:\n{}", self.difference(&Self::take(daemon)));
    }

    /// What is more and what is less in `now`, a line per kind; empty when nothing is.
    #[must_use]
    pub fn difference(&self, now: &Self) -> String {
        let mut report = String::new();
        for (kind, before) in &self.0 {
            let after = now.0.get(kind).cloned().unwrap_or_default();
            if after != *before {
                let more: Vec<&String> = after.difference(before).collect();
                let less: Vec<&String> = before.difference(&after).collect();
                report.push_str(&format!("{kind}: more {more:?}, less {less:?}\n"));
            }
        }
        report
    }
}

fn count(number: usize) -> BTreeSet<String> {
    BTreeSet::from([number.to_string()])
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The same without what is on its way out.
fn visible(directory: &Path) -> BTreeSet<String> {
    names(directory).into_iter().filter(|name| !name.starts_with('.')).collect()
}

fn namespaces(pids: &[i32]) -> usize {
    let links = pids.iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok());
    links.collect::<BTreeSet<_>>().len()
}

fn descendants(path: &Path) -> usize {
    cgroups::children(path).iter().map(|child| 1 + descendants(child)).sum()
}

fn descriptors(pid: Option<u32>) -> usize {
    pid.map_or(0, |pid| names(Path::new(&format!("/proc/{pid}/fd"))).len())
}

/// Elements of all sets and maps in the tables of a daemon's bridge, each behind the table's family and the set's name.
#[must_use]
pub fn firewall(bridge: &str) -> BTreeSet<String> {
    let mut elements = BTreeSet::new();
    let Some(nft) = paths::program("nft") else { return elements };
    for (family, table) in slot::tables(bridge) {
        let mut list = Command::new(&nft);
        list.args(["-j", "list", "table", &family, &table]);
        let Ok(output) = command::succeed(&mut list, Duration::from_secs(10)) else { continue };
        let Ok(value) = serde_json::from_str::<serde_json::Value>(&output.stdout) else { continue };
        for object in value["nftables"].as_array().into_iter().flatten() {
            for kind in ["set", "map"] {
                for element in object[kind]["elem"].as_array().into_iter().flatten() {
                    elements.insert(format!("{family} {} {element}", object[kind]["name"]));
                }
            }
        }
    }
    elements
}

/// Whether this machine has AppArmor, and lets it be seen.
#[must_use]
pub fn has_apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    enabled.starts_with('Y') && std::path::Path::new("/sys/kernel/security/apparmor/profiles").exists()
}
