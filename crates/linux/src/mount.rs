//! Mounts by file descriptor (`fsopen`, `fsmount`, `open_tree`, `move_mount`) and the description of a root file
//! system that travels from a graphdriver to libcontainer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
}

/// The writable half of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayUpper {
    /// Receives every change.
    pub upper: PathBuf,
    /// The kernel's scratch directory.
    pub work: PathBuf,
}

mod attach;
mod attr;
mod idmap;
mod overlay;
mod private;

pub use attach::{attach, bind, bind_fd, filesystem, move_to, reconfigure};
pub use attr::{Attributes, set_attributes};
pub use idmap::{IdRange, map_ids, user_namespace};
pub use private::{assemble, in_private_namespace, without_submounts};
