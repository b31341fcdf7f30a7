//! The copy of a container's record in its directory, as it was when the container was made, last started or updated since its end: what is left
//! when the database is damaged. Nobody waits for the disk to have it.

use std::path::{Path, PathBuf};

use gantry_linux::fs::{self, Durability};

use super::Record;

/// The copy's name.
const FILE: &str = "record.json";

/// Where the copy of a container's record is.
pub fn path(id: &str, data_root: &Path) -> PathBuf {
    data_root.join("containers").join(id).join(FILE)
}

/// Writes the copy. A container is none the worse without it.
pub fn write(record: &Record, data_root: &Path) {
    let written = match serde_json::to_vec(record) {
        Ok(document) => fs::write_atomic(path(&record.id, data_root), &document, 0o600, Durability::Process)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = written {
        tracing::warn!("copy the record of container {}: {error}", record.id);
    }
}

/// Reads the copy of a container's record; `None` when there is none that can be read.
#[must_use]
pub fn read(id: &str, data_root: &Path) -> Option<Record> {
    let document = fs::read(path(id, data_root)).ok()?;
    Record::read(&document).ok().filter(|record| record.id == id)
}

/// Every copy that can be read.
#[must_use]
pub fn all(data_root: &Path) -> Vec<Record> {
    let names = fs::list(data_root.join("containers")).unwrap_or_default();
    let mut ids: Vec<_> = names.iter().filter_map(|name| name.to_str()).filter(|name| name.len() == 64).collect();
    ids.sort_unstable();
    ids.into_iter().filter_map(|id| read(id, data_root)).collect()
}
