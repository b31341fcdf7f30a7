//! A bundle read, checked and converted, before anything is made.

use std::path::{Path, PathBuf};

use gantry_linux::fs;

use super::directory::check_id;
use super::{CreateOptions, cgroup, convert, notify};
use crate::cgroups::{CgroupDriver, CgroupRequest, Leaf, cgroup_driver};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lsm;
use crate::network::devices::NetDevice;
use crate::oci::{Hooks, Spec};

/// Everything that a container is made from.
pub struct Plan {
    /// As it was read.
    pub spec: Spec,
    /// In the library's words.
    pub config: Config,
    /// Absolute, without links.
    pub bundle: PathBuf,
    /// Absolute.
    pub rootfs: PathBuf,
    /// All of them.
    pub hooks: Hooks,
    /// To be moved into its network namespace.
    pub net_devices: Vec<NetDevice>,
    /// Who makes its cgroup.
    pub cgroups: Box<dyn CgroupDriver>,
    /// Where that will be.
    pub cgroup: Leaf,
    /// What is left out.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Reads, checks and converts.
    pub fn read(root: &Path, id: &str, bundle: &Path, options: &CreateOptions) -> Result<Self> {
        check_id(id)?;
        check_passed(options.listen_fds.saturating_add(options.preserve_fds))?;
        let bundle = fs::canonicalize(bundle)?;
        let spec = match &options.spec {
            Some(spec) => spec.clone(),
            None => Spec::read(&bundle.join("config.json"))?,
        };
        check_version(&spec.oci_version)?;
        let rootfs = rootfs(&bundle, &spec)?;
        let mut warnings = Vec::new();
        let mut config = match options.notify_socket {
            // What is executed later has nothing to tell: the configuration that is kept stays as it is.
            true => {
                let mut told = spec.clone();
                notify::add(&mut told, &root.join(id));
                convert::config(&told, &bundle, &rootfs, &mut warnings)?
            }
            false => convert::config(&spec, &bundle, &rootfs, &mut warnings)?,
        };
        config.id = id.to_owned();
        config.process.keyring = (!options.no_new_keyring).then(|| format!("_ses.{id}"));
        lsm::check(&config.process)?;
        if config.process.terminal != options.console_socket.is_some() {
            return Err(Error::Invalid(match config.process.terminal {
                true => "cannot allocate a terminal without a console socket".into(),
                false => "a console socket is of no use without process.terminal".into(),
            }));
        }
        let hooks = spec.hooks.clone().unwrap_or_default();
        check_hooks(&hooks)?;
        let linux = spec.linux.clone().unwrap_or_default();
        let net_devices = convert::net_devices(&linux, &config.namespaces)?;
        let cgroups = cgroup_driver(options.systemd_cgroup)?;
        let lenient = !cgroup::is_machines_root();
        let cgroup = cgroups.locate(&CgroupRequest { path: Some(&linux.cgroups_path), id, lenient })?;
        Ok(Self { spec, config, bundle, rootfs, hooks, net_devices, cgroups, cgroup, warnings })
    }
}

/// Descriptors that are passed on must be open, before the first of our own is.
pub fn check_passed(passed: u32) -> Result<()> {
    if passed > 1000 {
        return Err(Error::Invalid(format!("{passed} descriptors to pass on: at most 1000 are possible")));
    }
    match (3..3 + passed).find(|number| !gantry_linux::process::is_open(*number)) {
        Some(number) => Err(Error::Invalid(format!("descriptor {number} of {passed} to pass on (3 …) is not open"))),
        None => Ok(()),
    }
}

/// Any 1.x can be read: what a newer one adds is ignored, as the specification wants.
fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let numbers = parts.iter().all(|part| part.parse::<u32>().is_ok());
    if parts.len() == 3 && numbers && parts[0] == "1" {
        return Ok(());
    }
    Err(Error::Invalid(format!("ociVersion {version:?}: not a version 1.x.y of the runtime specification")))
}

fn rootfs(bundle: &Path, spec: &Spec) -> Result<PathBuf> {
    let root = spec.root.as_ref().filter(|root| !root.path.is_empty());
    let root = root.ok_or_else(|| Error::Invalid("config.json has no root.path".into()))?;
    let path = fs::canonicalize(bundle.join(&root.path))?;
    if !path.is_dir() {
        return Err(Error::Invalid(format!("root.path {}: not a directory", path.display())));
    }
    if path == Path::new("/") {
        return Err(Error::Invalid("root.path is the host's /: that cannot be a container's root".into()));
    }
    Ok(path)
}

fn check_hooks(hooks: &Hooks) -> Result<()> {
    let points = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ];
    for hook in points.into_iter().flatten() {
        if !hook.path.starts_with('/') {
            return Err(Error::Invalid(format!("hook {:?}: its path must be absolute", hook.path)));
        }
        if let Some(timeout) = hook.timeout.filter(|timeout| *timeout <= 0) {
            return Err(Error::Invalid(format!("hook {}: a timeout of {timeout} is not above 0", hook.path)));
        }
        if let Some(variable) = hook.env.iter().find(|variable| !variable.contains('=') || variable.starts_with('=')) {
            return Err(Error::Invalid(format!("hook {}: {variable:?} is not NAME=value", hook.path)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci;

    #[test]
    fn versions_of_one_are_taken() {
        for good in ["1.0.0", "1.0.2-dev", "1.3.0", "1.7.11+x"] {
            check_version(good).unwrap();
        }
        for bad in ["", "0.9.0", "2.0.0", "1.0", "x", "1.a.0"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hooks_are_checked_before_anything_is_made() {
        let hook = |path: &str, timeout, env: &[&str]| oci::Hook {
            path: path.into(),
            timeout,
            env: env.iter().map(|v| (*v).to_owned()).collect(),
            ..oci::Hook::default()
        };
        let of = |hook| Hooks { poststop: vec![hook], ..Hooks::default() };
        check_hooks(&of(hook("/bin/true", Some(1), &["A="]))).unwrap();
        for bad in [hook("true", None, &[]), hook("/x", Some(0), &[]), hook("/x", None, &["A"])] {
            assert!(check_hooks(&of(bad)).is_err());
        }
    }
}
