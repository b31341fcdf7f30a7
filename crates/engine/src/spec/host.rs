//! What the host has, read once: processors, memory, kernel, cgroups.

use gantry_linux::fs;
use libcontainer::cgroups::Hierarchies;

use crate::error::{Error, Result};

/// Facts about the host.
pub struct Host {
    /// Processors that are online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: i64,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -n`.
    pub name: String,
    /// The first line of people's answer to "which system": `PRETTY_NAME` of os-release.
    pub system: String,
    /// `VERSION_ID` of os-release.
    pub system_version: String,
    /// Control group hierarchies.
    pub hierarchies: Hierarchies,
}

impl Host {
    /// Looks.
    ///
    /// # Errors
    /// When `/proc` is not readable or there are no cgroups.
    pub fn discover() -> Result<Self> {
        let uname = rustix::system::uname();
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<i64>().ok());
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        Ok(Self {
            cpus: u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1),
            memory: kib.ok_or_else(|| Error::system("read /proc/meminfo: it has no MemTotal"))? * 1024,
            kernel: uname.release().to_string_lossy().into_owned(),
            name: uname.nodename().to_string_lossy().into_owned(),
            system: field("PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
            system_version: field("VERSION_ID").unwrap_or_default(),
            hierarchies: Hierarchies::discover().map_err(|e| Error::system(e.to_string()))?,
        })
    }
}
