//! The copy of what a network is, beside the database: what is left when that is damaged. Nobody waits for the disk to have it.

use std::path::{Path, PathBuf};

use gantry_linux::fs::{self, Durability};
use tracing::warn;

use super::Document;

/// Where the copies are, below the data root.
const DIRECTORY: &str = "networks";

fn path(id: &str, data_root: &Path) -> PathBuf {
    data_root.join(DIRECTORY).join(format!("{id}.json"))
}

/// Writes the copy, if it does not say the same already. A network is none the worse without it.
pub fn keep(document: &Document, data_root: &Path) {
    let path = path(&document.definition.id, data_root);
    let written = serde_json::to_vec(document).map_err(|error| error.to_string()).and_then(|text| {
        if fs::read(&path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        let kept = fs::create_dir_mode(data_root.join(DIRECTORY), 0o700)
            .and_then(|()| fs::write_atomic(&path, &text, 0o600, Durability::Process));
        kept.map_err(|error| error.to_string())
    });
    if let Err(error) = written {
        warn!("copy what network {} is: {error}", document.name);
    }
}

/// Removes the copy.
pub fn forget(document: &Document, data_root: &Path) {
    match fs::remove_file(path(&document.definition.id, data_root)) {
        Err(error) if !error.is_not_found() => warn!("remove the copy of network {}: {error}", document.name),
        _ => {}
    }
}

/// Every copy that can be read.
#[must_use]
pub fn all(data_root: &Path) -> Vec<Document> {
    let directory = data_root.join(DIRECTORY);
    let names = fs::list(&directory).unwrap_or_default().into_iter();
    let mut documents: Vec<Document> = names
        .filter_map(|name| serde_json::from_slice::<Document>(&fs::read(directory.join(&name)).ok()?).ok())
        .filter(|document| fs::symlink_metadata(path(&document.definition.id, data_root)).is_ok())
        .collect();
    documents.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    documents
}
