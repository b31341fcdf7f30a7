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

/// What is left of a network's copy says that it has been removed: the database's backup may know it still.
const REMOVED: &str = "removed";

pub(super) fn marker(id: &str, data_root: &Path) -> PathBuf {
    path(id, data_root).with_extension(REMOVED)
}

/// Removes the copy of a network that has been removed.
pub fn forget(id: &str, data_root: &Path) {
    let path = path(id, data_root);
    // A new file, as its age counts.
    let noted = fs::create_dir_mode(data_root.join(DIRECTORY), 0o700)
        .and_then(|()| fs::write_atomic(marker(id, data_root), b"", 0o600, Durability::Process));
    let gone = fs::remove_file(&path).or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) });
    if let Err(error) = noted.and(gone) {
        warn!("remove the copy of network {id}: {error}");
    }
}

/// The networks that have been removed, as far as a backup may know them.
#[must_use]
pub fn removed(data_root: &Path) -> Vec<String> {
    let names = fs::list(data_root.join(DIRECTORY)).unwrap_or_default().into_iter();
    names.filter_map(|name| Some(name.to_str()?.strip_suffix(".removed")?.to_owned())).collect()
}

/// Forgets that a network was removed which is there: its removal did not outlive a power cut.
pub fn is_there(id: &str, data_root: &Path) {
    match fs::remove_file(marker(id, data_root)) {
        Err(error) if !error.is_not_found() => warn!("forget that network {id} was removed, as it is there: {error}"),
        _ => {}
    }
}

/// Whether there is a copy of the network that can be read.
#[must_use]
pub fn is_kept(id: &str, data_root: &Path) -> bool {
    fs::read(path(id, data_root)).is_ok_and(|text| serde_json::from_slice::<Document>(&text).is_ok())
}

/// Forgets of removed networks that they have been, where no backup can know them any more.
pub fn forget_removed(is_young: impl Fn(&Path) -> bool, data_root: &Path) {
    for id in removed(data_root) {
        let path = marker(&id, data_root);
        if is_young(&path) {
            continue;
        }
        if let Err(error) = fs::remove_file(path) {
            warn!("forget that network {id} was removed: {error}");
        }
    }
}

/// Removes the copies of networks that are not known any more: a daemon ended between their removal and that of the copy.
pub fn forget_others(is_known: impl Fn(&str) -> bool, data_root: &Path) {
    for name in fs::list(data_root.join(DIRECTORY)).unwrap_or_default() {
        let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
        if let Some(id) = id.filter(|id| !is_known(id)) {
            forget(id, data_root);
        }
    }
}

/// Keeps a copy that could not be used from [`forget_others`], for a person to look at.
pub fn set_aside(id: &str, data_root: &Path) {
    let path = path(id, data_root);
    let aside = path.with_extension("unused");
    match fs::rename(&path, &aside) {
        Ok(()) => warn!("the copy of network {id} is kept as {}", aside.display()),
        Err(error) => warn!("keep the copy of network {id}: {error}"),
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

#[cfg(test)]
mod tests {
    use gantry_api::network::NetworkCreate;

    use super::*;
    use crate::networks::define;

    #[test]
    fn copies_of_networks_that_were_removed_go_and_what_was_set_aside_stays() {
        let root = tempfile::tempdir().unwrap();
        let [known, removed, aside] = ["known", "removed", "aside"].map(|name| {
            let request = NetworkCreate { name: name.to_owned(), ..NetworkCreate::default() };
            let document = define::document(request).unwrap().0;
            keep(&document, root.path());
            document.definition.id
        });
        set_aside(&aside, root.path());
        forget_others(|id| id == known, root.path());
        assert!(fs::symlink_metadata(path(&removed, root.path())).is_err());
        assert_eq!(super::removed(root.path()), [removed], "a backup may know it");
        let left: Vec<_> = all(root.path()).into_iter().map(|document| document.definition.id).collect();
        assert_eq!(left, [known]);
        assert_eq!(fs::list(root.path().join(DIRECTORY)).unwrap().len(), 3);
        forget_removed(|_| true, root.path());
        assert_eq!(fs::list(root.path().join(DIRECTORY)).unwrap().len(), 3);
        forget_removed(|_| false, root.path());
        assert_eq!(fs::list(root.path().join(DIRECTORY)).unwrap().len(), 2);
    }
}
