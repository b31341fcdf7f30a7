//! Mounts by file descriptor (`fsopen`, `fsmount`, `open_tree`, `move_mount`) and the description of a root file
//! system that travels from a graphdriver to libcontainer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dm::Thin;

/// How to make a container's root file system appear. A graphdriver returns it, and whoever needs the files mounts it
/// inside a mount namespace of its own: a driver mounts nothing for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootMount {
    /// A directory that is the root already (`vfs`, `btrfs`): bind it.
    Bind {
        /// The directory on the host.
        source: PathBuf,
    },
    /// An overlay; `lower` is ordered from the uppermost to the lowest layer.
    Overlay {
        /// Read-only directories, uppermost first; at least one.
        lower: Vec<PathBuf>,
        /// The writable directory and its work directory on the same file system; `None` is a read-only view.
        upper: Option<OverlayUpper>,
        /// Further options of the overlay file system, as `fsconfig` takes them (`index=off`, `userxattr` …).
        options: Vec<(String, Option<String>)>,
    },
    /// A union of aufs; `branches` are ordered from the uppermost to the lowest.
    Aufs {
        /// At least one.
        branches: Vec<PathBuf>,
        /// Whether the first of them receives what is written; else it is a read-only view.
        writable: bool,
    },
    /// A directory of a file system on a device of a thin pool (`devmapper`). The device is made by whoever mounts it.
    Device(Box<DeviceMount>),
    /// Another one for a user namespace with this mapping: what is shared with others is shown through the mapping, and
    /// what is written belongs outside to who the mapping says. Of an overlay the layers below are shown through it and
    /// the writable directory is as it is; a directory that is bound is shown through it as a whole.
    Mapped {
        /// As without a user namespace; not mapped itself.
        root: Box<RootMount>,
        /// The container's.
        map: IdMap,
    },
}

/// The writable half of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayUpper {
    /// Receives every change.
    pub upper: PathBuf,
    /// The kernel's scratch directory.
    pub work: PathBuf,
}

/// A file system on a thin device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMount {
    /// The device.
    pub thin: Thin,
    /// `ext4`, `xfs`.
    pub fstype: String,
    /// Options of the file system, as `fsconfig` takes them.
    pub options: Vec<(String, Option<String>)>,
    /// Whether the file system itself is mounted for writing: the same for all that have it mounted at once.
    pub writable: bool,
    /// The directory in it that is the root.
    pub directory: String,
    /// Whether this mount of it is read-only.
    pub read_only: bool,
}

impl RootMount {
    /// Whether it lies on a device of its own, which the cgroups of a container would keep its processes from: it must be
    /// mounted by a process that is in none of them.
    #[must_use]
    pub fn is_device(&self) -> bool {
        match self {
            Self::Device(_) => true,
            Self::Mapped { root, .. } => root.is_device(),
            Self::Bind { .. } | Self::Overlay { .. } | Self::Aufs { .. } => false,
        }
    }
}

mod attach;
mod attr;
mod aufs;
mod device;
mod idmap;
mod overlay;
mod private;

pub use attach::{attach, attach_within, bind, bind_fd, bind_with, filesystem, move_to, reconfigure};
pub use attr::{Attributes, set_attributes};
pub use device::attach_all;
pub use idmap::{IdMap, IdRange, NOBODY, map_ids, user_and_network_namespaces, user_namespace};
pub use private::{assemble, in_private_namespace, without_submounts};
