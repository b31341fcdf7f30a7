//! Debian's `docker-registry`, on the loopback of whoever pulls: peers have a network namespace of their own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_tests::registry::free_port;
use gantry_tests::{command, paths, until};

use super::LIMIT;
use super::content::Archives;
use crate::bench::registry::listens;

/// A registry that runs.
pub struct Registry {
    child: Child,
    port: u16,
    _configuration: tempfile::TempDir,
}

impl Registry {
    /// Serves what is in `store`; `enter` says how to run a program where it shall be reachable.
    pub fn serve(store: &Path, enter: &dyn Fn(&Path) -> Result<Command>) -> Result<Self> {
        let configuration = tempfile::tempdir().context("make a directory for the registry's configuration")?;
        let (path, port) = (configuration.path().join("config.yml"), free_port()?);
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            store.display()
        );
        fs::write(&path, text).context("write the registry's configuration")?;
        let mut serve = enter(&paths::need("docker-registry")?)?;
        serve.arg("serve").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = serve.spawn().context("start docker-registry")?;
        let registry = Self { child, port, _configuration: configuration };
        until(Duration::from_secs(20), || listens(registry.child.id(), port).then_some(()))
            .context("docker-registry does not answer")?;
        Ok(registry)
    }

    /// An image's name here.
    pub fn name(&self, image: &Archives) -> String {
        let (_, path) = image.name.split_once('/').unwrap_or(("", &image.name));
        format!("127.0.0.1:{}/{path}", self.port)
    }

    /// Pushes an image by skopeo, compressed as skopeo does.
    pub fn push(&self, image: &Archives) -> Result<()> {
        let mut skopeo = Command::new(paths::need("skopeo")?);
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        skopeo.arg(format!("docker-archive:{}", image.docker.display()));
        skopeo.arg(format!("docker://{}", self.name(image)));
        command::succeed(&mut skopeo, LIMIT).map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
