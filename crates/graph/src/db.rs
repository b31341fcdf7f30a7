//! GraphDB: entities with one JSON document each, and named edges between them that make paths; on SQLite.
//!
//! Every entity has a kind and a document. An edge goes from a parent to a child under a name that is unique among the
//! parent's edges, so `/containers/web` is a path from the entity [`ROOT`]. An entity may have several names; cycles are
//! refused. A name may contain any character: [`join`] escapes the slash.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_linux::ResultExt;
use gantry_linux::fs::Durability;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::FallocateFlags;

use crate::{Error, Result};

/// The id of the entity at `/`.
pub const ROOT: &str = "/";
/// The kind of the entities that only hold names.
pub const DIRECTORY: &str = "directory";
/// How long another connection's transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How SQLite reaches files that no other process has: the log's index is in memory. In a mapped file it would be the death of the
/// daemon where a file system finds no room for a page that was written before, as a full btrfs does.
const ALONE: &str = "unix-excl";
/// Idle connections that are kept for readers.
const IDLE_READERS: usize = 4;
/// Bytes that the file system keeps room for, in database and log: a removal writes a dozen pages.
const ROOM: u64 = 128 << 10;

/// The schema's version.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS entity (
    id TEXT PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    properties TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entity_by_kind ON entity (kind);
CREATE TABLE IF NOT EXISTS edge (
    parent TEXT NOT NULL REFERENCES entity (id),
    name TEXT NOT NULL,
    child TEXT NOT NULL REFERENCES entity (id),
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS edge_by_child ON edge (child);
INSERT OR IGNORE INTO entity (id, kind, properties) VALUES ('/', 'directory', '{}');
PRAGMA user_version = 1;
";

/// A thing: its id, what kind it is, and its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Unique among all entities.
    pub id: String,
    /// `image`, `layer`, `container`, `directory` …
    pub kind: String,
    /// A JSON document.
    pub properties: String,
}

/// The database. Reads see the last commit and never wait for a writer.
#[derive(Debug)]
pub struct GraphDb {
    path: PathBuf,
    writer: Mutex<Writer>,
    /// Counts what was written, to tell whether a backup is old.
    written: AtomicU64,
    /// What the count was at the last backup.
    saved: Mutex<Option<u64>>,
    readers: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    durability: Durability,
    /// A commit failed, and what it wrote is in the log: the next start may take it for committed.
    in_doubt: bool,
}

impl Writer {
    fn set(&mut self, durability: Durability) -> Result<()> {
        if self.durability != durability {
            let level = if durability == Durability::Disk { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.durability = durability;
        }
        Ok(())
    }

    /// Writes over what a failed commit left in the log, durably.
    fn settle(&mut self) -> Result<()> {
        if !self.in_doubt {
            return Ok(());
        }
        self.set(Durability::Disk)?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // The smallest thing that is written although it changes nothing.
        transaction.pragma_update(None, "user_version", 1)?;
        transaction.commit()?;
        self.in_doubt = false;
        Ok(())
    }
}

mod backup;
mod transaction;
mod view;

#[cfg(test)]
mod tests;

pub(crate) use backup::{Rescue, backed_up, end_rescue, open_or_rescue, quarantined};
pub use transaction::Transaction;
pub use view::View;

impl GraphDb {
    /// Opens or makes the database file.
    ///
    /// # Errors
    /// When it is not a database of this version, or the file system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_file(path.as_ref()).map_err(|error| error.of_database(path.as_ref()))
    }

    fn open_file(path: &Path) -> Result<Self> {
        let path = path.to_path_buf();
        // Before anything touches it.
        refuse_newer(&path, noted_version(&path)?)?;
        // Before SQLite has it: closing a file takes the locks that the process has on it.
        reserve(&path);
        let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), ALONE)?;
        connection.busy_timeout(PATIENCE)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        refuse_newer(&path, version)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        if version < 1 {
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?;
        }
        gantry_linux::fs::set_mode(&path, 0o600)?;
        // One that nothing was written to yet is empty, as `reserve` wants it.
        if let Err(error) = restart_log(&connection, if version < 1 { Anew::Empty } else { Anew::InItsRoom }) {
            tracing::debug!(%error, path = %path.display(), "the log is carried on");
        }
        reserve(&PathBuf::from(format!("{}-wal", path.display())));
        let writer = Mutex::new(Writer { connection, durability: Durability::Disk, in_doubt: false });
        Ok(Self { path, writer, written: AtomicU64::new(0), saved: Mutex::default(), readers: Mutex::default() })
    }

    /// Has SQLite check the whole database; says what is wrong with it.
    ///
    /// # Errors
    /// When it cannot even be asked.
    pub fn check(&self) -> Result<std::result::Result<(), String>> {
        self.read(|db| db.check())
    }

    /// The database file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `change` as one transaction: all of it is committed when it succeeds, nothing when it fails.
    ///
    /// [`Durability::Disk`] waits for the disk; [`Durability::Process`] survives the death of the daemon, and a power
    /// cut may lose it (with everything after it, never a part of it).
    ///
    /// # Errors
    /// The error of `change`, or the database's.
    pub fn write<T>(&self, durability: Durability, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.try_write(durability, change).map_err(|error| error.of_database(&self.path))
    }

    fn try_write<T>(&self, durability: Durability, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut writer = lock(&self.writer);
        writer.settle()?;
        writer.set(durability)?;
        let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = change(&Transaction::new(&transaction))?;
        if let Err(error) = transaction.commit() {
            writer.in_doubt = true;
            if let Err(error) = writer.settle() {
                tracing::warn!(%error, path = %self.path.display(), "a failed change may be there after the next start");
            }
            return Err(error.into());
        }
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(result)
    }

    /// As [`GraphDb::write`], for a change that gives space back: on a full disk the log is begun anew in the room that it
    /// has, if that helps.
    ///
    /// # Errors
    /// As [`GraphDb::write`].
    pub fn write_on_full_disk<T>(
        &self,
        durability: Durability,
        change: impl Fn(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let first = self.write(durability, &change);
        match &first {
            Err(error) if error.is_disk_full() => {}
            _ => return first,
        }
        if let Err(error) = restart_log(&lock(&self.writer).connection, Anew::InItsRoom) {
            // The first error is the one that matters.
            tracing::debug!(%error, "no room for the database's log");
            return first;
        }
        self.write(durability, change)
    }

    /// Makes sure that no change that failed can come back with the next start: before something is deleted that it names.
    ///
    /// # Errors
    /// When that cannot be made sure: then it must stay.
    pub(crate) fn settle(&self) -> Result<()> {
        lock(&self.writer).settle().map_err(|error| error.of_database(&self.path))
    }

    /// Runs `look` on one consistent state of the database.
    ///
    /// # Errors
    /// The error of `look`, or the database's.
    pub fn read<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        self.try_read(look).map_err(|error| error.of_database(&self.path))
    }

    fn try_read<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        let idle = lock(&self.readers).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.reader()?,
        };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let result = look(&View::new(&transaction));
        transaction.finish()?;
        let mut idle = lock(&self.readers);
        if idle.len() < IDLE_READERS {
            idle.push(connection);
        }
        result
    }

    fn reader(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags_and_vfs(&self.path, flags, ALONE)?;
        connection.busy_timeout(PATIENCE)?;
        Ok(connection)
    }

    /// Writes one entity, new or replaced.
    ///
    /// # Errors
    /// As [`Transaction::put_entity`].
    pub fn put_entity(&self, durability: Durability, id: &str, kind: &str, properties: &str) -> Result<()> {
        self.write(durability, |db| db.put_entity(id, kind, properties))
    }

    /// Reads one entity.
    ///
    /// # Errors
    /// The database's.
    pub fn entity(&self, id: &str) -> Result<Option<Entity>> {
        self.read(|db| db.entity(id))
    }

    /// Reads all entities of a kind, by id.
    ///
    /// # Errors
    /// The database's.
    pub fn entities(&self, kind: &str) -> Result<Vec<Entity>> {
        self.read(|db| db.entities(kind))
    }

    /// The entity at a path.
    ///
    /// # Errors
    /// The database's.
    pub fn get(&self, path: &str) -> Result<Option<Entity>> {
        self.read(|db| db.get(path))
    }

    /// The names at a path, with the ids that they lead to.
    ///
    /// # Errors
    /// As [`View::children`].
    pub fn children(&self, path: &str) -> Result<BTreeMap<String, String>> {
        self.read(|db| db.children(path))
    }
}

/// How the log is begun anew.
#[derive(Clone, Copy)]
enum Anew {
    Empty,
    /// The file keeps its size.
    InItsRoom,
}

/// Takes what is in the log into the database, so that the log is written from its beginning again.
fn restart_log(connection: &Connection, anew: Anew) -> Result<()> {
    let how = match anew {
        Anew::Empty => "TRUNCATE",
        Anew::InItsRoom => "RESTART",
    };
    Ok(connection.query_row(&format!("PRAGMA wal_checkpoint ({how})"), [], |_| Ok(()))?)
}

/// Has the file system keep room for the file, made where it is not there, so that a full disk does not keep images from
/// being removed.
fn reserve(file: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let reserved = gantry_linux::fs::open_with(file, &options).and_then(|opened| {
        let size = opened.metadata().during("stat", file.display())?.len();
        if size == 0 {
            overwrite_in_place(&opened, file);
        }
        rustix::fs::fallocate(&opened, FallocateFlags::KEEP_SIZE, 0, size + ROOM).during("reserve", file.display())
    });
    if let Err(error) = reserved {
        // Not every file system can, and a full one cannot any more.
        tracing::debug!(%error, "removing images may fail when the disk is full");
    }
}

/// Has btrfs write over the blocks of a file, as other file systems do, rather than look for new ones: SQLite guards what it writes
/// itself. Only an empty file can be told.
fn overwrite_in_place(opened: &File, file: &Path) {
    let told = rustix::fs::ioctl_getflags(opened)
        .and_then(|flags| rustix::fs::ioctl_setflags(opened, flags | rustix::fs::IFlags::NOCOW));
    if let Err(error) = told {
        // Where nothing is copied there is no such flag.
        tracing::trace!(%error, path = %file.display(), "copied or not, as the file system likes");
    }
}

/// The schema's version as the head of the file says it, 0 where there is no such head.
fn noted_version(path: &Path) -> Result<i64> {
    let head = match gantry_linux::fs::read_up_to(path, 64) {
        Err(error) if error.is_not_found() => return Ok(0),
        other => other?,
    };
    let version = head.strip_prefix(b"SQLite format 3\0").and_then(|rest| rest.get(44..48)?.try_into().ok());
    Ok(version.map_or(0, i32::from_be_bytes).into())
}

fn refuse_newer(path: &Path, version: i64) -> Result<()> {
    if version <= VERSION {
        return Ok(());
    }
    let why = format!("it was written by a newer version (schema {version}): start that one; it was not touched");
    Err(Error::invalid(format!("database {}", path.display()), why))
}

/// A thread that panicked inside a transaction rolled it back; the connection is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path of `name` under `directory`, with the slashes of the name escaped.
#[must_use]
pub fn join(directory: &str, name: &str) -> String {
    let name = name.replace('%', "%25").replace('/', "%2F");
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// The names that make up a path.
fn split(path: &str) -> Result<Vec<String>> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(Error::invalid(format!("path {path:?}"), "it must begin with a slash"));
    };
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    rest.split('/')
        .map(|name| match name {
            "" => Err(Error::invalid(format!("path {path:?}"), "it has an empty name")),
            name => Ok(name.replace("%2F", "/").replace("%25", "%")),
        })
        .collect()
}

/// The parent's names and the last name of a path.
fn split_last(path: &str) -> Result<(Vec<String>, String)> {
    let mut names = split(path)?;
    match names.pop() {
        Some(last) => Ok((names, last)),
        None => Err(Error::Conflict("the root of the database has no name".to_owned())),
    }
}
