//! The OCI runtime configuration (`config.json`, 1.3) as it is written: read leniently, as Go reads it, and converted
//! part by part into [`crate::config`]'s own words, which is where it is checked.

pub mod features;
mod hooks;
mod linux;
pub mod mount_options;
pub mod mounts;
mod namespaces;
pub mod process;
mod resources;
mod seccomp;
mod state;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

pub use hooks::{Hook, Hooks};
pub use linux::{IntelRdt, Linux, MemoryPolicy, NetDevice, Personality};
pub use mounts::{Device, Mount, convert_devices, convert_mounts};
pub use namespaces::{IdMapping, LinuxNamespace, TimeOffset};
pub use process::{
    Capabilities, ConsoleSize, CpuAffinity, IoPriority, Process, Rlimit, Scheduler, User, convert as convert_process,
};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma, Resources, ThrottleDevice,
    WeightDevice,
};
pub use seccomp::{ArchMap, Argument, RuleCondition, Seccomp, SyscallRule, convert_seccomp};
pub use state::{State, Status};

use crate::error::{Error, Result};

/// The newest version of the specification that is understood.
pub const VERSION: &str = "1.3.0";
/// A longer configuration is refused.
pub const LONGEST: usize = 16 * 1024 * 1024;

/// A whole `config.json`. What it does not say is empty, and what it says beyond the specification is ignored.
///
/// ```
/// use libcontainer::oci::{Process, Root, Spec};
///
/// # fn main() -> libcontainer::Result<()> {
/// let text = br#"{
///     "ociVersion": "1.3.0",
///     "process": {"args": ["sleep", "60"], "cwd": "/"},
///     "root": {"path": "rootfs", "readonly": true},
///     "linux": {"resources": {"memory": {"limit": 67108864}}}
/// }"#;
/// let spec = Spec::parse(text)?;
/// assert!(spec.root.as_ref().is_some_and(|root| root.readonly));
/// let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
/// assert_eq!(resources.and_then(|all| all.memory.as_ref()?.limit), Some(64 << 20));
///
/// // Or made in Rust.
/// let made = Spec {
///     oci_version: libcontainer::oci::VERSION.into(),
///     process: Some(Process { args: vec!["sleep".into(), "60".into()], cwd: "/".into(), ..Process::default() }),
///     root: Some(Root { path: "rootfs".into(), readonly: true }),
///     linux: spec.linux.clone(),
///     ..Spec::default()
/// };
/// assert_eq!(made, spec);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// Version of the specification that it was written for.
    #[serde(deserialize_with = "nullable")]
    pub oci_version: String,
    /// The first process; needed to start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Where `/` comes from; needed on Linux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// UTS host name.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// NIS domain.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// In this order.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs run at points of its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Free text for other programs.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

/// The root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Root {
    /// Absolute, or relative to the bundle.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    /// `/` is read-only inside.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
}

impl Spec {
    /// Reads a `config.json`, which may be anybody's: a longer one than [`LONGEST`] is refused.
    pub fn read(path: &Path) -> Result<Self> {
        let text = gantry_linux::fs::read_up_to(path, LONGEST + 1)?;
        if text.len() > LONGEST {
            return Err(Error::Invalid(format!("{} is longer than {LONGEST} bytes; refused", path.display())));
        }
        Self::parse(&text)
    }

    /// Reads the text of a `config.json`; its content is checked when it is converted.
    pub fn parse(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|error| Error::Invalid(format!("config.json is not understood: {error}")))
    }
}

/// As Go reads: `null` is the empty value.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
