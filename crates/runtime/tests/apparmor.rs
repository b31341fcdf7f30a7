//! AppArmor's confinement of a container's programs, where the kernel has it: in the virtual machine.
#![allow(clippy::disallowed_methods, reason = "tests run programs plainly")]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::World;
use libcontainer::lsm::apparmor;
use serde_json::json;

const PROFILE: &str = "gantry-runtime-test";

/// The default profile under a name of this test, unloaded when it is dropped.
struct Loaded;

impl Loaded {
    fn new() -> Self {
        apparmor::ensure_default(PROFILE).expect("the default profile is loaded");
        assert!(apparmor::profile_loaded(PROFILE).unwrap());
        Self
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut parser = Command::new("apparmor_parser").arg("--remove").stdin(Stdio::piped()).spawn().unwrap();
        let text = apparmor::default_profile(PROFILE).unwrap();
        parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(parser.wait().unwrap().success());
    }
}

#[test]
fn the_default_profile_confines_program_and_execs_and_denies_what_capabilities_allow() {
    if !apparmor::enabled() {
        gantry_tests::skip("AppArmor: this kernel has none, or it is switched off");
        return;
    }
    let _loaded = Loaded::new();
    let mut world = World::new();
    let all = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SYS_RESOURCE"];
    world.configure(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(all);
        }
        config["process"]["noNewPrivileges"] = json!(false);
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        config["root"]["readonly"] = json!(false);
    });
    let tries = "cat /proc/self/attr/current; mkdir -p /tmp/m; mount -t tmpfs x /tmp/m && echo mounted; \
                 { echo 1000 >/proc/sys/vm/stat_interval; } 2>/dev/null && echo written; true";
    world.shell(tries);
    let id = world.id();
    // The profile is what makes the difference.
    world.configure(|config| config["process"]["apparmorProfile"] = json!("unconfined"));
    let free = world.command(&["run", &id]);
    assert!(free.out.starts_with("unconfined\n") && free.out.contains("mounted"), "{free:?}");
    world.configure(|config| config["process"]["apparmorProfile"] = json!(PROFILE));
    let confined = world.command(&["run", &id]);
    assert_eq!(confined.out, format!("{PROFILE} (enforce)\n"), "{confined:?}");

    let id = world.sleeping();
    let exec = world.command(&["exec", &id, "sh", "-c", tries]);
    assert_eq!(exec.out, format!("{PROFILE} (enforce)\n"), "{exec:?}");
    let free = world.ok(&["exec", "--apparmor", "unconfined", &id, "cat", "/proc/self/attr/current"]);
    assert_eq!(free, "unconfined\n");
}

#[test]
fn a_profile_that_is_not_loaded_is_refused_before_anything_is_made() {
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        gantry_tests::skip("AppArmor: this kernel has none");
        return;
    }
    let mut world = World::new();
    let id = world.id();
    world.program(&["true"]);
    world.configure(|config| config["process"]["apparmorProfile"] = json!("gantry-no-such-profile"));
    let refused = world.command(&["create", &id]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("not enabled") || refused.err.contains("not loaded"), "{refused:?}");
    assert!(world.command(&["state", &id]).err.contains("does not exist"));
}

#[test]
fn a_kernel_without_apparmor_runs_and_executes_programs_without_their_profile_and_says_so() {
    if std::path::Path::new("/sys/module/apparmor").exists() {
        gantry_tests::skip("this kernel has AppArmor");
        return;
    }
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    world.configure(|config| config["process"]["apparmorProfile"] = json!("gantry-no-such-profile"));
    let said = |err: &str| err.contains("gantry-no-such-profile") && err.contains("no AppArmor");
    let created = world.command(&["create", &id]);
    assert!(created.code == 0 && said(&created.err), "{created:?}");
    world.ok(&["start", &id]);
    let executed = world.command(&["exec", &id, "true"]);
    assert!(executed.code == 0 && said(&executed.err), "{executed:?}");
}
