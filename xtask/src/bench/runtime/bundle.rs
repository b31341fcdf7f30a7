//! The bundles: the same configuration for every runtime, but for the cgroup's name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gantry_tests::image;
use serde_json::{Value, json};

use super::peers::Peer;

/// Their names, and how the table calls them.
pub const BUNDLES: [(&str, &str); 2] = [
    ("plain", "As `spec` writes it: five namespaces, three capabilities, masked paths"),
    (
        "docker",
        "As Docker writes it: limits, six namespaces, a seccomp profile of 380 calls, device rules, files bound",
    ),
];

/// What Docker gives a runtime for `docker run --memory 256m --cpus 0.5 --pids-limit 100`.
const DOCKER: &str = include_str!("docker.json");

/// A bundle of every peer's.
pub struct Bundle {
    /// One of [`BUNDLES`].
    pub name: &'static str,
    directory: PathBuf,
}

impl Bundle {
    /// Whose program ends at once, or stays.
    pub fn of(&self, peer: &Peer, stays: bool) -> PathBuf {
        self.directory.join(&peer.key).join(if stays { "stays" } else { "ends" })
    }
}

/// Makes all of them below `directory`.
pub fn prepare(directory: &Path, peers: &[Peer]) -> Result<Vec<Bundle>> {
    let files = directory.join("files");
    fs::create_dir_all(&files).context("make a directory for files to bind")?;
    for (name, text) in
        [("resolv.conf", "nameserver 127.0.0.1\n"), ("hostname", "4c01db0b339c\n"), ("hosts", "127.0.0.1 localhost\n")]
    {
        fs::write(files.join(name), text).with_context(|| format!("write {name}"))?;
    }
    let layer = image::busybox_layer()?;
    let spec = peers.first().context("there is nothing to measure")?.spec(directory)?;
    let configs = [spec, DOCKER.replace("@FILES@", &files.display().to_string())];
    let mut bundles = Vec::new();
    for ((name, _), text) in BUNDLES.iter().zip(configs) {
        let config: Value = serde_json::from_str(&text).with_context(|| format!("read the bundle {name}"))?;
        let bundle = Bundle { name, directory: directory.join(name) };
        let root = bundle.directory.join("rootfs");
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        tar::Archive::new(layer.as_slice()).unpack(&root).context("unpack the root file system")?;
        for peer in peers {
            write(&bundle, peer, &config, &root)?;
        }
        bundles.push(bundle);
    }
    Ok(bundles)
}

fn write(bundle: &Bundle, peer: &Peer, config: &Value, root: &Path) -> Result<()> {
    for (stays, program) in [(false, json!(["/bin/true"])), (true, json!(["/bin/sleep", "1000"]))] {
        let mut config = config.clone();
        // What every runtime reads.
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = program;
        // Raising limits is not allowed everywhere.
        config["process"]["rlimits"] = json!([]);
        config["root"]["path"] = json!(root);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/c", peer.cgroup()));
        let path = bundle.of(peer, stays);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        fs::write(path.join("config.json"), config.to_string()).context("write a bundle's configuration")?;
    }
    Ok(())
}
