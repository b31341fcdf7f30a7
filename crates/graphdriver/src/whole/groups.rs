//! Deleting subvolumes with their quota groups. The kernel takes a subvolume apart in the background, and some keep its
//! group until then and longer: it is noted, and removed by a later sweep.

use std::collections::BTreeSet;

use gantry_linux::{btrfs, fs};

use crate::Error;
use crate::store::{Store, note};

/// In the driver's directory: the numbers of groups to be removed, one a line.
const NOTE: &str = "groups";

/// Deletes what is a subvolume in the trash; what is none, or has others in it, stays there. One at a time.
pub(super) fn delete_subvolumes(store: &Store) -> Result<(), Error> {
    let trash = store.trash();
    let text = note(store.root(), NOTE)?.unwrap_or_default();
    let noted: BTreeSet<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let mut groups = noted.clone();
    let names = fs::list(&trash)?;
    for name in &names {
        if let Some(number) = btrfs::subvolume(&trash.join(name))?
            && !btrfs::remove_group(&trash, number)?
        {
            groups.insert(number);
        }
    }
    // Before the subvolumes, whose numbers nobody would know after a crash.
    write(store, &noted, &groups)?;
    for name in &names {
        btrfs::delete(&trash.join(name))?;
    }
    let mut left = BTreeSet::new();
    for number in &groups {
        if !btrfs::remove_group(&trash, *number)? {
            left.insert(*number);
        }
    }
    write(store, &groups, &left)
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
