//! The parts of a configuration that say what is in a container: process, mounts, devices, limits.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, DeviceKind, DeviceRule, Process, Resources};
use crate::error::{Error, Result};
use crate::oci::mounts::{convert_devices, convert_mounts};
use crate::oci::{self, Spec};
use crate::seccomp::{Profile, Target, compile};

/// Fills in those parts.
pub fn fill(
    config: &mut Config,
    given: &oci::Process,
    spec: &Spec,
    bundle: &Path,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let linux = spec.linux.clone().unwrap_or_default();
    config.process = process(given, spec.linux.as_ref(), warnings)?;
    config.mounts = convert_mounts(&spec.mounts, bundle, warnings)?;
    config.devices = convert_devices(&linux.devices)?;
    config.resources = resources(&linux.resources.unwrap_or_default())?;
    Ok(())
}

/// A process, with the container's seccomp profile. What is left out of it is told in `warnings`.
pub fn process(given: &oci::Process, linux: Option<&oci::Linux>, warnings: &mut Vec<String>) -> Result<Process> {
    let (mut process, told) = oci::process::convert(given, linux)?;
    warnings.extend(told);
    let seccomp = linux.and_then(|linux| linux.seccomp.as_ref());
    let bounding = given.capabilities.as_ref().map(|sets| sets.bounding.clone()).unwrap_or_default();
    process.seccomp = seccomp.map(|seccomp| program(seccomp, &bounding)).transpose()?;
    Ok(process)
}

fn program(seccomp: &oci::Seccomp, capabilities: &[String]) -> Result<Arc<[u8]>> {
    let invalid = |error: crate::seccomp::Error| Error::Invalid(error.to_string());
    let text = serde_json::to_vec(seccomp).map_err(|error| Error::Invalid(format!("linux.seccomp: {error}")))?;
    let profile = Profile::parse(&text).map_err(invalid)?;
    let target = Target::host(&profile, capabilities);
    Ok(compile(&profile, &target).map_err(invalid)?.into())
}

/// Limits, for the first time or for an update.
pub fn resources(given: &oci::Resources) -> Result<Resources> {
    let memory = given.memory.clone().unwrap_or_default();
    let cpu = given.cpu.clone().unwrap_or_default();
    let text = |text: String| (!text.is_empty()).then_some(text);
    Ok(Resources {
        memory: memory.limit,
        memory_swap: memory.swap,
        memory_reservation: memory.reservation,
        memory_swappiness: memory.swappiness,
        oom_kill_disable: memory.disable_oom_killer.unwrap_or(false),
        cpu_shares: cpu.shares,
        cpu_quota: cpu.quota,
        cpu_period: cpu.period,
        cpuset_cpus: text(cpu.cpus),
        cpuset_mems: text(cpu.mems),
        pids: given.pids.as_ref().and_then(|pids| pids.limit),
        blkio_weight: given.block_io.as_ref().and_then(|io| io.weight),
        device_rules: device_rules(&given.devices)?,
    })
}

fn device_rules(given: &[oci::DeviceRule]) -> Result<Vec<DeviceRule>> {
    let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let one = |rule: &oci::DeviceRule| {
        let kind = match rule.kind.as_str() {
            "" | "a" => DeviceKind::All,
            "c" => DeviceKind::Char,
            "b" => DeviceKind::Block,
            other => return Err(Error::Invalid(format!("device rule: type {other:?} is not known"))),
        };
        let access = if rule.access.is_empty() { "rwm".to_owned() } else { rule.access.clone() };
        Ok(DeviceRule { allow: rule.allow, kind, major: number(rule.major), minor: number(rule.minor), access })
    };
    let mut rules = given.iter().map(one).collect::<Result<Vec<_>>>()?;
    if !rules.is_empty() {
        rules.extend(crate::cgroups::default_device_rules().into_iter().filter(|rule| rule.allow));
    }
    Ok(rules)
}
