//! The drivers there are, best first, and which one a daemon uses.

use std::path::Path;
use std::sync::Arc;

use gantry_linux::fs;
use gantry_linux::lock::Lock;

use crate::{Error, GraphDriver, Options, aufs, devmapper, overlay, store, whole};

/// Opens a driver in its directory.
pub type Open = fn(&Path, &Options) -> Result<Arc<dyn GraphDriver>, Error>;

/// A driver that can be chosen.
#[derive(Debug)]
pub struct Row {
    /// Its name, and that of its directory in the data root.
    pub name: &'static str,
    /// Other names that people know it by.
    pub aliases: &'static [&'static str],
    /// Opens it in its directory, or says what it lacks.
    pub open: Open,
}

/// One line per driver, best first.
pub const DRIVERS: &[Row] = &[
    Row { name: "overlay", aliases: &["overlay2"], open: overlay::open },
    Row { name: "btrfs", aliases: &[], open: whole::open_btrfs },
    Row { name: "devmapper", aliases: &["devicemapper"], open: devmapper::open },
    Row { name: "vfs", aliases: &[], open: whole::open_vfs },
    // Only where it is asked for: the others are as good, and more tried.
    Row { name: "aufs", aliases: &[], open: aufs::open },
];

/// Opens the driver `name` (of `--storage-driver` or `DOCKER_DRIVER`) in the data root; without a name the one whose
/// layers are there, else the best that works. Also says why it was chosen.
///
/// # Errors
/// [`Error::Unknown`] for a name that is in no row, [`Error::Unsupported`] when the driver cannot work here.
pub fn open(root: &Path, name: Option<&str>) -> Result<(Arc<dyn GraphDriver>, String), Error> {
    open_with(root, name, &Options::default())
}

/// Keeps daemons from a data root for as long as the locks live, and opens no driver.
///
/// # Errors
/// [`Error::InUse`] when a daemon has it.
pub fn hold(root: &Path) -> Result<Vec<Lock>, Error> {
    let used = DRIVERS.iter().map(|row| root.join(row.name)).filter(|directory| directory.is_dir());
    used.map(|directory| store::lock(&directory)).collect()
}

/// As [`open`], with settings.
///
/// # Errors
/// Those of [`open`], and [`Error::Option`] for a setting that the driver does not have.
pub fn open_with(root: &Path, name: Option<&str>, options: &Options) -> Result<(Arc<dyn GraphDriver>, String), Error> {
    let start = |row: &Row| (row.open)(&root.join(row.name), options);
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        let row = DRIVERS
            .iter()
            .find(|row| row.name == name || row.aliases.contains(&name))
            .ok_or_else(|| Error::Unknown { name: name.to_owned(), known: names() })?;
        return Ok((start(row)?, format!("{} was asked for", row.name)));
    }
    let holds = |row: &&Row| fs::list(root.join(row.name).join("layers")).is_ok_and(|names| !names.is_empty());
    let mut holders = DRIVERS.iter().filter(holds);
    if let Some(row) = holders.next() {
        let others: Vec<_> = holders.map(|row| row.name).collect();
        let others = if others.is_empty() { String::new() } else { format!("; so does {}", others.join(" and ")) };
        return Ok((start(row)?, format!("{} holds the layers of this data root{others}", row.name)));
    }
    let mut lacking = String::new();
    for row in DRIVERS {
        match start(row) {
            Ok(driver) => return Ok((driver, format!("{} is the best that works here{lacking}", row.name))),
            Err(Error::Unsupported { driver, reason, .. }) => {
                lacking = format!("{lacking}; {driver} does not: {reason}");
            }
            Err(other) => return Err(other),
        }
    }
    Err(Error::Unknown { name: format!("one that works{lacking}"), known: names() })
}

fn names() -> String {
    DRIVERS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_is_chosen_where_it_works_and_overlay2_is_its_name_too() {
        let root = tempfile::tempdir().unwrap();
        let (driver, reason) = open(root.path(), None).unwrap();
        assert_eq!(driver.name(), "overlay", "{reason}");
        assert!(matches!(open(root.path(), None), Err(Error::InUse(_))));
        assert!(matches!(hold(root.path()), Err(Error::InUse(_))));
        drop(driver);
        let held = hold(root.path()).unwrap();
        assert!(matches!(open(root.path(), None), Err(Error::InUse(_))));
        drop(held);
        assert_eq!(open(root.path(), Some("overlay2")).unwrap().0.name(), "overlay");
    }

    #[test]
    fn the_driver_that_holds_layers_stays_and_unknown_names_list_what_there_is() {
        let root = tempfile::tempdir().unwrap();
        let (driver, _) = open(root.path(), Some("vfs")).unwrap();
        driver.create_writable("one", None, None).unwrap();
        drop(driver);
        assert_eq!(open(root.path(), None).unwrap().0.name(), "vfs");
        let error = open(root.path(), Some("zfs")).err().unwrap().to_string();
        assert_eq!(error, "no such graphdriver: zfs; there are overlay, btrfs, devmapper, vfs, aufs");
    }
}
