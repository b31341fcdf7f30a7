//! Networks after the database was damaged: from their copies, and without those that were removed since the backup.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gantry_graph::{Durability, Graph};
use tracing::warn;

use super::{Document, KIND, copy, write};
use crate::error::Result;

/// Enters networks that a damaged database lost, from their copies. One that cannot be entered keeps no other from it.
/// Those that were removed after the backup that came in its place go.
pub fn find_again(graph: &Graph, data_root: &Path) -> Result<()> {
    // One that is kept was removed by nobody, or came back after a power cut.
    for id in copy::removed(data_root).into_iter().filter(|id| !copy::is_kept(id, data_root)) {
        if graph.db().entity(&id)?.is_some_and(|entity| entity.kind == KIND) {
            graph.db().write(Durability::Process, |tx| tx.purge(&id))?;
            warn!("network {id} was in the database's backup, and has been removed since");
        }
    }
    let known: BTreeMap<String, String> =
        graph.db().entities(KIND)?.into_iter().map(|entity| (entity.id, entity.properties)).collect();
    let read = |text: &String| serde_json::from_str::<Document>(text).ok();
    let mut names: BTreeSet<String> = known.values().filter_map(read).map(|document| document.name).collect();
    for mut document in copy::all(data_root) {
        if known.get(&document.definition.id).and_then(read).is_some() {
            continue;
        }
        if !names.insert(document.name.clone()) {
            document.name = format!("{}-{}", document.name, document.definition.id.get(..12).unwrap_or_default());
        }
        match write(graph, &document, true) {
            Ok(()) => warn!("network {} was not in the database, and was taken from its copy", document.name),
            Err(error) => {
                warn!("network {} could not be taken from its copy: {error}", document.name);
                copy::set_aside(&document.definition.id, data_root);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gantry_api::network::NetworkCreate;
    use gantry_linux::fs;

    use super::super::{NAMES, define};
    use super::*;

    fn graph(root: &Path) -> Graph {
        let driver = gantry_graphdriver::open(root, Some("vfs")).unwrap().0;
        let graph = Graph::open(root, driver).unwrap();
        graph.db().write(Durability::Process, |tx| tx.make_directory(&format!("/{NAMES}"))).unwrap();
        graph
    }

    #[test]
    fn a_word_that_it_was_removed_takes_nothing_that_is_kept_and_nothing_but_a_network() {
        let root = tempfile::tempdir().unwrap();
        let graph = graph(root.path());
        let request = NetworkCreate { name: "web".into(), ..NetworkCreate::default() };
        let web = define::document(request).unwrap().0;
        let id = &web.definition.id;
        write(&graph, &web, false).unwrap();
        // The power failed before its removal was on the disk, and the next daemon has kept it again.
        copy::forget(id, root.path());
        copy::keep(&web, root.path());
        let newer = serde_json::to_string(&Document { attachable: true, ..web.clone() }).unwrap();
        graph.db().put_entity(Durability::Process, id, KIND, &newer).unwrap();
        graph.db().put_entity(Durability::Process, "other", "volume", "{}").unwrap();
        copy::forget("other", root.path());
        find_again(&graph, root.path()).unwrap();
        assert_eq!(graph.db().entity(id).unwrap().unwrap().properties, newer, "nor is it taken from its copy again");
        assert!(graph.db().entity("other").unwrap().is_some());
        copy::is_there(id, root.path());
        assert_eq!(copy::removed(root.path()), ["other"]);
        copy::is_there(id, root.path());
    }

    #[test]
    fn a_backup_that_is_younger_than_a_removal_ends_its_note() {
        let root = tempfile::tempdir().unwrap();
        let graph = graph(root.path());
        copy::forget("before", root.path());
        assert!(graph.back_up().unwrap());
        let backup = std::time::SystemTime::now();
        let age = |id: &str, at| {
            let file = fs::open_with(copy::marker(id, root.path()), std::fs::OpenOptions::new().write(true)).unwrap();
            file.set_modified(at).unwrap();
        };
        let hour = std::time::Duration::from_secs(3600);
        copy::forget("after", root.path());
        age("before", backup - hour);
        age("after", backup + hour);
        super::super::backed_up(&graph, root.path());
        assert_eq!(copy::removed(root.path()), ["after"]);
    }

    #[test]
    fn a_network_whose_record_is_damaged_is_taken_from_its_copy_under_its_name() {
        let root = tempfile::tempdir().unwrap();
        let graph = graph(root.path());
        let request = || NetworkCreate { name: "web".into(), ..NetworkCreate::default() };
        let [web, other] = [(); 2].map(|()| define::document(request()).unwrap().0);
        write(&graph, &web, false).unwrap();
        assert!(write(&graph, &other, false).is_err(), "the name is taken");
        copy::keep(&web, root.path());
        let id = &web.definition.id;
        graph.db().put_entity(Durability::Process, id, KIND, "{}").unwrap();
        find_again(&graph, root.path()).unwrap();
        let entity = graph.db().entity(id).unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Document>(&entity.properties).unwrap().name, "web");
        assert_eq!(
            graph.db().children(&format!("/{NAMES}")).unwrap(),
            BTreeMap::from([("web".to_owned(), id.clone())])
        );
        // As the backup has it that was made before it was removed.
        copy::forget(id, root.path());
        find_again(&graph, root.path()).unwrap();
        assert!(graph.db().entity(id).unwrap().is_none());
        assert_eq!(graph.db().children(&format!("/{NAMES}")).unwrap(), BTreeMap::new());
    }
}
