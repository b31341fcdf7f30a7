//! cgroup v2 on the real kernel. What needs no controller (device programs, freezing, killing) runs on hybrid machines as
//! well, in their otherwise empty tree; limits and accounting need a machine with pure v2.
#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "tests look at the kernel's files directly")]

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gantry_linux::bpf;
use libcontainer::cgroups::{
    CgroupDriver, CgroupRequest, Cgroupfs, Hierarchies, Leaf, Version, all_devices, default_device_rules,
};
use libcontainer::config::{DeviceKind, DeviceRule, Resources};

/// A leaf in a v2 tree that is killed and removed with its parent, also when the test fails.
struct Scratch(Leaf);

impl Scratch {
    fn new(hierarchies: &Hierarchies) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/gantry-v2-test-{}-{n}/leaf", std::process::id());
        Self(Leaf::create(hierarchies, &path).unwrap())
    }

    fn directory(&self) -> PathBuf {
        self.0.paths().remove(0).directory
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory().join(name)).unwrap_or_else(|e| panic!("{name}: {e}")).trim().to_owned()
    }

    /// A shell that joins the leaf before it runs `script`.
    fn shell(&self, script: &str) -> Child {
        let join = format!("echo 0 > {}/cgroup.procs || exit 99\n", self.directory().display());
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(join + script).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    fn run(&self, script: &str) -> bool {
        self.shell(script).wait().unwrap().success()
    }

    fn wait_for(&self, count: usize) {
        let end = soon();
        while self.0.procs().unwrap().len() < count {
            assert!(Instant::now() < end, "the processes do not come");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.0.kill_all(soon());
        let parent = self.0.path().rsplit_once('/').unwrap().0.to_owned();
        let left = Leaf::open(self.0.hierarchies(), &parent).unwrap().remove(soon());
        if !std::thread::panicking() {
            left.unwrap();
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    if let Some(list) = std::env::var_os("GANTRY_SKIPS") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(list);
        file.and_then(|mut file| writeln!(file, "libcontainer cgroup_v2: {why}")).unwrap();
    }
}

/// The v2 tree of a machine of either layout.
fn any() -> Option<Hierarchies> {
    let found = Hierarchies::discover().unwrap();
    match (found.version(), found.unified()) {
        (Version::V2, _) => Some(found),
        (Version::V1, Some(mount)) => Some(Hierarchies::unified_at(mount).unwrap()),
        (Version::V1, None) => {
            skip("cgroup2 is not mounted");
            None
        }
    }
}

/// The v2 tree of a machine with nothing else.
fn pure() -> Option<Hierarchies> {
    let found = Some(Hierarchies::discover().unwrap()).filter(|found| found.version() == Version::V2);
    if found.is_none() {
        skip("the machine's controllers are not on cgroup v2");
    }
    found
}

#[test]
fn limits_reach_the_kernels_files_in_v2s_terms_and_a_refused_update_is_undone() {
    let Some(hierarchies) = pure() else { return };
    let scratch = Scratch::new(&hierarchies);
    let limits = Resources {
        memory: Some(64 << 20),
        memory_swap: Some(64 << 20),
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        pids: Some(20),
        device_rules: default_device_rules(),
        ..Resources::default()
    };
    assert_eq!(scratch.0.apply(&limits).unwrap(), Vec::<String>::new());
    assert_eq!(scratch.file("memory.max"), (64 << 20).to_string());
    assert_eq!((scratch.file("cpu.weight"), scratch.file("cpu.max")), ("100".into(), "50000 100000".into()));
    assert_eq!(scratch.file("pids.max"), "20");
    scratch.0.update(&Resources { cpu_period: Some(200_000), ..Resources::default() }).unwrap();
    assert_eq!(scratch.file("cpu.max"), "50000 200000");
    let bad = Resources {
        pids: Some(5),
        unified: [("memory.high".to_owned(), "much".to_owned())].into(),
        ..Resources::default()
    };
    let error = scratch.0.update(&bad).unwrap_err().to_string();
    assert!(error.starts_with("set memory.high of /sys/fs/cgroup") && error.contains("to much"), "{error}");
    assert_eq!(scratch.file("pids.max"), "20");
}

#[test]
fn memory_limit_kills_and_is_counted() {
    let Some(hierarchies) = pure() else { return };
    let scratch = Scratch::new(&hierarchies);
    scratch.0.apply(&Resources { memory: Some(8 << 20), memory_swap: Some(8 << 20), ..Resources::default() }).unwrap();
    assert!(!scratch.run("exec dd if=/dev/zero of=/dev/null bs=64M count=1"));
    let stats = scratch.0.stats().unwrap();
    assert!(stats.oom_kills > 0 && stats.memory_limit == 8 << 20 && stats.memory_failcnt > 0, "{stats:?}");
}

#[test]
fn frozen_members_stop_go_on_and_die_at_once() {
    let Some(hierarchies) = any() else { return };
    let scratch = Scratch::new(&hierarchies);
    let mut child = scratch.shell("sleep 100 & sleep 100 & wait");
    scratch.wait_for(3);
    scratch.0.freeze(soon()).unwrap();
    assert!(scratch.0.is_frozen().unwrap());
    scratch.0.thaw(soon()).unwrap();
    assert!(!scratch.0.is_frozen().unwrap());
    scratch.0.freeze(soon()).unwrap();
    scratch.0.kill_all(soon()).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    scratch.0.remove(soon()).unwrap();
    scratch.0.remove(soon()).unwrap();
    assert!(!scratch.0.exists());
}

#[test]
fn device_programs_decide_and_are_replaced() {
    let Some(hierarchies) = any() else { return };
    let scratch = Scratch::new(&hierarchies);
    let (null, read) = ("echo > /dev/null && head -c 1 /dev/zero", "exec 3< /dev/kmsg");
    let decided = || [scratch.run(null), scratch.run(read)];
    scratch.0.apply_devices(&default_device_rules()).unwrap();
    assert_eq!(decided(), [true, false]);
    let mut rules = default_device_rules();
    let kmsg = DeviceRule { allow: true, kind: DeviceKind::Char, major: Some(1), minor: Some(11), access: "r".into() };
    rules.push(kmsg.clone());
    scratch.0.apply_devices(&rules).unwrap();
    assert_eq!(decided(), [true, true]);
    rules.push(DeviceRule { allow: false, minor: Some(5), ..kmsg });
    scratch.0.apply_devices(&rules).unwrap();
    assert_eq!(decided(), [false, true]);
    scratch.0.apply_devices(&all_devices()).unwrap();
    assert_eq!(decided(), [true, true]);
    let held = std::fs::File::open(scratch.directory()).unwrap();
    assert_eq!(bpf::device_programs(&held).unwrap().len(), 1);
}

#[test]
fn a_program_of_somebody_else_on_the_cgroup_stays() {
    let Some(hierarchies) = any() else { return };
    let scratch = Scratch::new(&hierarchies);
    scratch.0.apply_devices(&all_devices()).unwrap();
    let directory = std::fs::File::open(scratch.directory()).unwrap();
    let one = |code, immediate| bpf::Instruction { code, registers: 0, offset: 0, immediate };
    let foreign = bpf::load_device_program(&[one(0xb4, 1), one(0x95, 0)], "somebodys").unwrap();
    bpf::attach_device_program(&directory, &foreign, None).unwrap();
    scratch.0.apply_devices(&default_device_rules()).unwrap();
    let programs = bpf::device_programs(&directory).unwrap();
    let named = |name| programs.iter().filter(|id| bpf::program_named(**id, name).unwrap().is_some()).count();
    assert_eq!((named("somebodys"), named("gantry_devices")), (1, 1));
}

#[test]
fn a_cgroup_in_use_and_a_threaded_one_are_refused_with_their_reasons() {
    let Some(hierarchies) = any() else { return };
    let scratch = Scratch::new(&hierarchies);
    // Beside a threaded cgroup an ordinary one takes nobody.
    let (threaded, plain) = (scratch.directory().join("threaded"), scratch.directory().join("plain"));
    std::fs::create_dir(&threaded).unwrap();
    std::fs::create_dir(&plain).unwrap();
    std::fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    let error = scratch.0.below("plain").unwrap().join(child.id()).map_err(|error| error.to_string());
    std::fs::remove_dir(&threaded).unwrap();
    std::fs::remove_dir(&plain).unwrap();
    scratch.0.join(child.id()).unwrap();
    assert!(error.as_ref().is_err_and(|error| error.contains("threaded subtree")), "{error:?}");
    let request = CgroupRequest { path: Some(scratch.0.path()), id: "x", lenient: false };
    let driver = Cgroupfs::new(hierarchies);
    let error = driver.create(&driver.locate(&request).unwrap()).unwrap_err().to_string();
    assert!(error.contains("other processes are in it"), "{error}");
    scratch.0.kill_all(soon()).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_leaf_beside_the_callers_own_is_found_again_from_its_record() {
    let Some(hierarchies) = any() else { return };
    let id = format!("gantry-v2-own-{}", std::process::id());
    let driver = Cgroupfs::new(hierarchies);
    let leaf = driver.locate(&CgroupRequest { path: None, id: &id, lenient: false }).unwrap();
    assert!(!leaf.exists());
    let made = driver.create(&leaf).unwrap();
    assert!(made.new && made.warnings.is_empty());
    let found: Leaf = serde_json::from_str(&serde_json::to_string(&made.leaf).unwrap()).unwrap();
    assert!(found.exists() && found.paths()[0].relative.ends_with(&id));
    found.remove(soon()).unwrap();
    assert!(!made.leaf.exists());
}
