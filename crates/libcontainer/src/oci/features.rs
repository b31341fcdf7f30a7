//! What this library can do, as the specification has a runtime tell it: put together from the tables that it works with.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{VERSION, hooks, mount_options, namespaces, process, seccomp};
use crate::config::capability_names;
use crate::seccomp::Arch;

/// The oldest version of the specification that is understood.
pub const OLDEST: &str = "1.0.0";

/// The `features` object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Features {
    pub oci_version_min: &'static str,
    pub oci_version_max: &'static str,
    pub hooks: Vec<&'static str>,
    pub mount_options: Vec<String>,
    pub linux: Linux,
    pub annotations: BTreeMap<String, String>,
    pub potentially_unsafe_config_annotations: Vec<String>,
}

/// What only Linux has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Linux {
    pub namespaces: Vec<&'static str>,
    pub capabilities: Vec<String>,
    pub cgroup: Cgroup,
    pub seccomp: Seccomp,
    pub apparmor: Enabled,
    pub selinux: Enabled,
    pub intel_rdt: Enabled,
    pub memory_policy: MemoryPolicy,
    pub mount_extensions: MountExtensions,
    pub net_devices: Enabled,
}

/// Control groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Cgroup {
    pub v1: bool,
    pub v2: bool,
    pub systemd: bool,
    pub systemd_user: bool,
    pub rdma: bool,
}

/// System call filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Seccomp {
    pub enabled: bool,
    pub actions: Vec<&'static str>,
    pub operators: Vec<&'static str>,
    pub archs: Vec<&'static str>,
    pub known_flags: Vec<&'static str>,
    pub supported_flags: Vec<&'static str>,
}

/// Memory policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct MemoryPolicy {
    pub modes: Vec<&'static str>,
    pub flags: Vec<&'static str>,
}

/// What mounts can do beside the kernel's options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct MountExtensions {
    pub idmap: Enabled,
}

/// Whether the library can do it; this machine may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Enabled {
    pub enabled: bool,
}

fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

/// Of this build.
#[must_use]
pub fn features() -> Features {
    let (can, cannot) = (Enabled { enabled: true }, Enabled { enabled: false });
    let flags = names(&seccomp::FLAGS);
    let mut archs: Vec<&str> = Arch::of_machine().iter().map(|arch| arch.name()).collect();
    archs.sort_unstable();
    Features {
        oci_version_min: OLDEST,
        oci_version_max: VERSION,
        hooks: hooks::POINTS.to_vec(),
        mount_options: mount_options::known(),
        linux: Linux {
            namespaces: namespaces::KINDS.to_vec(),
            capabilities: capability_names().collect(),
            cgroup: Cgroup { v1: true, v2: true, systemd: false, systemd_user: false, rdma: true },
            seccomp: Seccomp {
                enabled: true,
                actions: names(&seccomp::ACTIONS),
                operators: names(&seccomp::OPERATORS),
                archs,
                known_flags: flags.clone(),
                supported_flags: flags,
            },
            apparmor: can,
            selinux: can,
            intel_rdt: cannot,
            memory_policy: MemoryPolicy { modes: names(&process::MEMORY_MODES), flags: process::MEMORY_FLAGS.to_vec() },
            mount_extensions: MountExtensions { idmap: can },
            net_devices: can,
        },
        annotations: BTreeMap::new(),
        potentially_unsafe_config_annotations: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Spec;

    #[test]
    fn every_point_and_namespace_that_is_told_is_understood() {
        let hook = serde_json::json!([{"path": "/x"}]);
        let all = hooks::POINTS.iter().map(|point| ((*point).to_owned(), hook.clone()));
        let text = serde_json::json!({"hooks": all.collect::<serde_json::Map<_, _>>()}).to_string();
        let spec = Spec::parse(text.as_bytes()).unwrap();
        let again = serde_json::to_value(spec.hooks.unwrap()).unwrap();
        assert_eq!(again.as_object().unwrap().len(), hooks::POINTS.len(), "{again}");
        for kind in namespaces::KINDS {
            let linux = serde_json::json!({"namespaces": [{"type": "mount"}, {"type": kind}]});
            let linux = serde_json::from_value(linux).unwrap();
            let refused = crate::runtime::namespaces(&linux).err().map(|error| error.to_string());
            assert!(refused.is_none_or(|why| why.contains("twice")), "{kind}");
        }
    }
}
