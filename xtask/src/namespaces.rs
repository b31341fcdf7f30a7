//! Network and mount namespaces of one's own, in which an engine is measured: its firewall, sysctls and mounts do not touch
//! this machine, and what others left in the machine's own does not slow it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_tests::{paths, until};

/// The namespaces, with loopback up. They are gone when the value is dropped and nothing runs inside any more.
#[derive(Debug)]
pub struct Namespaces {
    holder: Child,
}

impl Namespaces {
    /// Makes them, with a process that keeps them alive.
    pub fn make() -> Result<Self> {
        let mut command = Command::new(paths::need("unshare")?);
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c"]);
        command.arg("ip link set lo up && exec sleep infinity");
        let holder = command.stdin(Stdio::null()).process_group(0).spawn().context("start unshare")?;
        let made = Self { holder };
        let ready = || {
            let name = fs::read_to_string(format!("/proc/{}/comm", made.holder.id())).ok()?;
            (name.trim() == "sleep").then_some(())
        };
        until(Duration::from_secs(5), ready).context("the namespaces of an engine are not ready")?;
        Ok(made)
    }

    /// The words that come before a command line, so that it runs inside.
    pub fn enter(&self) -> Result<Vec<String>> {
        let nsenter = paths::need("nsenter")?.display().to_string();
        let target = format!("--target={}", self.holder.id());
        Ok(vec![nsenter, target, "--net".to_owned(), "--mount".to_owned(), "--".to_owned()])
    }

    /// A command that runs inside.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let words = self.enter()?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        Ok(command)
    }

    /// Lets them go.
    pub fn end(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.end();
    }
}
