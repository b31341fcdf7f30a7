//! Reading the GraphDB: one consistent state.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Entity, ROOT, join, split};
use crate::{Error, Result};

/// One consistent state of the database.
#[derive(Debug, Clone, Copy)]
pub struct View<'a>(&'a Connection);

impl<'a> View<'a> {
    pub(super) const fn new(connection: &'a Connection) -> Self {
        Self(connection)
    }

    pub(super) const fn connection(&self) -> &'a Connection {
        self.0
    }

    /// Has SQLite check the whole database; says what is wrong with it.
    pub(super) fn check(&self) -> Result<std::result::Result<(), String>> {
        let said: rusqlite::Result<String> = self.0.query_row("PRAGMA quick_check (1)", [], |row| row.get(0));
        match said {
            Ok(said) if said == "ok" => {
                let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('entity', 'edge')";
                let tables: i64 = self.0.query_row(tables, [], |row| row.get(0))?;
                Ok(if tables == 2 { Ok(()) } else { Err("its tables are missing".to_owned()) })
            }
            Ok(said) => Ok(Err(said)),
            Err(error) if is_damage(&error) => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// The entity with this id.
    ///
    /// # Errors
    /// The database's.
    pub fn entity(&self, id: &str) -> Result<Option<Entity>> {
        let mut query = self.0.prepare_cached("SELECT id, kind, properties FROM entity WHERE id = ?1")?;
        Ok(query.query_row([id], to_entity).optional()?)
    }

    /// All entities of a kind, by id.
    ///
    /// # Errors
    /// The database's.
    pub fn entities(&self, kind: &str) -> Result<Vec<Entity>> {
        let mut query = self.0.prepare_cached("SELECT id, kind, properties FROM entity WHERE kind = ?1 ORDER BY id")?;
        let rows = query.query_map([kind], to_entity)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The id at a path.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text that is no path, or the database's.
    pub fn lookup(&self, path: &str) -> Result<Option<String>> {
        self.follow(&split(path)?)
    }

    pub(super) fn follow(&self, names: &[String]) -> Result<Option<String>> {
        let mut id = ROOT.to_owned();
        for name in names {
            match self.child(&id, name)? {
                Some(child) => id = child,
                None => return Ok(None),
            }
        }
        Ok(Some(id))
    }

    pub(super) fn child(&self, parent: &str, name: &str) -> Result<Option<String>> {
        let mut query = self.0.prepare_cached("SELECT child FROM edge WHERE parent = ?1 AND name = ?2")?;
        Ok(query.query_row([parent, name], |row| row.get(0)).optional()?)
    }

    /// The entity at a path.
    ///
    /// # Errors
    /// As [`View::lookup`].
    pub fn get(&self, path: &str) -> Result<Option<Entity>> {
        match self.lookup(path)? {
            Some(id) => self.entity(&id),
            None => Ok(None),
        }
    }

    /// Whether the path leads to something.
    ///
    /// # Errors
    /// As [`View::lookup`].
    pub fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.lookup(path)?.is_some())
    }

    /// The names at a path, with the ids that they lead to.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the path leads nowhere.
    pub fn children(&self, path: &str) -> Result<BTreeMap<String, String>> {
        let id = self.lookup(path)?.ok_or_else(|| Error::NotFound { kind: "database path", name: path.to_owned() })?;
        self.edges(&id)
    }

    /// The names under an entity, with the ids that they lead to.
    ///
    /// # Errors
    /// The database's.
    pub fn edges(&self, id: &str) -> Result<BTreeMap<String, String>> {
        let mut query = self.0.prepare_cached("SELECT name, child FROM edge WHERE parent = ?1")?;
        let rows = query.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The edges that lead to an entity: parent's id and name, in order.
    ///
    /// # Errors
    /// The database's.
    pub fn parents(&self, id: &str) -> Result<Vec<(String, String)>> {
        let mut query =
            self.0.prepare_cached("SELECT parent, name FROM edge WHERE child = ?1 ORDER BY parent, name")?;
        let rows = query.query_map(params![id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Every path that leads to an entity, sorted.
    ///
    /// # Errors
    /// The database's.
    pub fn references(&self, id: &str) -> Result<Vec<String>> {
        if id == ROOT {
            return Ok(vec!["/".to_owned()]);
        }
        let mut found = BTreeSet::new();
        // Upwards, with what was collected below; there are no cycles, so it ends.
        let mut open = vec![(id.to_owned(), String::new())];
        while let Some((id, below)) = open.pop() {
            for (parent, name) in self.parents(&id)? {
                let path = format!("{}{below}", join("", &name));
                if parent == ROOT {
                    found.insert(path);
                } else {
                    open.push((parent, path));
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Every path below `path` down to `depth` names, with the ids, sorted by path; the path itself is not in it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the path leads nowhere.
    pub fn walk(&self, path: &str, depth: usize) -> Result<Vec<(String, String)>> {
        let start =
            self.lookup(path)?.ok_or_else(|| Error::NotFound { kind: "database path", name: path.to_owned() })?;
        let mut found = Vec::new();
        let mut open = vec![(path.to_owned(), start, 0)];
        while let Some((path, id, level)) = open.pop() {
            if level == depth {
                continue;
            }
            for (name, child) in self.edges(&id)? {
                let path = join(&path, &name);
                found.push((path.clone(), child.clone()));
                open.push((path, child, level + 1));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether `to` can be reached from `from` by following edges, or is it.
    ///
    /// # Errors
    /// The database's.
    pub fn reaches(&self, from: &str, to: &str) -> Result<bool> {
        let mut query = self.0.prepare_cached(
            "WITH RECURSIVE below (id) AS (SELECT ?1 UNION SELECT child FROM edge JOIN below ON parent = id)
             SELECT EXISTS (SELECT 1 FROM below WHERE id = ?2)",
        )?;
        Ok(query.query_row([from, to], |row| row.get(0))?)
    }
}

/// Whether SQLite says that the file is no database of its, or not what it wrote.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn to_entity(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entity> {
    Ok(Entity { id: text(row, 0)?, kind: text(row, 1)?, properties: text(row, 2)? })
}

/// A text as it is stored; one damaged row must not keep the others from being read.
fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    })
}
