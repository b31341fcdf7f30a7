//! Alone in its process, because it counts: mounts, cgroups, processes, descriptors before and after.

use std::collections::BTreeSet;
use std::path::Path;

use libcontainer::steps;

use crate::common::{Rig, eventually, exec, process};

/// What of this rig the kernel has: its mounts, its cgroups, the processes in them, our descriptors.
#[derive(Debug, PartialEq, Eq)]
struct Kernel {
    mounts: usize,
    cgroups: BTreeSet<String>,
    descriptors: usize,
    directories: BTreeSet<String>,
}

fn look(rig: &Rig) -> Kernel {
    let mine = rig.dir.path().to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let names = |path: &Path| -> BTreeSet<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let mut cgroups = BTreeSet::new();
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    // With cgroup v2 alone the tree begins there.
    for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
        let found = names(&hierarchy.join(&rig.cgroup[1..]));
        cgroups.extend(found.into_iter().filter(|name| !name.starts_with("warm-")));
    }
    Kernel {
        mounts: mounts.lines().filter(|line| line.contains(mine)).count(),
        cgroups,
        descriptors: gantry_linux::process::open_descriptors().unwrap(),
        directories: names(&rig.dir.path().join("run/c")),
    }
}

/// The kernel's view once it does not change any more: with two supervisors ready and known to the driver.
fn steady(rig: &Rig) -> Kernel {
    eventually("two warm", || warm_leaves(rig) == 2);
    let (mut last, mut unchanged) = (look(rig), 0);
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = look(rig);
        unchanged = if now == last { unchanged + 1 } else { 0 };
        // On a slow machine a supervisor may rest for a moment in the middle of its making.
        if unchanged == 3 {
            return now;
        }
        last = now;
    }
    last
}

fn settle(rig: &Rig, before: &Kernel, what: &str) {
    let mut now = look(rig);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while now != *before && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
        now = look(rig);
    }
    assert_eq!(&now, before, "{what}");
}

/// Warm supervisors come and go: their descriptors are counted when two are ready.
fn ready(rig: &Rig) {
    let pair = (rig.driver().prepare().unwrap(), rig.driver().prepare().unwrap());
    drop(pair);
}

fn fifty_runs_leave_nothing() {
    let Some(rig) = Rig::new() else { return };
    ready(&rig);
    rig.script("true");
    rig.driver().forget("c0").unwrap();
    let before = steady(&rig);
    for number in 0..50 {
        let script = if number % 3 == 0 { "true" } else { "exec sleep 60" };
        let mapped = number % 5 == 0 && crate::DRIVER == "native";
        let config = if mapped { rig.mapped(script) } else { rig.config(script) };
        let container = rig.start(&config);
        if number % 3 == 1 {
            exec(&*container, "e", process(&["true"])).unwrap();
        }
        if number % 3 != 0 {
            container.kill_all().unwrap();
        }
        container.wait().unwrap();
        rig.driver().forget(&config.id).unwrap();
    }
    eventually("two warm", || warm_leaves(&rig) == 2);
    settle(&rig, &before, "after 50 runs");
}

fn warm_leaves(rig: &Rig) -> usize {
    let mounts = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|mount| Path::new(mount).join(&rig.cgroup[1..]));
    let entries = mounts.iter().find_map(|path| std::fs::read_dir(path).ok()).unwrap().flatten();
    let warm = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("warm-"));
    warm.filter(|entry| std::fs::read_to_string(entry.path().join("cgroup.procs")).is_ok_and(|text| !text.is_empty()))
        .count()
}

fn a_sandbox_that_is_not_used_and_a_killed_template_leave_nothing() {
    let Some(rig) = Rig::new() else { return };
    for _ in 0..5 {
        drop(rig.driver().prepare().unwrap());
    }
    let children = |comm: &str| -> Vec<i32> {
        let me = std::process::id().to_string();
        processes()
            .into_iter()
            .filter(|(_, parent, name)| *parent == me && name == comm)
            .map(|(pid, _, _)| pid)
            .collect()
    };
    let templates = children("gantry-template");
    assert_eq!(templates.len(), 1);
    let template = rustix::process::Pid::from_raw(templates[0]).unwrap();
    rustix::process::kill_process(template, rustix::process::Signal::KILL).unwrap();
    for _ in 0..4 {
        assert_eq!(rig.script("true").0, 0);
    }
}

/// Pid, parent and name of every process.
fn processes() -> Vec<(i32, String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
        found.push((pid, field("PPid:"), field("Name:")));
    }
    found
}

/// Runs this binary again for one step: the step is read by the template when it starts.
fn a_failure_at_each_step_leaves_nothing() {
    // Of these a supervised process has none.
    let staged = ["hooks", "program lookup", "start"];
    let own = steps::FIRST.iter().filter(|step| !staged.contains(step));
    let all: Vec<&str> = steps::SUPERVISOR.iter().chain(own).chain(steps::LAST).copied().collect();
    for step in all {
        let status = std::process::Command::new("/proc/self/exe")
            .arg("fail")
            .env(gantry_execdriver::native::FAIL_AT, step)
            .status()
            .unwrap();
        assert!(status.success(), "step {step}");
    }
}

fn fail_at(step: &str) {
    let Some(rig) = Rig::new() else { return };
    ready(&rig);
    let before = steady(&rig);
    for (terminal, mapped) in [(false, false), (true, false), (false, false), (false, true), (true, true)] {
        if mapped && crate::DRIVER != "native" {
            continue;
        }
        let mut config = if mapped { rig.mapped("sleep 60") } else { rig.config("sleep 60") };
        config.process.terminal = terminal;
        config.init = terminal;
        let error = rig.start_with(config, |_| ()).map(drop).unwrap_err();
        assert!(error.to_string().contains("injected") && error.to_string().contains(step), "{step}: {error}");
    }
    eventually("two warm", || warm_leaves(&rig) == 2);
    settle(&rig, &before, step);
}

pub fn main() {
    match std::env::var(gantry_execdriver::native::FAIL_AT) {
        Ok(step) => fail_at(&step),
        Err(_) => {
            a_sandbox_that_is_not_used_and_a_killed_template_leave_nothing();
            fifty_runs_leave_nothing();
            a_failure_at_each_step_leaves_nothing();
        }
    }
}
