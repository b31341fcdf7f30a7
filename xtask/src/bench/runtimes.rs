//! OCI runtimes by themselves: what a container costs without an engine, for comparison.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use gantry_tests::{command, image, paths};
use serde_json::{Value, json};

use super::measure::{Account, Cost, cost};
use crate::setup;

/// `runc` or `crun` with a bundle.
pub struct Runtime {
    /// Its name.
    pub name: &'static str,
    /// What it says of its version.
    pub version: String,
    /// One per round.
    pub costs: Vec<Cost>,
    account: Account,
    bundle: std::path::PathBuf,
}

impl Runtime {
    /// Makes the bundle and runs it once.
    pub fn prepare(name: &'static str, directory: &Path) -> Result<Self> {
        setup::install_peer(name, name, "the runtime to measure against")?;
        let bundle = directory.join(name);
        let root = bundle.join("rootfs");
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        tar::Archive::new(image::busybox_layer()?.as_slice()).unpack(&root).context("unpack the root file system")?;
        command::succeed(Command::new(paths::need(name)?).arg("spec").current_dir(&bundle), command::LIMIT)?;
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).context("read the bundle's configuration")?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["true"]);
        // Raising limits is not allowed everywhere.
        config["process"]["rlimits"] = json!([]);
        config["linux"]["cgroupsPath"] = json!(format!("/bench-{name}-c"));
        fs::write(&path, config.to_string()).context("write the bundle's configuration")?;
        let version = command::succeed(Command::new(paths::need(name)?).arg("--version"), command::LIMIT)?.stdout;
        let account = Account::new(&format!("bench-{name}"), &[format!("bench-{name}-c").into()])?;
        let version = version.lines().next().unwrap_or_default().to_owned();
        let runtime = Self { name, version, costs: Vec::new(), account, bundle };
        runtime.run()?;
        Ok(runtime)
    }

    /// Measures one run.
    pub fn round(&mut self) -> Result<()> {
        self.account.enter()?;
        let cost = cost(&self.account, || self.run());
        self.account.leave()?;
        self.costs.push(cost?);
        Ok(())
    }

    fn run(&self) -> Result<()> {
        let mut command = Command::new(paths::need(self.name)?);
        command.arg("--root").arg(self.bundle.join("state")).args(["run", "--bundle"]).arg(&self.bundle).arg("bench");
        command::succeed(&mut command, command::LIMIT).map(drop)
    }
}
