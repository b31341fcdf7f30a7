//! What containers of one world have in the kernel and on disk at this moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::World;

/// By kind, everything that carries the world's directory or one of its containers' names. Other worlds' things are not
/// seen, so tests can run beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces(BTreeMap<&'static str, Vec<String>>);

impl Traces {
    /// Of a container and its world, now.
    pub fn of(world: &World, id: &str) -> Self {
        let place = world.path().display().to_string();
        let ours = |line: &str| line.contains(&place) || line.contains(id);
        let lines = |file: &str| -> Vec<String> {
            let text = std::fs::read(file).unwrap_or_default();
            String::from_utf8_lossy(&text).lines().filter(|line| ours(line)).map(str::to_owned).collect()
        };
        let cgroups = gantry_tests::cgroups::hierarchies().into_iter().flat_map(|(_, root)| named(&root, id));
        let mut traces = BTreeMap::from([
            ("processes", processes(&ours)),
            ("mounts", lines("/proc/self/mountinfo")),
            ("keys", lines("/proc/keys").iter().map(|line| without_count(line)).collect()),
            ("sockets", lines("/proc/net/unix")),
            ("cgroups", cgroups.map(|path| path.display().to_string()).collect()),
            ("state", entries(&world.path().join("state"))),
            ("files", entries(world.path()).into_iter().filter(|name| !ours_to_keep(name)).collect()),
            ("bundle", entries(&world.bundle())),
        ]);
        traces.values_mut().for_each(|found| found.sort());
        Self(traces)
    }

    /// Waits until it is as it was: the kernel forgets keyrings and network namespaces a moment later.
    #[track_caller]
    pub fn restored(&self, world: &World, id: &str, when: &str) {
        let mut now = Self::of(world, id);
        let restored = gantry_tests::until(Duration::from_secs(10), || {
            now = Self::of(world, id);
            (now == *self).then_some(())
        });
        assert!(restored.is_some(), "{when}: left behind:\n{}", self.difference(&now));
    }

    fn difference(&self, now: &Self) -> String {
        let less = |some: &Vec<String>, others: &Vec<String>| -> Vec<String> {
            some.iter().filter(|one| !others.contains(one)).cloned().collect()
        };
        let both = self.0.iter().zip(now.0.values()).filter(|((_, before), now)| before != now);
        let line = |((kind, before), now): ((&&str, _), _)| {
            format!("{kind}: more {:#?}, less {:#?}\n", less(now, before), less(before, now))
        };
        both.map(line).collect()
    }
}

/// Outputs of commands, and the state directory, which stays.
fn ours_to_keep(name: &str) -> bool {
    name.starts_with("std") || name == "state"
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Those whose command line, environment, root or cgroup is of the world. This one has nothing of it.
fn processes(ours: &dyn Fn(&str) -> bool) -> Vec<String> {
    let pids = entries(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok());
    let describe = |pid: &String| {
        let file = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default()).into_owned()
        };
        let command = file("cmdline");
        let told = [command.clone(), file("environ"), file("cgroup"), file("mountinfo")];
        told.iter().any(|text| ours(text)).then(|| format!("{pid}: {}", command.replace('\0', " ")))
    };
    pids.filter_map(|pid| describe(&pid)).collect()
}

/// Directories of this name in a hierarchy.
fn named(directory: &Path, name: &str) -> Vec<PathBuf> {
    let children = gantry_tests::cgroups::children(directory);
    let below = children.iter().flat_map(|child| named(child, name));
    let own = children.iter().filter(|child| child.ends_with(name)).cloned();
    own.chain(below).collect()
}

/// A line of `/proc/keys` without how many hold the key: credentials of ended processes let go of it later.
fn without_count(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words.len() > 2 {
        words.remove(2);
    }
    words.join(" ")
}
