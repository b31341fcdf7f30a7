//! The backup of the database, and what is done when the database is damaged.
//!
//! `gantry.db.backup` is a whole database that was read and found good before it got that name. A damaged database is put
//! aside, below `quarantine/`, and never deleted; the backup takes its place.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_linux::ResultExt;
use gantry_linux::fs::{self, Durability};
use rusqlite::{Connection, OpenFlags};

use super::view::{View, is_damage};
use super::{GraphDb, VERSION};
use crate::{Error, Result};

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];
/// Why something lies in a directory of the quarantine.
const REASON: &str = "reason";
/// What says, in the data root, that a rescue has begun and is not complete: with these words in it.
const PENDING: &str = "gantry.db.rescue";
const FROM_BACKUP: &str = "from the backup";
/// By how much the clock of file times may lag.
const CLOCK: Duration = Duration::from_millis(100);
const FROM_NOTHING: &str = "from nothing";

/// What was done about a damaged database.
#[derive(Debug, Clone)]
pub(crate) struct Rescue {
    /// A backup took its place; without one it begins empty.
    pub from_backup: bool,
}

/// Opens the database of a data root. One that is damaged, or lost, is put aside and replaced by its backup, if there is a
/// good one. A rescue that a dead daemon began is one until [`end_rescue`].
///
/// # Errors
/// When the file system refuses, or a newer version wrote it.
pub(crate) fn open_or_rescue(root: &Path) -> Result<(GraphDb, Option<Rescue>)> {
    let path = root.join("gantry.db");
    let backup = backup_of(&path);
    let reason = match lost(root, &path, &backup)? {
        Some(reason) => reason,
        None => match open_checked(&path)? {
            Ok(db) => return Ok((db, pending(root)?)),
            Err(reason) => reason,
        },
    };
    let from_backup = match fs::symlink_metadata(&backup) {
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error.into()),
        Ok(_) => match verify(&backup)? {
            Ok(()) => true,
            Err(worse) => {
                quarantine(root, &backup, &format!("the database's backup is damaged too: {worse}"))?;
                false
            }
        },
    };
    // First of all: whoever opens the new database has to know that it is old, or empty.
    let word = if from_backup { FROM_BACKUP } else { FROM_NOTHING };
    fs::write_atomic(root.join(PENDING), word.as_bytes(), 0o600, Durability::Disk)?;
    let instead =
        if from_backup { "its last backup was taken" } else { "there was no backup, images were indexed again" };
    let aside = quarantine(root, &path, &format!("the database is damaged: {reason}; {instead}"))?;
    tracing::error!(reason, aside = %aside.display(), from_backup, "the database is damaged and was put aside");
    if from_backup {
        fs::write_atomic(&path, &fs::read(&backup)?, 0o600, Durability::Disk)?;
    }
    match open_checked(&path)? {
        Ok(db) => Ok((db, Some(Rescue { from_backup }))),
        Err(reason) => Err(Error::invalid(format!("database {}", path.display()), reason)),
    }
}

fn pending(root: &Path) -> Result<Option<Rescue>> {
    match fs::read_to_string(root.join(PENDING)) {
        Err(error) if error.is_not_found() => Ok(None),
        word => Ok(Some(Rescue { from_backup: word? == FROM_BACKUP })),
    }
}

/// A rescue is complete: what could be found of what the database lost is in it again.
///
/// # Errors
/// What the file system refuses.
pub(crate) fn end_rescue(root: &Path) -> Result<()> {
    match fs::remove_file(root.join(PENDING)) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(fs::sync_directory(root)?),
    }
}

/// When the backup was made.
pub(crate) fn backed_up(root: &Path) -> Option<SystemTime> {
    fs::metadata(backup_of(&root.join("gantry.db"))).ok()?.modified().ok()
}

fn backup_of(path: &Path) -> PathBuf {
    path.with_extension("db.backup")
}

/// A database that is not there, or empty, where there was one.
fn lost(root: &Path, path: &Path, backup: &Path) -> Result<Option<String>> {
    let length = match fs::metadata(path) {
        Err(error) if error.is_not_found() => None,
        other => Some(other?.len()),
    };
    let known = fs::symlink_metadata(backup).is_ok()
        || fs::list(root.join("content/sha256")).is_ok_and(|documents| !documents.is_empty());
    Ok(match length {
        None if known => Some("it is missing".to_owned()),
        Some(0) if known => Some("it is empty".to_owned()),
        _ => None,
    })
}

/// Opens the database and has SQLite check it; the inner error says what is damaged.
fn open_checked(path: &Path) -> Result<std::result::Result<GraphDb, String>> {
    let checked = GraphDb::open(path).and_then(|db| Ok(db.check()?.map(|()| db)));
    match checked {
        Err(Error::Database { source, .. }) if is_damage(&source) => Ok(Err(source.to_string())),
        other => other,
    }
}

/// Reads a whole backup.
fn verify(path: &Path) -> Result<std::result::Result<(), String>> {
    let look = || -> rusqlite::Result<Result<std::result::Result<(), String>>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != VERSION {
            return Ok(Ok(Err(format!("its schema is {version}, not {VERSION}"))));
        }
        Ok(View::new(&connection).check())
    };
    match look() {
        Ok(checked) => checked,
        Err(error) if is_damage(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Moves a database with all its parts into a directory of its own below `quarantine/`.
fn quarantine(root: &Path, path: &Path, reason: &str) -> Result<PathBuf> {
    let home = root.join("quarantine");
    fs::create_dir_mode(&home, 0o700)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let aside = (0..).map(|turn| home.join(format!("{now}-{turn}"))).find(|path| fs::symlink_metadata(path).is_err());
    let aside = aside.unwrap_or_else(|| home.join(fs::unique()));
    fs::create_dir(&aside)?;
    fs::write(aside.join(REASON), reason)?;
    for suffix in COMPANIONS {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        match fs::rename(path.with_file_name(&name), aside.join(&name)) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    fs::sync_directory(&aside)?;
    fs::sync_directory(root)?;
    Ok(aside)
}

/// What lies in the quarantine: where, and why.
pub(crate) fn quarantined(root: &Path) -> Vec<(PathBuf, String)> {
    let home = root.join("quarantine");
    let names = fs::list(&home).unwrap_or_default();
    let mut found: Vec<_> = names.into_iter().map(|name| home.join(name)).collect();
    found.sort();
    let reason = |path: PathBuf| {
        let reason = fs::read_to_string_up_to(path.join(REASON), 4096).unwrap_or_default();
        (path, reason)
    };
    found.into_iter().map(reason).collect()
}

impl GraphDb {
    /// Replaces the backup by what the database is now, if that changed since; returns whether it did. The new one is read
    /// and found good before it takes the old one's place.
    ///
    /// # Errors
    /// The database's, or when it cannot be written: the old backup stays.
    pub fn backup(&self) -> Result<bool> {
        let written = self.written.load(Ordering::Relaxed);
        let mut saved = super::lock(&self.saved);
        let backup = backup_of(&self.path);
        if *saved == Some(written) && fs::symlink_metadata(&backup).is_ok() {
            return Ok(false);
        }
        let staged = self.path.with_extension("db.backup.new");
        match fs::remove_file(&staged) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let made = self.copy_to(&staged).and_then(|()| Ok(fs::rename(&staged, &backup)?));
        if made.is_err()
            && let Err(error) = fs::remove_file(&staged)
            && !error.is_not_found()
        {
            tracing::warn!(%error, "a backup that failed stays until the next one");
        }
        made?;
        fs::sync_directory(self.path.parent().unwrap_or_else(|| Path::new(".")))?;
        *saved = Some(written);
        Ok(true)
    }

    /// Writes a copy of the database, read and found good, and on the disk. Its time is from before it was begun: what is written
    /// meanwhile is younger.
    fn copy_to(&self, staged: &Path) -> Result<()> {
        let begun = SystemTime::now() - CLOCK;
        let connection = Connection::open_with_flags_and_vfs(&self.path, OpenFlags::default(), super::ALONE)?;
        connection.busy_timeout(super::PATIENCE)?;
        connection.execute("VACUUM INTO ?1", [&*staged.to_string_lossy()])?;
        drop(connection);
        fs::set_mode(staged, 0o600)?;
        if let Err(reason) = verify(staged)? {
            return Err(Error::invalid(format!("backup of database {}", self.path.display()), reason));
        }
        let file = fs::open_with(staged, OpenOptions::new().write(true))?;
        file.set_modified(begun).and_then(|()| file.sync_all()).during("sync", staged.display())?;
        Ok(())
    }
}
