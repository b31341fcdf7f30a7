//! Changing the GraphDB, inside one transaction.

use std::ops::Deref;

use rusqlite::Connection;
use serde_json::value::RawValue;

use super::{DIRECTORY, ROOT, View, join, split, split_last};
use crate::{Error, Result};

/// A transaction: reads as a [`View`] that sees its own changes, and writes.
#[derive(Debug)]
pub struct Transaction<'a>(View<'a>);

impl<'a> Deref for Transaction<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.0
    }
}

impl<'a> Transaction<'a> {
    pub(super) const fn new(connection: &'a Connection) -> Self {
        Self(View::new(connection))
    }

    fn run(&self, statement: &str, values: &[&str]) -> Result<usize> {
        let mut statement = self.connection().prepare_cached(statement)?;
        Ok(statement.execute(rusqlite::params_from_iter(values))?)
    }

    /// Writes an entity, new or replaced; its edges stay.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `properties` is not JSON.
    pub fn put_entity(&self, id: &str, kind: &str, properties: &str) -> Result<()> {
        serde_json::from_str::<&RawValue>(properties)
            .map_err(|error| Error::invalid(format!("document of {kind} {id}"), error))?;
        self.run(
            "INSERT INTO entity (id, kind, properties) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, properties = excluded.properties",
            &[id, kind, properties],
        )?;
        Ok(())
    }

    /// Makes each missing entity on the path, of the kind `directory`.
    ///
    /// # Errors
    /// The database's.
    pub fn make_directory(&self, path: &str) -> Result<()> {
        let (mut at, mut id) = (String::new(), ROOT.to_owned());
        for name in split(path)? {
            at = join(&at, &name);
            id = match self.child(&id, &name)? {
                Some(child) => child,
                None => {
                    self.put_entity(&at, DIRECTORY, "{}")?;
                    self.add_edge(&id, &name, &at)?;
                    at.clone()
                }
            };
        }
        Ok(())
    }

    /// Names the entity `id`: makes the last edge of the path. Everything before it must be there.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken or would close a cycle, [`Error::NotFound`] for a parent or entity
    /// that is not there.
    pub fn set(&self, path: &str, id: &str) -> Result<()> {
        let (parent, name) = self.parent_of(path)?;
        if let Some(holder) = self.child(&parent, &name)? {
            return Err(Error::Conflict(format!("name {path} is in use by {holder}")));
        }
        self.check_edge(path, &parent, id)?;
        self.add_edge(&parent, &name, id)
    }

    /// As [`Transaction::set`], but a name that is taken is given to `id`. Returns who had it.
    ///
    /// # Errors
    /// As [`Transaction::set`].
    pub fn replace(&self, path: &str, id: &str) -> Result<Option<String>> {
        let (parent, name) = self.parent_of(path)?;
        self.check_edge(path, &parent, id)?;
        let previous = self.child(&parent, &name)?;
        self.run("DELETE FROM edge WHERE parent = ?1 AND name = ?2", &[&parent, &name])?;
        self.add_edge(&parent, &name, id)?;
        Ok(previous)
    }

    /// Makes the edge `name` from the entity `parent` to the entity `child`, both by their ids, or gives it to `child`.
    ///
    /// # Errors
    /// As [`Transaction::set`].
    pub fn link(&self, parent: &str, name: &str, child: &str) -> Result<()> {
        self.check_edge(&format!("{name} of {parent}"), parent, child)?;
        self.unlink(parent, name)?;
        self.add_edge(parent, name, child)
    }

    /// Removes an edge of an entity; both ends stay.
    ///
    /// # Errors
    /// The database's.
    pub fn unlink(&self, parent: &str, name: &str) -> Result<bool> {
        Ok(self.run("DELETE FROM edge WHERE parent = ?1 AND name = ?2", &[parent, name])? > 0)
    }

    /// Moves a name; `to` must be free.
    ///
    /// # Errors
    /// As [`Transaction::set`]; [`Error::NotFound`] when there is nothing at `from`.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let missing = || Error::NotFound { kind: "database path", name: from.to_owned() };
        let (names, from_name) = split_last(from)?;
        let from_parent = self.follow(&names)?.ok_or_else(missing)?;
        let id = self.child(&from_parent, &from_name)?.ok_or_else(missing)?;
        self.set(to, &id)?;
        self.run("DELETE FROM edge WHERE parent = ?1 AND name = ?2", &[&from_parent, &from_name])?;
        Ok(())
    }

    /// Removes a name; the entity stays. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::Conflict`] for the root.
    pub fn delete(&self, path: &str) -> Result<bool> {
        let (names, name) = split_last(path)?;
        match self.follow(&names)? {
            Some(parent) => Ok(self.run("DELETE FROM edge WHERE parent = ?1 AND name = ?2", &[&parent, &name])? > 0),
            None => Ok(false),
        }
    }

    /// Removes an entity with every edge from and to it. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::Conflict`] for the root.
    pub fn purge(&self, id: &str) -> Result<bool> {
        if id == ROOT {
            return Err(Error::Conflict("the root of the database cannot be removed".to_owned()));
        }
        self.run("DELETE FROM edge WHERE parent = ?1 OR child = ?1", &[id])?;
        Ok(self.run("DELETE FROM entity WHERE id = ?1", &[id])? > 0)
    }

    fn parent_of(&self, path: &str) -> Result<(String, String)> {
        let (names, name) = split_last(path)?;
        match self.follow(&names)? {
            Some(parent) => Ok((parent, name)),
            None => Err(Error::NotFound { kind: "database path above", name: path.to_owned() }),
        }
    }

    fn check_edge(&self, path: &str, parent: &str, id: &str) -> Result<()> {
        if self.entity(id)?.is_none() {
            return Err(Error::NotFound { kind: "entity", name: id.to_owned() });
        }
        if self.reaches(id, parent)? {
            return Err(Error::Conflict(format!("{path} cannot lead to {id}: that would be a cycle")));
        }
        Ok(())
    }

    fn add_edge(&self, parent: &str, name: &str, child: &str) -> Result<()> {
        self.run("INSERT INTO edge (parent, name, child) VALUES (?1, ?2, ?3)", &[parent, name, child])?;
        Ok(())
    }
}
