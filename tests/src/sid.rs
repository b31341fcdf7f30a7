//! Debian sid with its engines, made by debootstrap and kept below cargo's target directory.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::{command, debian, paths};
use anyhow::{Context, Result};

/// The engines, the other runtimes that they want to find, `ps` for `docker top`, `newuidmap` for plain users.
const PACKAGES: [&str; 9] =
    ["podman", "crun", "docker.io", "docker-cli", "containerd", "runc", "procps", "uidmap", "skopeo"];

/// Runs apt-get in the tree `$1` with the arguments after it.
const INSTALL: &str = r#"root=$1; shift; mount -t proc proc "$root/proc" && exec chroot "$root" apt-get "$@""#;

/// The tree, made when there is none yet; the error is the same for all tests of a process.
pub fn tree() -> Result<PathBuf, String> {
    static TREE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    TREE.get_or_init(|| find_or_make().map_err(|error| format!("{error:#}"))).clone()
}

fn find_or_make() -> Result<PathBuf> {
    let store = paths::target()?;
    let (root, part) = (store.join("debian-sid"), store.join("debian-sid.part"));
    let lock = store.join("debian-sid.lock");
    let lock = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
    lock.lock().context("wait for another process that makes Debian sid")?;
    let recipe = PACKAGES.join(" ");
    if fs::read_to_string(root.join(".complete")).is_ok_and(|made| made == recipe) {
        return Ok(root);
    }
    for path in [&root, &part] {
        debian::remove(path)?;
    }
    make(&part)?;
    fs::write(part.join(".complete"), recipe).context("mark the tree as complete")?;
    fs::rename(&part, &root).with_context(|| format!("rename {}", part.display()))?;
    Ok(root)
}

fn make(root: &Path) -> Result<()> {
    debian::bootstrap("sid", root)?;
    let policy = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n").context("write policy-rc.d")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755)).context("make policy-rc.d executable")?;
    let mut install = Command::new(paths::need("unshare")?);
    install.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
        "sh",
        "-c",
        INSTALL,
        "sid",
    ]);
    install.arg(root).args(["install", "-qq", "-y", "--no-install-recommends"]).args(PACKAGES);
    install.env("DEBIAN_FRONTEND", "noninteractive").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env_remove("TMPDIR");
    command::succeed(&mut install, Duration::from_secs(900))?;
    debian::slim(root)
}
