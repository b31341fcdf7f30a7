//! Installs what a verb needs, and only what is missing.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use gantry_tests::paths::program;

use crate::vm::{HOST, SYSTEM_TOOLS, TOOLS};

/// A program that must be there, the Debian package that has it, and what it is for.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const fn need(program: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { program, package, why }
}

/// For building: SQLite and the cryptography library have parts in C.
const BUILD: [Need; 1] = [need("cc", "gcc", "the C parts of SQLite, zstd and aws-lc")];

/// For a daemon that pulls images which this machine made.
const RUN: [Need; 6] = [
    need("docker-registry", "docker-registry", "a private registry on loopback"),
    need("skopeo", "skopeo", "pushes images into it"),
    need("busybox", "busybox-static", "the small images of the tests"),
    need("debootstrap", "debootstrap", "makes the Debian image where Docker Hub cannot be reached"),
    need("nft", "nftables", "looks at the firewall from outside"),
    need("ip", "iproute2", "removes bridges of daemons that were killed"),
];

/// For the whole test suite.
const TEST: [Need; 9] = [
    need("mkfs.btrfs", "btrfs-progs", "a file system for the graphdriver btrfs"),
    need("tmux", "tmux", "a real terminal"),
    need("sshd", "openssh-server", "a daemon behind ssh, on loopback"),
    need("ssh", "openssh-client", "the way to it"),
    need("openssl", "openssl", "a second opinion on TLS"),
    need("c++", "g++", "libcontainer's header in C++"),
    need("python3", "python3", "libcontainer from another language"),
    need("lxc-start", "lxc", "the execdriver that it makes containers for"),
    need("docker", "docker-cli|docker.io", "Docker's own client, which must work with our daemon"),
];

/// Engines that use `gantry runtime`, where apt has them and they push nothing else out; the tests say what they miss.
const ENGINES: [Need; 5] = [
    need("podman", "podman", "runs containers with our runtime"),
    need("newuidmap", "uidmap", "it does so for plain users"),
    need("dockerd", "docker.io", "Docker's daemon does so"),
    need("ctr", "containerd", "containerd does so"),
    need("runc", "runc", "Docker's daemon wants to find it"),
];

/// Programs of others that we have to get on with, where apt has them and they push nothing else out.
const NEIGHBOURS: [Need; 4] = [
    need("ufw", "ufw", "a firewall that drops what is forwarded"),
    need("dbus-daemon", "dbus", "firewalld is spoken to by it"),
    need("firewall-cmd", "firewalld", "a firewall with zones"),
    need("docker-compose", "docker-compose", "applications of several services"),
];

/// What the demonstration needs.
pub fn for_demo() -> Result<()> {
    install(&[&BUILD[..], &RUN[..]].concat())
}

/// What the tests need.
pub fn for_tests() -> Result<()> {
    install(&[&BUILD[..], &RUN[..], &TEST[..]].concat())?;
    for other in missing(&ENGINES).into_iter().chain(missing(&NEIGHBOURS)) {
        if let Err(error) = install(&[other]).and_then(|()| leave_off(other)) {
            println!("going on without {}: {error:#}", other.program);
        }
    }
    Ok(())
}

/// What the virtual machine needs, and what its tests call inside.
pub fn for_vm() -> Result<()> {
    let tools = [HOST, TOOLS, SYSTEM_TOOLS].concat();
    let tools: Vec<Need> = tools.iter().map(|tool| need(tool.program, tool.package, tool.why)).collect();
    install(&[&BUILD[..], &RUN[..], &tools].concat())
}

/// Installs further packages, for benchmarks.
pub fn install_peer(program_name: &'static str, package: &'static str, why: &'static str) -> Result<()> {
    install(&[need(program_name, package, why)])
}

/// A firewall that is here for a test must not begin to filter when the machine starts the next time.
fn leave_off(need: Need) -> Result<()> {
    if need.package != "firewalld" || program("systemctl").is_none() {
        return Ok(());
    }
    let status = Command::new("systemctl").args(["disable", "firewalld.service"]).status().context("run systemctl")?;
    if !status.success() {
        bail!("systemctl disable firewalld.service failed: do it by hand, or it filters from the next start on");
    }
    Ok(())
}

/// Never at the price of a package that somebody wanted: Docker's own packages conflict with Debian's.
const INSTALL: [&str; 5] = ["install", "-qq", "-y", "--no-install-recommends", "--no-remove"];

/// Installs a package that has no program; one that is there already does no harm.
pub fn install_package(package: &str, why: &str) -> Result<()> {
    println!("installing with apt-get:\n  {package:<16} {why}");
    let _guard = NoServices::new()?;
    apt(&[&INSTALL[..], &[package]].concat())
}

fn install(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if !rustix::process::geteuid().is_root() {
        bail!(explain(&missing));
    }
    if missing.is_empty() {
        return Ok(());
    }
    if program("apt-get").is_none() {
        bail!("this is no Debian machine; install these by hand:\n{}", table(&missing));
    }
    println!("installing with apt-get:\n{}", table(&missing));
    let _guard = NoServices::new()?;
    apt(&["update", "-q"])?;
    for need in missing {
        let mut names = need.package.split('|');
        let installed = names.find(|name| apt(&[&INSTALL[..], &[name]].concat()).is_ok());
        if installed.is_none() || program(need.program).is_none() {
            bail!("{} ({}) could not be installed by apt-get", need.program, need.why);
        }
    }
    Ok(())
}

fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().copied().filter(|need| program(need.program).is_none()).collect()
}

fn explain(missing: &[Need]) -> String {
    let mut text = String::from(
        "this has to run as root (`sudo -E env PATH=\"$PATH\" cargo xtask …`): containers need namespaces, mounts, cgroups and a \
         bridge, which the kernel gives to root only",
    );
    if !missing.is_empty() {
        text.push_str("\nit would also install these Debian packages:\n");
        text.push_str(&table(missing));
    }
    text
}

fn table(needs: &[Need]) -> String {
    needs.iter().map(|need| format!("  {:<16} {}\n", need.package.replace('|', " or "), need.why)).collect()
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let output = command.output().context("run apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {} failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

/// While it lives, packages that are installed start no service. A policy that is there already stays as it is.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o755).open(POLICY).context("write policy-rc.d")?;
        std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n").context("write policy-rc.d")?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("remove {POLICY}: {error}");
        }
    }
}
