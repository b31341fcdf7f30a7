//! The runtimes that are measured: ours, Debian's runc and crun, the newest crun of a sid tree, youki from its sources.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use gantry_tests::{cgroups, command, paths};

use super::meter;
use crate::{build, setup};

/// A runtime that is ready.
#[derive(Debug)]
pub struct Peer {
    /// For the table's head.
    pub name: String,
    /// What it says of its version.
    pub version: String,
    /// Names its directories and its cgroup.
    pub key: String,
    /// How many of its commands did not end.
    pub hung: Cell<usize>,
    program: PathBuf,
    leading: Vec<String>,
}

/// Ours.
pub fn ours(gantry: &Path) -> Result<Peer> {
    let mut ours = Peer::new("gantry", gantry.to_owned(), &["runtime"])?;
    ours.name = "Gantry".to_owned();
    Ok(ours)
}

/// Ours first, then those that can be had; and what cannot.
pub fn all(gantry: &Path, sid: Option<&str>) -> Result<(Vec<Peer>, Vec<String>)> {
    let store = build::root().join("target/bench");
    fs::create_dir_all(&store).with_context(|| format!("make {}", store.display()))?;
    // Where the tests keep theirs.
    let sid = sid.map_or_else(|| build::root().join("target/debian-sid"), PathBuf::from);
    let mut peers = vec![ours(gantry)?];
    let mut skipped = Vec::new();
    for (name, made) in [
        ("crun of sid", newest_crun(&sid, &store)),
        ("crun", of_debian("crun")),
        ("runc", of_debian("runc")),
        ("youki", youki(&store)),
    ] {
        match made {
            Ok(peer) => peers.push(peer),
            Err(error) => {
                println!("SKIPPED {name}: {error:#}");
                skipped.push(format!("{name} ({error})"));
            }
        }
    }
    Ok((peers, skipped))
}

fn of_debian(name: &'static str) -> Result<Peer> {
    setup::install_peer(name, name, "the runtime to measure against")?;
    Peer::new(name, paths::need(name)?, &[])
}

/// A tree's programs need the tree's libraries: a copy is told where they are, and runs as it is.
fn newest_crun(sid: &Path, store: &Path) -> Result<Peer> {
    let program = sid.join("usr/bin/crun");
    let missing = || {
        let (sid, text) = (sid.display(), "debootstrap --variant=minbase --include=crun sid");
        format!("there is none in {sid}: `{text} {sid}` makes a tree, --sid names another")
    };
    let bytes = fs::read(&program).map_err(|_| anyhow::anyhow!(missing()))?;
    setup::install_peer("patchelf", "patchelf", "crun of sid with its own libraries")?;
    let copy = store.join("crun-of-sid");
    fs::write(&copy, bytes).with_context(|| format!("write {}", copy.display()))?;
    let libraries = format!("{0}/usr/lib/{1}-linux-gnu:{0}/usr/lib", sid.display(), std::env::consts::ARCH);
    let linker = match std::env::consts::ARCH {
        "aarch64" => "lib/ld-linux-aarch64.so.1",
        _ => "lib64/ld-linux-x86-64.so.2",
    };
    let mut patch = Command::new(paths::need("patchelf")?);
    patch.arg("--set-interpreter").arg(sid.join(linker)).arg("--set-rpath").arg(libraries).arg(&copy);
    command::succeed(&mut patch, command::LIMIT)?;
    let mut mode = Command::new("chmod");
    command::succeed(mode.arg("755").arg(&copy), command::LIMIT)?;
    Peer::new("crun-of-sid", copy, &[])
}

/// Built once, which takes minutes, and kept.
fn youki(store: &Path) -> Result<Peer> {
    let built = store.join("bin/youki");
    if let Some(program) = paths::program("youki").or_else(|| built.is_file().then(|| built.clone())) {
        return Peer::new("youki", program, &[]);
    }
    setup::install_peer("pkg-config", "pkg-config|pkgconf", "finds libseccomp for youki")?;
    setup::install_package("libseccomp-dev", "youki is linked with it")?;
    println!("building youki from its sources, once");
    let mut install = Command::new("nice");
    // Without it youki knows no cgroup v1.
    install.args(["cargo", "install", "--quiet", "youki", "--features", "v1", "--root"]).arg(store);
    install.arg("--target-dir").arg(store.join("youki-target")).current_dir(store);
    build::run(&mut install)?;
    Peer::new("youki", built, &[])
}

impl Peer {
    fn new(key: &str, program: PathBuf, leading: &[&str]) -> Result<Self> {
        let leading: Vec<String> = leading.iter().map(|word| (*word).to_owned()).collect();
        let (name, key) = (key.to_owned(), key.to_owned());
        let mut peer = Self { name, version: String::new(), key, hung: Cell::new(0), program, leading };
        let mut version = Command::new(&peer.program);
        version.args(&peer.leading).arg("--version");
        let said = command::succeed(&mut version, command::LIMIT)?.stdout;
        peer.version = said.lines().next().unwrap_or_default().trim().to_owned();
        let number = peer.version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        if let Some(number) = number {
            peer.name = format!("{} {number}", peer.key.split('-').next().unwrap_or_default());
        }
        Ok(peer)
    }

    /// A command with a state directory of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.leading).arg("--root").arg(self.state()).args(arguments);
        command
    }

    /// The configuration that its `spec` writes.
    pub fn spec(&self, directory: &Path) -> Result<String> {
        let place = directory.join("spec");
        fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
        meter::run(self.command(&["spec"]).current_dir(&place), directory)?;
        fs::read_to_string(place.join("config.json")).context("read the configuration that was written")
    }

    /// Where its containers' cgroups are, in every hierarchy.
    pub fn cgroup(&self) -> String {
        format!("bench-runtime-{}", self.key)
    }

    /// In memory, as every runtime has it.
    fn state(&self) -> PathBuf {
        Path::new("/run").join(self.cgroup())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        fs::remove_dir_all(self.state()).ok();
        for (_, point) in cgroups::hierarchies() {
            let path = point.join(self.cgroup());
            if path.exists() {
                cgroups::kill(&path);
                cgroups::remove(&path);
            }
        }
    }
}
