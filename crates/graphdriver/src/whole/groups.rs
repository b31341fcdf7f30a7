//! Deleting subvolumes with their quota groups. The kernel takes a subvolume apart in the background, and some keep its
//! group until then and longer: it is noted, and removed by a later sweep. One sweep at a time.

use std::collections::BTreeSet;
use std::path::PathBuf;

use gantry_linux::{btrfs, fs};

use crate::Error;
use crate::store::{Store, note};

/// In the driver's directory: the numbers of groups to be removed, one a line.
const NOTE: &str = "groups";

/// Removes the groups that earlier sweeps noted, as far as they can go.
pub(super) fn remove_noted(store: &Store) -> Result<(), Error> {
    let noted = noted(store)?;
    let (left, outcome) = remove(store, &noted);
    outcome.and(write(store, &noted, &left))
}

/// Deletes what is a subvolume of these; what is none, or has others in it, stays. What fails keeps nothing else.
pub(super) fn delete_subvolumes(store: &Store, removed: &[PathBuf]) -> Result<(), Error> {
    let noted = noted(store)?;
    let mut groups = noted.clone();
    let mut outcome = Ok(());
    for path in removed {
        match btrfs::subvolume(path) {
            Ok(number) => groups.extend(number),
            Err(error) => outcome = outcome.and(Err(error.into())),
        }
    }
    // Before the subvolumes, whose numbers nobody would know after a crash. A full disk has room for neither.
    let (groups, _) = remove(store, &groups);
    let written = write(store, &noted, &groups);
    for path in removed {
        outcome = outcome.and(btrfs::delete(path).map(drop).map_err(Error::from));
    }
    let (left, removed_after) = remove(store, &groups);
    let written = if written.is_ok() { &groups } else { &noted };
    outcome.and(removed_after).and(write(store, written, &left))
}

fn noted(store: &Store) -> Result<BTreeSet<u64>, Error> {
    let text = note(store.root(), NOTE)?.unwrap_or_default();
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Removes groups; returns those that are left, and the first failure.
fn remove(store: &Store, groups: &BTreeSet<u64>) -> (BTreeSet<u64>, Result<(), Error>) {
    let (mut left, mut outcome) = (BTreeSet::new(), Ok(()));
    for number in groups {
        let removed = btrfs::remove_group(&store.trash(), *number);
        if !matches!(removed, Ok(true)) {
            left.insert(*number);
        }
        outcome = outcome.and(removed.map(drop).map_err(Error::from));
    }
    (left, outcome)
}

fn write(store: &Store, before: &BTreeSet<u64>, groups: &BTreeSet<u64>) -> Result<(), Error> {
    let path = store.root().join(NOTE);
    if before == groups {
        return Ok(());
    }
    if groups.is_empty() {
        return Ok(fs::remove_file(path)?);
    }
    let text: String = groups.iter().map(|number| format!("{number}\n")).collect();
    Ok(fs::write_atomic(path, text.as_bytes(), 0o600, fs::Durability::Process)?)
}
