//! Links between containers (`--link db:alias`): named edges of the GraphDB from the container that links to the one that is
//! linked, so that `/web/alias` is a further name of `/db`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gantry_graph::{Durability, Transaction};

use super::Container;
use super::store::{NAMES, Store};
use crate::error::{Error, Result};

/// The edges in memory, by the ids of the containers that link: alias → the linked container's id.
pub type Links = HashMap<String, BTreeMap<String, String>>;

/// Writes the edges of a new container, whose name is there.
pub(super) fn write(tx: &Transaction<'_>, name: &str, links: &BTreeMap<String, String>) -> gantry_graph::Result<()> {
    links.iter().try_for_each(|(alias, id)| tx.set(&path(name, alias), id))
}

fn path(name: &str, alias: &str) -> String {
    gantry_graph::join(&format!("/{NAMES}/{name}"), alias)
}

impl Store {
    /// The containers that a container links to, by their aliases.
    #[must_use]
    pub fn links_of(&self, id: &str) -> Vec<(String, Arc<Container>)> {
        let index = self.read();
        let links = index.links.get(id).into_iter().flatten();
        links.filter_map(|(alias, child)| Some((alias.clone(), Arc::clone(index.by_id.get(child)?)))).collect()
    }

    /// The containers that link to a container, with the aliases that they have for it.
    #[must_use]
    pub fn linked_by(&self, id: &str) -> Vec<(Arc<Container>, String)> {
        let index = self.read();
        let parents = index.links.iter().flat_map(|(parent, links)| {
            links.iter().filter(|(_, child)| *child == id).map(move |(alias, _)| (parent, alias))
        });
        parents.filter_map(|(parent, alias)| Some((Arc::clone(index.by_id.get(parent)?), alias.clone()))).collect()
    }

    /// The container at `parent/alias`.
    pub(super) fn by_link(&self, path: &str) -> Option<Arc<Container>> {
        let (parent, alias) = path.split_once('/')?;
        let index = self.read();
        let child = index.links.get(index.by_name.get(parent)?)?.get(alias)?;
        index.by_id.get(child).cloned()
    }

    /// Writes the links of a container that was found again, as it was made with them.
    pub(super) fn link_again(&self, id: &str) -> Result<()> {
        let record = self.get(id)?.record();
        let mut links = BTreeMap::new();
        for link in record.host_config.links.iter().flatten() {
            let (name, alias) = parse(link)?;
            // One that is gone, or has another name now, is not linked any more.
            if let Some(child) = self.read().by_name.get(name.trim_start_matches('/')) {
                links.insert(alias.to_owned(), child.clone());
            }
        }
        Ok(self.graph().db().write(Durability::Process, |tx| write(tx, &record.name, &links))?)
    }

    /// Removes a link, not the container that it leads to; the container that had it.
    ///
    /// # Errors
    /// When there is none of that name; when the database cannot be written.
    pub fn unlink(&self, name: &str) -> Result<Arc<Container>> {
        let bad = || Error::invalid(format!("invalid link name {name:?}: write it as /container/alias"));
        let (parent, alias) = name.trim_start_matches('/').split_once('/').ok_or_else(bad)?;
        let parent = self.get(parent)?;
        let removed =
            self.graph().db().write(Durability::Process, |tx| tx.delete(&path(&parent.record().name, alias)))?;
        let mut index = self.write();
        let known = index.links.get_mut(parent.id()).and_then(|links| links.remove(alias));
        drop(index);
        if !removed && known.is_none() {
            return Err(Error::not_found(format!(
                "no link {name}: container {} has no such alias",
                parent.record().name
            )));
        }
        Ok(parent)
    }
}

/// `name:alias`, or a name alone.
///
/// # Errors
/// Docker's words about what is neither.
pub fn parse(text: &str) -> Result<(&str, &str)> {
    let mut parts = text.split(':');
    match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
        ("", _, _) => Err(Error::invalid("empty string specified for links")),
        (name, None, _) => Ok((name, name.trim_start_matches('/'))),
        // As inspect shows it: the alias is the last name of a path.
        (name, Some(alias), None) => match alias.rsplit('/').next().unwrap_or_default() {
            "" => Err(Error::invalid(format!("bad format for links: {text}"))),
            alias => Ok((name, alias)),
        },
        _ => Err(Error::invalid(format!("bad format for links: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_name_with_an_alias_or_alone() {
        for (text, name, alias) in [("db", "db", "db"), ("db:x", "db", "x"), ("/db:/web/x", "/db", "x")] {
            assert_eq!(parse(text).unwrap(), (name, alias));
        }
        for bad in ["", ":x", "db:", "a:b:c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
