//! The graphdriver trait. A driver stores layers and returns mounts; it does not know images or containers.

use std::io::Read;
use std::path::PathBuf;

use gantry_linux::mount::{IdMap, RootMount};
use rustix::io::Errno;

/// Stores layer file systems by id. All calls block; they are safe from several threads for different ids.
///
/// A layer is made as a *draft* ([`GraphDriver::create`]), filled by [`GraphDriver::apply`], and becomes a layer by
/// [`GraphDriver::commit`] in one step; drafts that a crash left behind are removed by [`GraphDriver::sweep`].
pub trait GraphDriver: Send + Sync {
    /// `overlay`, `vfs` …
    fn name(&self) -> &'static str;

    /// Lines of `docker info`'s driver status.
    fn status(&self) -> Vec<(String, String)>;

    /// Whether drafts may be applied before their parents are committed, so that layers unpack in parallel.
    fn applies_in_parallel(&self) -> bool;

    /// Starts a draft of the layer `id` on top of `parent` (the layer below it, if any; it need not be committed yet
    /// where [`GraphDriver::applies_in_parallel`]).
    fn create(&self, id: &str, parent: Option<&str>) -> Result<(), Error>;

    /// Unpacks an uncompressed tar archive in the layer format of the OCI image spec (whiteouts `.wh.`) into a draft.
    /// The archive is hostile input. Returns the bytes of file content that the layer holds.
    fn apply(&self, id: &str, archive: &mut dyn Read) -> Result<u64, Error>;

    /// Makes a draft a layer, durably; its parent must be one. Gives directories that the archive did not mention the
    /// metadata that they have in the layers below.
    fn commit(&self, id: &str) -> Result<(), Error>;

    /// Gives a draft its id and the layer that it is on top of: where [`GraphDriver::applies_in_parallel`] it may have been made
    /// before either was known. Other drivers know both since they made it, and have nothing to do.
    fn place(&self, _draft: &str, _id: &str, _parent: Option<&str>) -> Result<(), Error> {
        Ok(())
    }

    /// Makes drafts layers as [`GraphDriver::commit`] does, a parent before what is on top of
    /// it. A driver that can waits for the disk once. After a failure some may be layers.
    fn commit_all(&self, ids: &[&str]) -> Result<(), Error> {
        ids.iter().try_for_each(|id| self.commit(id))
    }

    /// Makes a writable layer on top of `parent`; visible at once. `limit` is how many bytes may be written to it: none
    /// given is the driver's own setting, 0 no limit. The limit goes with the layer.
    ///
    /// # Errors
    /// [`Error::NoLimit`] where the driver or its file system knows none; nothing was made then.
    fn create_writable(&self, id: &str, parent: Option<&str>, limit: Option<u64>) -> Result<(), Error>;

    /// Writes anew what a power cut took of a young writable layer, which does not wait for the disk: what it is on top of.
    fn complete_writable(&self, _id: &str, _parent: Option<&str>) -> Result<(), Error> {
        Ok(())
    }

    /// Makes a writable layer that nothing was written to the layer of a container with this mapping of users: it is mounted
    /// as [`RootMount::Mapped`], and [`GraphDriver::diff`] tells owners as the container sees them.
    fn map_owners(&self, id: &str, map: &IdMap) -> Result<(), Error>;

    /// How to mount the layer `id` with everything below it; writable for writable layers unless `read_only`.
    fn mount(&self, id: &str, read_only: bool) -> Result<RootMount, Error>;

    /// Makes a draft the layer `id` in one step, in the place of what is there under that id, if anything; as
    /// [`GraphDriver::commit`] otherwise. Who has the replaced layer mounted keeps seeing it until [`GraphDriver::release`].
    fn replace(&self, draft: &str, id: &str) -> Result<(), Error>;

    /// What was replaced, and is kept for those who have it mounted.
    fn replaced(&self) -> Result<Vec<Replaced>, Error>;

    /// Gives what was replaced to the next [`GraphDriver::sweep`].
    fn release(&self, replaced: &Replaced) -> Result<(), Error>;

    /// A quick look at a layer: whether the parts that it consists of are there. What they contain only
    /// [`GraphDriver::diff`] tells.
    fn check(&self, id: &str) -> Result<(), Error> {
        if self.exists(id) { Ok(()) } else { Err(Error::NotFound(id.to_owned())) }
    }

    /// Where a layer lies, in the words of `docker inspect`. Nothing where Docker's driver of that name says nothing either.
    fn places(&self, _id: &str) -> Result<Vec<(&'static str, String)>, Error> {
        Ok(Vec::new())
    }

    /// Whether a layer (not a draft) is there.
    fn exists(&self, id: &str) -> bool;

    /// Layers and writable layers that are there.
    fn list(&self) -> Result<Vec<String>, Error>;

    /// What a layer changes relative to its parent.
    fn changes(&self, id: &str) -> Result<Vec<Change>, Error>;

    /// Writes the layer's changes relative to its parent as a tar archive in the OCI layer format. For a layer that was
    /// applied from one archive it is that archive, byte for byte.
    fn diff(&self, id: &str, archive: &mut dyn std::io::Write) -> Result<(), Error>;

    /// Holds a layer that was unpacked from an archive against that archive, which `archive` gives ([`GraphDriver::diff`] writes
    /// it): kinds, modes, owners, extended attributes, sizes, device numbers, what is missing and what is there beside it; a line
    /// for each. Not the content of what is in the archive, whose digest tells that. What is below is compared where it is known
    /// to be whole.
    fn verify(
        &self,
        id: &str,
        archive: &mut dyn Read,
        below_is_whole: bool,
        report: &mut dyn FnMut(String),
    ) -> Result<(), Error>;

    /// Bytes that the layer's own content occupies.
    fn size(&self, id: &str) -> Result<u64, Error>;

    /// Bytes that the layer occupies on the disk, with all that is kept for it. Instant for a layer that was asked for before;
    /// a writable layer is measured.
    fn disk_use(&self, id: &str) -> Result<u64, Error> {
        self.size(id)
    }

    /// Makes the layer or draft invisible at once; its space comes back with the next [`GraphDriver::sweep`]. A layer
    /// that is not there is no error.
    fn remove(&self, id: &str) -> Result<(), Error>;

    /// Deletes what was removed, and with `drafts` the drafts that a dead daemon left. Slow; off every path that somebody waits for.
    fn sweep(&self, drafts: bool) -> Result<(), Error>;
}

/// A layer that a good one took the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The layer's id.
    pub id: String,
    /// What it is called since.
    pub(crate) name: String,
}

/// One path that a layer changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute path inside the root.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// Docker's numbers: 0, 1, 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "plain words")]
pub enum ChangeKind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

/// What went wrong in a driver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such layer.
    #[error("no such layer: {0}")]
    NotFound(String),
    /// The id is taken.
    #[error("layer {0} exists already")]
    Exists(String),
    /// The archive is refused: what it contains and why.
    #[error("refused layer archive: {0}")]
    Archive(String),
    /// A layer on disk is not what was written; the reason says what is wrong.
    #[error("layer {} is damaged: {reason}: pull or load its image again", layer.display())]
    Damaged {
        /// The layer's directory.
        layer: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No driver has this name.
    #[error("no such graphdriver: {name}; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A setting that the driver does not have, or not with this value.
    #[error("storage option {option}: {reason}")]
    Option {
        /// Name and value.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The size of a writable layer cannot be limited, or not so.
    #[error("graphdriver {driver} cannot limit the size of a container on {}: {reason}", path.display())]
    NoLimit {
        /// The driver's name.
        driver: &'static str,
        /// The driver's home.
        path: PathBuf,
        /// What is missing, on which file system, and what to do.
        reason: String,
    },
    /// There is too little room to make something.
    #[error("no room in the pool {pool}: {reason}")]
    NoRoom {
        /// Where.
        pool: String,
        /// How little, and what to do.
        reason: String,
    },
    /// Another process has the directory.
    #[error("{} is in use by another daemon: stop it, or choose another data root (--data-root)", .0.display())]
    InUse(PathBuf),
    /// The driver cannot work here: what is missing.
    #[error("graphdriver {driver} cannot be used on {path}: {reason}")]
    Unsupported {
        /// The driver's name.
        driver: &'static str,
        /// The driver's home.
        path: PathBuf,
        /// What is missing and what to do.
        reason: String,
    },
    /// The kernel refused something inside a layer, by its path there.
    #[error("{}: {source}", layer.display())]
    Inside {
        /// The layer's or draft's directory.
        layer: PathBuf,
        /// What failed.
        source: gantry_linux::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] gantry_linux::Error),
}

impl Error {
    /// Whether the file system has no room, or the person who may write there has no more of it.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let full = [Errno::NOSPC, Errno::DQUOT];
        matches!(self, Self::System(error) if full.iter().any(|full| full.raw_os_error() == error.errno()))
    }

    /// Says in which layer it was, where the path alone does not.
    pub(crate) fn inside(self, layer: &std::path::Path) -> Self {
        match self {
            Self::System(source) if !source.subject.starts_with('/') => {
                Self::Inside { layer: layer.to_path_buf(), source }
            }
            other => other,
        }
    }
}

impl Change {
    /// The change of a path that is relative to the root.
    pub(crate) fn at(path: &[u8], kind: ChangeKind) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let relative = std::ffi::OsStr::from_bytes(path);
        Self { path: std::path::Path::new("/").join(relative), kind }
    }
}
