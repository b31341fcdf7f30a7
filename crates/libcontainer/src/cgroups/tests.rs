//! On the real kernel, below a cgroup of the test's own.
#![allow(clippy::disallowed_methods, reason = "tests look at the kernel's files directly")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "skips and measurements are said aloud")]

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// A leaf that is killed and removed with its parent, also when the test fails.
struct Scratch(Leaf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/gantry-test-{}-{n}/leaf", std::process::id());
        Self(Leaf::create(&Hierarchies::discover().unwrap(), &path).unwrap())
    }

    fn file(&self, controller: &str, name: &str) -> String {
        std::fs::read_to_string(self.0.file(controller, name).unwrap()).unwrap().trim().to_owned()
    }

    /// A shell that joins the leaf before it runs `script`.
    fn shell(&self, script: &str) -> Child {
        let joins: String =
            self.0.paths().iter().map(|p| format!("echo 0 > {}/cgroup.procs\n", p.directory.display())).collect();
        let mut command = Command::new("sh");
        command.arg("-c").arg(joins + script).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Waits until the leaf has `count` processes in every hierarchy.
    fn wait_for(&self, count: usize) {
        let end = soon();
        let all = |p: &LeafPath| {
            std::fs::read_to_string(p.directory.join("cgroup.procs")).is_ok_and(|t| t.lines().count() >= count)
        };
        while !self.0.paths().iter().all(all) {
            assert!(Instant::now() < end, "the processes do not come");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.0.kill_all(soon());
        let parent = self.0.path().rsplit_once('/').unwrap().0.to_owned();
        let left = Leaf::open(&self.0.hierarchies, &parent).unwrap().remove(soon());
        if !std::thread::panicking() {
            left.unwrap();
            assert!(self.0.paths().iter().all(|p| !p.directory.parent().unwrap().exists()));
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn v1() -> bool {
    let v1 = Hierarchies::discover().unwrap().version() == Version::V1;
    if !v1 {
        eprintln!("SKIPPED: needs cgroup v1");
    }
    v1
}

#[test]
fn limits_reach_the_kernels_files_and_bad_ones_are_named_and_rolled_back() {
    if !v1() {
        return;
    }
    let scratch = Scratch::new();
    let limits = Resources {
        memory: Some(64 << 20),
        memory_swap: Some(128 << 20),
        memory_reservation: Some(32 << 20),
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        pids: Some(20),
        cpuset_cpus: Some("0".into()),
        device_rules: default_device_rules(),
        ..Resources::default()
    };
    scratch.0.apply(&limits).unwrap();
    assert_eq!(scratch.file("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(scratch.file("memory", "memory.memsw.limit_in_bytes"), (128 << 20).to_string());
    assert_eq!(scratch.file("cpu", "cpu.shares"), "512");
    assert_eq!(scratch.file("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(scratch.file("pids", "pids.max"), "20");
    assert_eq!(scratch.file("cpuset", "cpuset.cpus"), "0");
    let devices = scratch.file("devices", "devices.list");
    assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:*"), "{devices}");
    // Up and down again, both limits at once.
    for (memory, swap) in [(256 << 20, 512 << 20), (16 << 20, 16 << 20), (32 << 20, -1)] {
        let both = Resources { memory: Some(memory), memory_swap: Some(swap), ..Resources::default() };
        scratch.0.update(&both).unwrap();
    }
    let bad =
        Resources { pids: Some(5), cpu_shares: Some(99), cpuset_cpus: Some("4000".into()), ..Resources::default() };
    let error = scratch.0.update(&bad).unwrap_err().to_string();
    assert!(error.starts_with("set cpuset.cpus of /sys/fs/cgroup") && error.contains("to 4000: "), "{error}");
    assert_eq!(scratch.file("cpu", "cpu.shares"), "512");
}

#[test]
fn pids_limit_stops_a_fork() {
    let scratch = Scratch::new();
    scratch.0.apply(&Resources { pids: Some(2), ..Resources::default() }).unwrap();
    let status = scratch.shell("sleep 100 & sleep 100 & sleep 100 & true").wait().unwrap();
    assert!(!status.success());
}

#[test]
fn memory_limit_kills_and_is_counted() {
    let scratch = Scratch::new();
    scratch.0.apply(&Resources { memory: Some(8 << 20), memory_swap: Some(8 << 20), ..Resources::default() }).unwrap();
    let mut watch = scratch.0.watch_oom().unwrap().unwrap();
    assert_eq!(watch.take().unwrap(), 0);
    let status = scratch.shell("exec dd if=/dev/zero of=/dev/null bs=64M count=1").wait().unwrap();
    assert!(!status.success());
    assert!(scratch.0.oom_kills().unwrap() > 0);
    let second = Duration::from_secs(1).try_into().unwrap();
    assert_eq!(rustix::event::poll(&mut [watch.interest()], Some(&second)), Ok(1), "it is ready at once");
    assert!(watch.take().unwrap() > 0);
    assert_eq!(watch.take().unwrap(), 0, "each is told once");
    let stats = scratch.0.stats().unwrap();
    assert!(stats.oom_kills > 0 && stats.memory_max_usage > 1 << 20 && stats.memory_limit == 8 << 20, "{stats:?}");
    assert!(stats.cpu_total > 0 && !stats.memory_stat.is_empty());
}

#[test]
fn frozen_members_stop_survive_a_rename_and_die_with_the_leaf() {
    if !v1() {
        return;
    }
    let mut scratch = Scratch::new();
    let mut child = scratch.shell("sleep 100 & sleep 100 & wait");
    scratch.wait_for(3);
    scratch.0.freeze(soon()).unwrap();
    assert!(scratch.0.is_frozen().unwrap());
    scratch.0.rename("renamed").unwrap();
    assert!(scratch.0.path().ends_with("/renamed"));
    assert_eq!(scratch.0.procs().unwrap().len(), 3);
    assert_eq!(scratch.0.stats().unwrap().pids_current, 3);
    scratch.0.thaw(soon()).unwrap();
    assert!(!scratch.0.is_frozen().unwrap());
    let nested = Leaf::create(&scratch.0.hierarchies, &format!("{}/a/b", scratch.0.path())).unwrap();
    nested.join(child.id()).unwrap();
    assert!(scratch.0.procs().unwrap().contains(&child.id()));
    scratch.0.freeze(soon()).unwrap();
    scratch.0.kill_all(soon()).unwrap();
    assert!(!child.wait().unwrap().success());
    scratch.0.remove(soon()).unwrap();
    scratch.0.remove(soon()).unwrap();
}

#[test]
fn a_rename_onto_a_sibling_is_undone() {
    if !v1() {
        return;
    }
    let mut scratch = Scratch::new();
    let old = scratch.0.path().to_owned();
    let last = scratch.0.paths().pop().unwrap().directory;
    std::fs::create_dir(last.with_file_name("taken")).unwrap();
    assert!(scratch.0.rename("taken").is_err());
    assert_eq!(scratch.0.path(), old);
    assert!(scratch.0.paths().iter().all(|p| p.directory.exists()));
    assert!(scratch.0.rename("a/b").is_err());
}

#[test]
fn a_new_leaf_takes_tasks_at_once_because_its_cpuset_is_copied() {
    let scratch = Scratch::new();
    if v1() {
        assert_ne!(scratch.file("cpuset", "cpuset.cpus"), "");
        assert_ne!(scratch.file("cpuset", "cpuset.mems"), "");
    }
    assert_eq!(scratch.0.procs_fds().unwrap().len(), scratch.0.paths().len());
    assert!(Leaf::open(&scratch.0.hierarchies, "/a/../b").is_err());
}

/// Prints what the start path pays; run with `--nocapture`.
#[test]
fn rename_and_limits_take_microseconds() {
    if !v1() {
        return;
    }
    let mut scratch = Scratch::new();
    scratch.0.apply_devices(&default_device_rules()).unwrap();
    let limits = Resources {
        memory: Some(64 << 20),
        memory_swap: Some(128 << 20),
        pids: Some(100),
        cpu_shares: Some(512),
        ..Resources::default()
    };
    let (mut renames, mut applies) = (Vec::new(), Vec::new());
    for n in 0..50 {
        let start = Instant::now();
        scratch.0.rename(&format!("name-{n}")).unwrap();
        renames.push(start.elapsed());
        let start = Instant::now();
        scratch.0.apply(&limits).unwrap();
        applies.push(start.elapsed());
    }
    let start = Instant::now();
    scratch.0.apply_devices(&default_device_rules()).unwrap();
    let devices = start.elapsed();
    renames.sort();
    applies.sort();
    println!("rename {:?}, apply {:?}, devices {devices:?}", renames[25], applies[25]);
    assert!(renames[25] + applies[25] < Duration::from_millis(50));
}
