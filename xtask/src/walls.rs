//! The walls between the crates: which may use which. ARCHITECTURE.md draws the same picture.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build;

/// What each crate may use of the others, directly.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("gantry-linux", &[]),
    ("gantry-api", &[]),
    ("libcontainer", &["gantry-linux"]),
    ("libcontainer-c", &["libcontainer", "gantry-linux"]),
    ("gantry-runtime", &["libcontainer", "gantry-linux"]),
    ("gantry-graphdriver", &["gantry-linux"]),
    ("gantry-networkdriver", &["libcontainer", "gantry-linux"]),
    ("gantry-execdriver", &["libcontainer", "gantry-linux"]),
    ("gantry-graph", &["gantry-api", "gantry-graphdriver", "gantry-linux"]),
    ("gantry-transport", &["gantry-linux"]),
    ("gantry-registry", &["gantry-api", "gantry-transport", "gantry-linux"]),
    ("gantry-client", &["gantry-api", "gantry-transport"]),
    (
        "gantry-engine",
        &[
            "gantry-api",
            "gantry-transport",
            "gantry-registry",
            "gantry-graph",
            "gantry-graphdriver",
            "gantry-networkdriver",
            "gantry-execdriver",
            "libcontainer",
            "gantry-linux",
        ],
    ),
    ("gantry-server", &["gantry-api", "gantry-transport", "gantry-engine"]),
];

/// Crates that must not have these anywhere below them: the drivers block, the client starts in a millisecond, and the
/// engine has other doors than HTTP.
const MUST_NOT_REACH: [(&str, &[&str]); 10] = [
    ("gantry-linux", &["tokio", "hyper"]),
    ("libcontainer", &["tokio", "hyper", "clap"]),
    ("libcontainer-c", &["tokio", "hyper", "clap"]),
    ("gantry-runtime", &["tokio", "hyper"]),
    ("gantry-graphdriver", &["tokio", "hyper"]),
    ("gantry-networkdriver", &["tokio", "hyper"]),
    ("gantry-execdriver", &["tokio", "hyper"]),
    ("gantry-graph", &["tokio", "hyper"]),
    ("gantry-api", &["tokio", "hyper", "rustix", "libc"]),
    ("gantry-client", &["rusqlite", "netlink-sys", "gantry-linux"]),
];

/// Who may name HTTP libraries directly.
const NO_HTTP: [&str; 1] = ["gantry-engine"];

/// Where no program is ever started: networks are made by netlink alone. Tests may start what they like.
const NO_PROGRAMS: [&str; 2] = ["crates/networkdriver/src", "crates/libcontainer/src/network"];
/// How a program is started.
const STARTS: [&str; 4] = ["process::Command", "Command::new", "posix_spawn", "execve"];

/// Fails with every breach.
pub fn check() -> Result<()> {
    let output =
        build::cargo(&["metadata", "--format-version", "1", "--locked"]).output().context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let mut breaches = breaches(&Graph::read(&metadata)?);
    for directory in NO_PROGRAMS {
        starts(&build::root().join(directory), &mut breaches)?;
    }
    if !breaches.is_empty() {
        bail!("a wall between crates is broken (see ARCHITECTURE.md):\n  {}", breaches.join("\n  "));
    }
    Ok(())
}

/// Ordinary dependencies by package name; tests may use what they like.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            let id = package["id"].as_str().context("a package without an id")?.to_owned();
            names.insert(id, package["name"].as_str().context("a package without a name")?.to_owned());
        }
        let name = |id: &Value| id.as_str().and_then(|id| names.get(id)).cloned().context("an unknown package id");
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let mut uses = BTreeSet::new();
            for dependency in list(&node["deps"]) {
                if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                    uses.insert(name(&dependency["pkg"])?);
                }
            }
            graph.entry(name(&node["id"])?).or_default().extend(uses);
        }
        Ok(Self(graph))
    }

    fn uses(&self, package: &str) -> impl Iterator<Item = &str> {
        self.0.get(package).into_iter().flatten().map(String::as_str)
    }

    fn reaches(&self, package: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = self.uses(package).collect();
        while let Some(package) = next.pop() {
            if seen.insert(package) {
                next.extend(self.uses(package));
            }
        }
        seen
    }
}

fn breaches(graph: &Graph) -> Vec<String> {
    let ours: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    let mut breaches = Vec::new();
    for (package, allowed) in MAY_USE {
        for used in graph.uses(package).filter(|used| ours.contains(used) && !allowed.contains(used)) {
            breaches.push(format!("{package} must not use {used}"));
        }
    }
    for (package, banned) in MUST_NOT_REACH {
        let reached = graph.reaches(package);
        breaches
            .extend(banned.iter().filter(|b| reached.contains(*b)).map(|b| format!("{package} must not reach {b}")));
    }
    for package in NO_HTTP {
        let http = graph.uses(package).filter(|used| ["hyper", "hyper-util", "http", "http-body-util"].contains(used));
        breaches.extend(http.map(|used| format!("{package} must not use {used}")));
    }
    breaches
}

/// Collects the files below a directory that start programs.
fn starts(directory: &Path, breaches: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            starts(&path, breaches)?;
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let found = STARTS.iter().filter(|word| text.contains(*word));
        breaches.extend(found.map(|word| format!("{} must start no program, and has {word}", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_networks_start_is_a_breach_and_one_of_a_test_is_none() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("deep/tests")).unwrap();
        for (name, text) in [
            ("deep/wall.rs", "Command::new(\"nft\")"),
            ("deep/tests/wall.rs", "Command::new(\"nft\")"),
            ("deep/tests.rs", "Command::new(\"ip\")"),
            ("link.rs", "fn link() {}"),
        ] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let mut breaches = Vec::new();
        starts(root.path(), &mut breaches).unwrap();
        assert!(breaches.len() == 1 && breaches[0].contains("deep/wall.rs"), "{breaches:?}");
    }

    #[test]
    fn the_walls_of_this_workspace_stand() {
        check().expect("no breach");
    }

    #[test]
    fn a_breach_is_named() {
        let uses = |pairs: &[(&str, &str)]| {
            let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (from, to) in pairs {
                graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            breaches(&Graph(graph))
        };
        assert_eq!(uses(&[("gantry-graph", "gantry-linux"), ("gantry-engine", "tokio")]), Vec::<String>::new());
        assert_eq!(uses(&[("gantry-graph", "gantry-engine")]), ["gantry-graph must not use gantry-engine"]);
        assert_eq!(uses(&[("gantry-graph", "x"), ("x", "tokio")]), ["gantry-graph must not reach tokio"]);
        assert_eq!(uses(&[("gantry-engine", "hyper")]), ["gantry-engine must not use hyper"]);
    }
}
