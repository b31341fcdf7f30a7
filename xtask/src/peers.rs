//! Docker and podman as they are measured: from apt, in network and mount namespaces of their own, so that their
//! firewall rules and sysctls do not touch this machine.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gantry_tests::{cgroups, command, http, paths, until};

use crate::namespaces::Namespaces;
use crate::setup;

/// A peer that is ready to run containers.
#[derive(Debug)]
pub struct Peer {
    /// `Docker`, `podman`.
    pub name: String,
    /// What it says of its versions.
    pub version: String,
    /// The program and the arguments that come before a command.
    pub client: Vec<String>,
    /// The API's socket, where it has a daemon.
    pub socket: Option<PathBuf>,
    /// Where its containers' cgroups are, relative to a hierarchy.
    pub cgroup: PathBuf,
    namespaces: Namespaces,
    daemon: Option<Child>,
    /// Data, state and log.
    root: PathBuf,
}

impl Peer {
    /// Docker: `dockerd` with a containerd of its own.
    pub fn docker(root: &Path) -> Result<Self> {
        setup::install_peer("dockerd", "docker.io", "the peer to measure against")?;
        let (client, server) = (paths::need("docker")?, paths::need("dockerd")?);
        let root = root.join("docker");
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        let namespaces = Namespaces::make()?;
        let socket = root.join("sock");
        let log = File::create(root.join("log")).context("create dockerd's log")?;
        let mut daemon = namespaces.command(&server)?;
        daemon.arg("--data-root").arg(root.join("data")).arg("--exec-root").arg(root.join("run"));
        daemon.arg("-H").arg(format!("unix://{}", socket.display())).arg("--pidfile").arg(root.join("pid"));
        daemon.args(["--cgroup-parent", "/bench-docker-c", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        daemon.args(["--storage-driver", "overlay2", "--group", "root"]);
        let path = std::env::var("PATH").unwrap_or_default();
        daemon.env("PATH", format!("{path}:/usr/sbin:/sbin")).process_group(0);
        let daemon =
            daemon.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("start dockerd")?;
        let client = vec![client.display().to_string(), "-H".to_owned(), format!("unix://{}", socket.display())];
        let mut peer = Self {
            name: "Docker".to_owned(),
            version: String::new(),
            client,
            socket: Some(socket.clone()),
            cgroup: "bench-docker-c".into(),
            namespaces,
            daemon: Some(daemon),
            root,
        };
        let ready = || http::unix(&socket, "GET", "/_ping", None).ok().filter(|answer| answer.status == 200);
        if until(Duration::from_secs(60), ready).is_none() {
            let log = fs::read_to_string(peer.root.join("log")).unwrap_or_default();
            bail!("dockerd does not answer: {}", log.lines().rev().take(3).collect::<Vec<_>>().join(" | "));
        }
        let version = http::unix(&socket, "GET", "/version", None)?.json();
        let parts = version["Components"].as_array().cloned().unwrap_or_default();
        let parts = parts.iter().filter(|part| part["Name"] != "docker-init");
        let parts: Vec<String> =
            parts.map(|part| format!("{} {}", text(&part["Name"]), text(&part["Version"]))).collect();
        peer.version = parts.join(", ");
        Ok(peer)
    }

    /// podman; it has no daemon.
    pub fn podman(root: &Path) -> Result<Self> {
        setup::install_peer("podman", "podman", "the peer to measure against")?;
        setup::install_peer("conmon", "conmon", "podman's supervisor")?;
        let program = paths::need("podman")?;
        let root = root.join("podman");
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        let namespaces = Namespaces::make()?;
        let enter = namespaces.command(&program)?;
        let mut client = vec![enter.get_program().to_string_lossy().into_owned()];
        client.extend(enter.get_args().map(|word| word.to_string_lossy().into_owned()));
        let runtime = if paths::program("runc").is_some() { "runc" } else { "crun" };
        for (flag, value) in
            [("--root", "data"), ("--runroot", "run"), ("--tmpdir", "tmp"), ("--network-config-dir", "networks")]
        {
            client.extend([flag.to_owned(), root.join(value).display().to_string()]);
        }
        client.extend(
            ["--cgroup-manager", "cgroupfs", "--storage-driver", "overlay", "--runtime", runtime].map(str::to_owned),
        );
        let output = command::succeed(Command::new(&client[0]).args(&client[1..]).arg("--version"), command::LIMIT)?;
        let runtime_version = command::succeed(Command::new(runtime).arg("--version"), command::LIMIT)?.stdout;
        let first = runtime_version.lines().next().unwrap_or_default();
        Ok(Self {
            name: "podman".to_owned(),
            version: format!("{}, {first}", output.stdout.trim()),
            client,
            socket: None,
            cgroup: "bench-podman-c".into(),
            namespaces,
            daemon: None,
            root,
        })
    }

    /// A command that runs in its namespaces.
    pub fn inside(&self, program: &Path) -> Result<Command> {
        self.namespaces.command(program)
    }

    /// A command of its client.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client[0]);
        command.args(&self.client[1..]).args(arguments).env_remove("DOCKER_HOST").env("HOME", &self.root);
        command
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let pid = rustix::process::Pid::from_child(daemon);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            command::wait(daemon, Duration::from_secs(20)).ok();
        }
        self.namespaces.end();
        for mount in gantry_tests::slot::mounts_below(&self.root).iter().rev() {
            rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).ok();
        }
        fs::remove_dir_all(&self.root).ok();
        for (_, point) in cgroups::hierarchies() {
            let path = point.join(&self.cgroup);
            cgroups::kill(&path);
            if path.exists() {
                cgroups::remove(&path);
            }
        }
    }
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or("?")
}
