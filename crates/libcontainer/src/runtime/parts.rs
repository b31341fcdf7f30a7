//! The parts of a configuration that say what is in a container: process, mounts, devices, limits.

use std::path::Path;

use crate::config::{Config, Process};
use crate::error::Result;
use crate::lsm;
use crate::oci::mounts::{convert_devices, convert_mounts};
use crate::oci::{self, Spec, convert_seccomp};

/// Fills in those parts.
pub fn fill(config: &mut Config, spec: &Spec, bundle: &Path, warnings: &mut Vec<String>) -> Result<()> {
    let linux = spec.linux.clone().unwrap_or_default();
    config.process = match &spec.process {
        Some(given) => process(given, spec.linux.as_ref(), warnings)?,
        // It can be created, and has nothing to start.
        None => Process { cwd: "/".into(), ..Process::default() },
    };
    config.mounts = convert_mounts(&spec.mounts, bundle, warnings)?;
    config.devices = convert_devices(&linux.devices)?;
    config.resources = oci::Resources::convert(linux.resources.as_ref())?;
    Ok(())
}

/// A process, with the container's seccomp profile. What is left out of it is told in `warnings`.
pub fn process(given: &oci::Process, linux: Option<&oci::Linux>, warnings: &mut Vec<String>) -> Result<Process> {
    let (mut process, told) = oci::process::convert(given, linux)?;
    warnings.extend(told);
    warnings.extend(lsm::apparmor::leave_out_where_there_is_none(&mut process));
    let seccomp = linux.and_then(|linux| linux.seccomp.as_ref());
    let bounding = given.capabilities.as_ref().map(|sets| sets.bounding.clone()).unwrap_or_default();
    if let Some(seccomp) = seccomp {
        let seccomp = convert_seccomp(seccomp, &bounding)?;
        process.seccomp = Some(seccomp.program);
        process.seccomp_flags = seccomp.flags;
        process.seccomp_listener = seccomp.listener;
    }
    Ok(process)
}
