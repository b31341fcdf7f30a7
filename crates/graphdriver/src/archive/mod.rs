//! Layer archives: tar as the OCI image specification has it. Reading is hostile input; writing is deterministic.
//!
//! Unpacking turns an archive into a directory in overlayfs's own form (a whiteout is a character device 0/0, an opaque
//! directory carries `trusted.overlay.opaque`), whatever the driver: one extractor, one list of hostile cases.

pub(crate) mod entry;
mod extract;
mod fill;
mod finish;
pub(crate) mod name;
pub(crate) mod pax;
pub(crate) mod recipe;
mod spool;
pub(crate) mod write;

#[cfg(test)]
mod hostile;

pub(crate) use extract::{apply, is_wanted};
pub(crate) use finish::finish;
pub(crate) use name::split;
pub(crate) use write::Writer;

/// Begins the name of a whiteout.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Hides everything that lower layers have in the directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that only aufs itself had a use for.
pub(crate) const AUFS: &[u8] = b".wh..wh.";
