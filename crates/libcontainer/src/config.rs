//! What a container is, in the library's own words: everything the kernel must be told, resolved and validated by the
//! caller. An OCI `config.json` is converted into it once, at the edge.

mod attributes;
mod capabilities;
mod process;
mod resources;

use std::path::PathBuf;

use gantry_linux::mount::RootMount;
use serde::{Deserialize, Serialize};

pub use attributes::{
    CpuAffinity, IoClass, IoPriority, MemoryMode, MemoryPolicy, Personality, Scheduler, SchedulerPolicy, number_list,
};
pub use capabilities::{CapSet, Capabilities, capability_names};
pub use process::{Process, Rlimit, Seccomp, SeccompListener, User};
pub use resources::{BlockRate, BlockRateKind, BlockWeight, DeviceRule, RdmaLimit, Resources};

/// A container to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Its identity; names its cgroup.
    pub id: String,
    /// The UTS host name and NIS domain; set only in a new UTS namespace.
    pub hostname: String,
    /// See `hostname`.
    pub domainname: String,
    /// Where `/` comes from.
    pub root: RootMount,
    /// `/` is remounted read-only after everything is mounted.
    pub readonly_root: bool,
    /// How mount events pass between `/` and what it was made from; `None` is private.
    pub root_propagation: Option<Propagation>,
    /// Which namespaces are new, shared with the host or joined.
    pub namespaces: Namespaces,
    /// User ids of a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of a new user namespace.
    pub gid_mappings: Vec<IdMapping>,
    /// Clocks of a new time namespace.
    pub time_offsets: TimeOffsets,
    /// Empty files that the root has, made where they are missing: by them programs know where they are.
    pub marks: Vec<PathBuf>,
    /// Mounted in this order on top of the root, `/proc` and `/dev` included.
    pub mounts: Vec<Mount>,
    /// Device nodes made in `/dev`.
    pub devices: Vec<Device>,
    /// Paths hidden by an empty read-only directory or `/dev/null`; those that are not there are skipped.
    pub masked_paths: Vec<String>,
    /// Paths remounted read-only in place; those that are not there are skipped.
    pub readonly_paths: Vec<String>,
    /// `name → value`, dots as separators, of the new namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Limits, and who may use which device.
    pub resources: Resources,
    /// The first process.
    pub process: Process,
    /// Run a minimal init as pid 1 that forwards signals and reaps; the process becomes its child.
    pub init: bool,
}

/// How one namespace is obtained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// A new one.
    #[default]
    New,
    /// The host's own.
    Host,
    /// The one behind this path (`/proc/<pid>/ns/net`, a bind-mounted file).
    Path(PathBuf),
}

impl Default for Config {
    /// Nothing but new namespaces: no root, no program.
    fn default() -> Self {
        Self {
            id: String::new(),
            hostname: String::new(),
            domainname: String::new(),
            root: RootMount::Bind { source: PathBuf::new() },
            readonly_root: false,
            root_propagation: None,
            namespaces: Namespaces::default(),
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            time_offsets: TimeOffsets::default(),
            marks: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            sysctls: Vec::new(),
            resources: Resources::default(),
            process: Process::default(),
            init: false,
        }
    }
}

/// A range of ids, the same distance apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first inside.
    pub inside: u32,
    /// The first outside.
    pub outside: u32,
    /// How many; not 0.
    pub count: u32,
}

/// How far the clocks of a time namespace are from the host's: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffsets {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Option<(i64, u32)>,
    /// `CLOCK_BOOTTIME`.
    pub boottime: Option<(i64, u32)>,
}

/// The namespaces of a container. By default all are new but user and time, which are the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Mounts; joined or the host's only in containers of [`crate::runtime`].
    #[serde(default)]
    pub mount: Namespace,
    /// Users and what they may do.
    #[serde(default = "host")]
    pub user: Namespace,
    /// Monotonic and boot clocks.
    #[serde(default = "host")]
    pub time: Namespace,
    /// Process ids.
    pub pid: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Network devices, addresses, routes, firewall.
    pub net: Namespace,
    /// The view of the cgroup tree.
    pub cgroup: Namespace,
}

fn host() -> Namespace {
    Namespace::Host
}

impl Default for Namespaces {
    fn default() -> Self {
        Self {
            mount: Namespace::New,
            user: Namespace::Host,
            time: Namespace::Host,
            pid: Namespace::New,
            uts: Namespace::New,
            ipc: Namespace::New,
            net: Namespace::New,
            cgroup: Namespace::New,
        }
    }
}

/// One mount below the root. Attributes are first cleared, then set: those of the mount alone, then those of all below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where, as an absolute path inside the container; resolved inside its root, missing directories are made.
    pub destination: PathBuf,
    /// What.
    pub kind: MountKind,
    /// Attributes to set.
    pub flags: MountFlags,
    /// Attributes to clear, which a bind or a remount may have.
    pub cleared: MountFlags,
    /// Attributes to set on the mount and all mounts below it.
    pub recursive: MountFlags,
    /// Attributes to clear on the mount and all mounts below it.
    pub recursive_cleared: MountFlags,
    /// How mount events pass, one after the other; of a bind after its own.
    pub propagation: Vec<Propagation>,
    /// Show the owners of files through a mapping: a bind, or a file system that can.
    pub mapped: Option<MountMapping>,
    /// Begin a tmpfs with what is at the destination.
    pub copy_up: bool,
    /// No symbolic link may be on the way to a bind's source.
    pub exact: bool,
}

/// The mapping of a mount; without ranges it is that of the container's user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountMapping {
    /// User ids: on disk, as seen.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
    /// The mounts below it too.
    pub recursive: bool,
    /// What cannot be mapped is mounted without a mapping, and that is said.
    #[serde(default)]
    pub optional: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A new instance of a file system: `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`; options as `fsconfig` takes them.
    Filesystem {
        /// The kernel's name of the type.
        fstype: String,
        /// Its options, e.g. `("size", Some("65536k"))`; the device of one that has one is `source`.
        options: Vec<(String, Option<String>)>,
    },
    /// A host file or directory. The supervisor opens `source` before it gives anything up.
    Bind {
        /// The path on the host; must exist.
        source: PathBuf,
        /// Take the mounts below `source` too.
        recursive: bool,
        /// How mount events pass between it and its source.
        propagation: Propagation,
    },
    /// The container's own cgroups at `destination`: one directory per v1 hierarchy, or the v2 tree.
    Cgroup,
    /// What is mounted at the destination already: its attributes change, and with options its file system's.
    Remount {
        /// As of a file system.
        options: Vec<(String, Option<String>)>,
    },
}

impl Default for MountKind {
    fn default() -> Self {
        Self::Filesystem { fstype: "tmpfs".into(), options: Vec::new() }
    }
}

/// How mount events pass between a mount and its copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are mount(8)'s")]
pub enum Propagation {
    Private,
    #[default]
    RPrivate,
    Slave,
    RSlave,
    Shared,
    RShared,
    Unbindable,
    RUnbindable,
}

/// A set of attributes of mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are mount(8)'s")]
pub struct MountFlags {
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
    pub relatime: bool,
    pub strictatime: bool,
    pub nodiratime: bool,
    pub nosymfollow: bool,
}

impl MountFlags {
    /// None of them.
    pub const NONE: Self = Self {
        read_only: false,
        nosuid: false,
        nodev: false,
        noexec: false,
        noatime: false,
        relatime: false,
        strictatime: false,
        nodiratime: false,
        nosymfollow: false,
    };
    /// Nothing but read-only.
    pub const READ_ONLY: Self = Self { read_only: true, ..Self::NONE };
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// Character, block or named pipe.
    pub kind: DeviceKind,
    /// Device numbers.
    pub major: u32,
    /// Device numbers.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owner.
    pub gid: u32,
}

/// The kind of a device node or of a device rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "plain words")]
pub enum DeviceKind {
    Char,
    Block,
    /// A named pipe, without numbers; never of a rule.
    Fifo,
    All,
}
