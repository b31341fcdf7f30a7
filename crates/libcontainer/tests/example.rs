//! The example program does what it says it does.
#![allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// A root with busybox, and the places for mounts: its own root is read-only in the container.
fn rootfs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["bin", "proc", "dev"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", dir.path().join("bin/busybox")).expect("busybox-static is installed");
    dir
}

fn run(root: &tempfile::TempDir, line: &str) -> Output {
    // cargo test builds examples beside the tests' directory.
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.ancestors().nth(2).unwrap().join("examples/run");
    Command::new(program).arg(root.path()).args(["/bin/busybox", "sh", "-c", line]).output().unwrap()
}

#[test]
fn the_example_runs_a_command_in_a_container_and_prints_its_exit_code() {
    let root = rootfs();
    let output = run(&root, "echo I am process $$; busybox touch /x 2>/dev/null || exit 3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said, "I am process 1\nexit code 3\n", "{output:?}");
}

#[test]
fn its_limits_hold() {
    let root = rootfs();
    let greedy = run(&root, "exec busybox dd if=/dev/zero of=/dev/null bs=128M count=1");
    assert!(String::from_utf8_lossy(&greedy.stdout).contains("exit code 137"), "killed for its memory: {greedy:?}");
    let many = run(&root, "i=0; while [ $i -lt 64 ]; do busybox sleep 60 & i=$((i+1)); done");
    assert!(String::from_utf8_lossy(&many.stderr).contains("can't fork"), "32 processes: {many:?}");
}

#[test]
fn a_command_that_is_not_there_is_an_error_that_names_it() {
    let root = rootfs();
    let output = Command::new(std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/run"))
        .arg(root.path())
        .arg("/bin/nothing")
        .output()
        .unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/bin/nothing"), "{output:?}");
}
