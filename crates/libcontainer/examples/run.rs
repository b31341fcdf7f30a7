//! Runs a command in a container, and prints its exit code:
//!
//! ```text
//! run /srv/rootfs /bin/sh -c 'echo hello; exit 3'
//! ```
//!
//! The container has namespaces of its own, no capability, 64 MiB of memory, half a processor and 32 processes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for people")]

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use libcontainer::oci::{
    self, Capabilities, Cpu, Linux, LinuxNamespace, Memory, Mount, Pids, Process, Resources, Root, Spec,
};
use libcontainer::runtime::{CreateOptions, Runtime, protect};

fn main() -> ExitCode {
    let ended = run(&std::env::args_os().collect::<Vec<_>>());
    match &ended {
        Ok(code) => println!("exit code {code}"),
        Err(error) => eprintln!("run: {error}"),
    }
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(all: &[OsString]) -> Result<i32, Box<dyn Error>> {
    protect(all)?;
    let words = all.iter().map(|word| word.to_str().ok_or("an argument is no UTF-8")).collect::<Result<Vec<_>, _>>()?;
    let [_, rootfs, command @ ..] = words.as_slice() else {
        return Err("usage: run ROOTFS COMMAND [ARGUMENT…]".into());
    };
    let options = CreateOptions { spec: Some(spec(command)), ..CreateOptions::default() };
    // The name of its cgroup too.
    let id = format!("example-{}", std::process::id());
    let state = std::env::temp_dir().join(&id);
    let ended = live(&Runtime::new(&state), &id, rootfs.as_ref(), &options);
    let removed = std::fs::remove_dir(&state);
    let ended = ended?;
    removed?;
    Ok(ended.ok_or("somebody else took the exit code")?)
}

/// From the bundle to the exit code; nothing is left of the container.
fn live(runtime: &Runtime, id: &str, bundle: &Path, options: &CreateOptions) -> Result<Option<i32>, Box<dyn Error>> {
    let created = runtime.create(id, bundle, options)?;
    let ended = created.container.start().and_then(|_| created.container.wait());
    created.container.delete(true)?;
    Ok(ended?)
}

fn spec(command: &[&str]) -> Spec {
    let mount = |kind: &str, destination: &str, options: &[&str]| Mount {
        kind: kind.into(),
        source: kind.into(),
        destination: destination.into(),
        options: options.iter().map(ToString::to_string).collect(),
        ..Mount::default()
    };
    let namespace = |kind: &&str| LinuxNamespace { kind: (*kind).into(), path: String::new() };
    Spec {
        oci_version: oci::VERSION.into(),
        process: Some(Process {
            args: command.iter().map(ToString::to_string).collect(),
            env: vec!["PATH=/bin:/usr/bin:/sbin:/usr/sbin".into()],
            cwd: "/".into(),
            capabilities: Some(Capabilities::default()),
            no_new_privileges: true,
            ..Process::default()
        }),
        // The bundle is the root itself.
        root: Some(Root { path: ".".into(), readonly: true }),
        mounts: vec![mount("proc", "/proc", &[]), mount("tmpfs", "/dev", &["nosuid", "mode=755", "size=64k"])],
        linux: Some(Linux {
            namespaces: ["pid", "network", "mount", "ipc", "uts", "cgroup"].iter().map(namespace).collect(),
            resources: Some(Resources {
                memory: Some(Memory { limit: Some(64 << 20), ..Memory::default() }),
                cpu: Some(Cpu { quota: Some(50_000), period: Some(100_000), ..Cpu::default() }),
                pids: Some(Pids { limit: Some(32) }),
                ..Resources::default()
            }),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}
