//! What a daemon is told when it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_execdriver::ExecDriver;
use gantry_graphdriver::GraphDriver;
use gantry_networkdriver::{NetworkDriver, NetworkDrivers};

pub use gantry_registry::Mirrored;

pub use crate::spec::confinement::Defaults as SecurityDefaults;

/// The daemon's settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// `/var/lib/gantry`.
    pub data_root: PathBuf,
    /// `/run/gantry`.
    pub exec_root: PathBuf,
    /// DNS servers of containers that ask for none.
    pub dns: Vec<String>,
    /// Containers on the default bridge have names, too, and ask the daemon's resolver.
    pub default_bridge_names: bool,
    /// DNS search domains.
    pub dns_search: Vec<String>,
    /// DNS options.
    pub dns_options: Vec<String>,
    /// Log driver of containers that ask for none: `json-file` or `none`.
    pub log_driver: String,
    /// Its options: `max-size`, `max-file`.
    pub log_options: BTreeMap<String, String>,
    /// Labels of the daemon, `key=value`.
    pub labels: Vec<String>,
    /// Registries that may be spoken to in the clear or with unknown certificates: hosts and CIDRs.
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// Keep the compressed blobs of pulled layers, too.
    pub keep_compressed_layers: bool,
    /// Mirrors of any registry.
    pub registries: Vec<Mirrored>,
    /// Proxies to registries; empty where there is none.
    pub http_proxy: String,
    /// The same for https.
    pub https_proxy: String,
    /// What is reached without them.
    pub no_proxy: String,
    /// Address on which ports are published that name none.
    pub publish_address: std::net::Ipv4Addr,
    /// Run an init in containers that do not say.
    pub init: bool,
    /// `/dev/shm` of containers that do not say, bytes.
    pub shm_size: i64,
    /// Resource limits of containers that do not say, as `nofile=1024:2048`.
    pub ulimits: Vec<gantry_api::hostconfig::Ulimit>,
    /// What confines containers that do not say.
    pub security: SecurityDefaults,
    /// IPC namespace of containers that do not say: `private` or `shareable`.
    pub ipc_mode: String,
    /// Cgroup namespace of containers that do not say: `private` or `host`.
    pub cgroupns_mode: String,
    /// The users of containers outside (`--userns-remap`); `None` is the host's own.
    pub userns_remap: Option<gantry_linux::mount::IdMap>,
    /// Gets a line for each job that changes something.
    pub audit_log: Option<PathBuf>,
    /// Show debugging output.
    pub debug: bool,
    /// The addresses that are served, for `info` and messages.
    pub hosts: Vec<String>,
}

/// The drivers that the binary chose.
pub struct Drivers {
    /// Layers.
    pub graph: Arc<dyn GraphDriver>,
    /// Why this graphdriver.
    pub graph_reason: String,
    /// Processes.
    pub exec: Arc<dyn ExecDriver>,
    /// The default bridge; `None` with `--bridge none`.
    pub bridge: Option<Arc<dyn NetworkDriver>>,
    /// `host`.
    pub host: Arc<dyn NetworkDriver>,
    /// `none`.
    pub none: Arc<dyn NetworkDriver>,
    /// Those that people define.
    pub networks: NetworkDrivers,
}
