//! GraphDB against a plain model, and its promises one by one.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn db() -> (tempfile::TempDir, GraphDb) {
    let dir = tempfile::tempdir().unwrap();
    let db = GraphDb::open(dir.path().join("gantry.db")).unwrap();
    (dir, db)
}

fn put(db: &GraphDb, ids: &[&str]) {
    db.write(Durability::Process, |tx| ids.iter().try_for_each(|id| tx.put_entity(id, "thing", "{}"))).unwrap();
}

#[test]
fn names_make_paths_and_survive_the_process() {
    let (dir, db) = db();
    put(&db, &["web", "db"]);
    db.write(Durability::Disk, |tx| {
        tx.make_directory("/containers")?;
        tx.make_directory("/containers")?;
        tx.set("/containers/web", "web")?;
        tx.set("/containers/db", "db")?;
        tx.set("/containers/web/alias", "db")
    })
    .unwrap();
    drop(db);
    let db = GraphDb::open(dir.path().join("gantry.db")).unwrap();
    assert_eq!(db.get("/containers/web/alias").unwrap().unwrap().id, "db");
    assert_eq!(db.children("/containers").unwrap().into_keys().collect::<Vec<_>>(), ["db", "web"]);
    db.read(|view| {
        assert_eq!(view.references("db")?, ["/containers/db", "/containers/web/alias"]);
        assert_eq!(view.parents("db")?.len(), 2);
        let paths: Vec<_> = view.walk("/", 2)?.into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["/containers", "/containers/db", "/containers/web"]);
        assert_eq!(view.walk("/containers", 9)?.len(), 3);
        assert!(view.children("/none").is_err());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_name_may_have_slashes_and_percents() {
    let (_dir, db) = db();
    put(&db, &["a"]);
    for name in ["docker.io/library/debian:12", "%2F", "%", "/", "%25/", "ü"] {
        let path = join("/", name);
        db.write(Durability::Process, |tx| tx.set(&path, "a")).unwrap();
        assert_eq!(db.get(&path).unwrap().unwrap().id, "a", "{path}");
        assert!(db.children("/").unwrap().contains_key(name));
    }
}

#[test]
fn names_are_unique_and_cycles_refused() {
    let (_dir, db) = db();
    put(&db, &["a", "b", "c"]);
    let set = |path: &str, id: &str| db.write(Durability::Process, |tx| tx.set(path, id));
    set("/a", "a").unwrap();
    set("/a/b", "b").unwrap();
    set("/a/b/c", "c").unwrap();
    assert!(matches!(set("/a", "b"), Err(Error::Conflict(_))));
    for (path, id) in [("/a/self", "a"), ("/a/b/up", "a"), ("/a/b/c/up", "b"), ("/a/root", ROOT)] {
        assert!(matches!(set(path, id), Err(Error::Conflict(_))), "{path}");
    }
    assert!(matches!(set("/none/x", "a"), Err(Error::NotFound { .. })));
    assert!(matches!(set("/x", "none"), Err(Error::NotFound { .. })));
    assert!(matches!(set("x", "a"), Err(Error::Invalid { .. })));
    assert!(matches!(set("/", "a"), Err(Error::Conflict(_))));
}

#[test]
fn renames_deletes_and_purges_are_whole() {
    let (_dir, db) = db();
    put(&db, &["a", "b"]);
    db.write(Durability::Process, |tx| {
        tx.set("/a", "a")?;
        tx.set("/b", "b")?;
        tx.set("/a/x", "b")
    })
    .unwrap();
    let rename = |from: &str, to: &str| db.write(Durability::Process, |tx| tx.rename(from, to));
    rename("/a", "/new").unwrap();
    assert!(db.get("/a").unwrap().is_none());
    assert_eq!(db.get("/new/x").unwrap().unwrap().id, "b");
    assert!(matches!(rename("/new", "/b"), Err(Error::Conflict(_))));
    assert!(matches!(rename("/none", "/c"), Err(Error::NotFound { .. })));
    assert!(matches!(rename("/new", "/new/x/in"), Err(Error::Conflict(_))));
    assert!(db.write(Durability::Process, |tx| tx.delete("/new/x")).unwrap());
    assert!(!db.write(Durability::Process, |tx| tx.delete("/new/x")).unwrap());
    assert!(db.entity("b").unwrap().is_some(), "only the name went");
    assert!(db.write(Durability::Process, |tx| tx.purge("b")).unwrap());
    assert!(db.get("/b").unwrap().is_none());
    assert!(db.write(Durability::Process, |tx| tx.purge(ROOT)).is_err());
}

#[test]
fn a_failed_transaction_changes_nothing_and_documents_must_be_json() {
    let (_dir, db) = db();
    put(&db, &["a"]);
    let failed: Result<()> = db.write(Durability::Disk, |tx| {
        tx.set("/a", "a")?;
        tx.put_entity("b", "thing", "{")
    });
    assert!(matches!(failed, Err(Error::Invalid { .. })));
    assert!(db.get("/a").unwrap().is_none());
    db.put_entity(Durability::Process, "a", "other", "[1]").unwrap();
    assert_eq!(db.entities("other").unwrap()[0].properties, "[1]");
    assert!(db.entities("thing").unwrap().is_empty());
}

#[test]
fn readers_see_whole_commits_and_do_not_wait() {
    let (_dir, db) = db();
    let db = Arc::new(db);
    put(&db, &["a", "b"]);
    let reader = Arc::clone(&db);
    db.write(Durability::Process, |tx| {
        tx.set("/a", "a")?;
        // Another connection, while this transaction is open.
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(reader.get("/a").unwrap().is_none())).join().unwrap();
        });
        assert!(tx.exists("/a")?);
        tx.set("/b", "b")
    })
    .unwrap();
    assert_eq!(db.children("/").unwrap().len(), 2);
}

#[test]
fn readers_beside_a_writer_see_every_rename_whole() {
    let (_dir, db) = db();
    put(&db, &["a"]);
    db.write(Durability::Process, |tx| tx.set("/one", "a")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100 {
                db.write(Durability::Process, |tx| tx.rename("/one", "/two")).unwrap();
                db.write(Durability::Process, |tx| tx.rename("/two", "/one")).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(db.children("/").unwrap().len(), 1, "never both names, never none");
                    assert_eq!(db.read(|view| view.references("a")).unwrap().len(), 1);
                }
            });
        }
    });
}

#[test]
fn a_newer_database_is_refused() {
    let (dir, db) = db();
    drop(db);
    let path = dir.path().join("gantry.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert!(GraphDb::open(&path).unwrap_err().to_string().contains("newer"));
}

/// What GraphDB promises, on plain maps.
#[derive(Debug, Default, Clone)]
struct Model {
    entities: std::collections::BTreeSet<u8>,
    edges: BTreeMap<(u8, u8), u8>,
}

impl Model {
    fn follow(&self, path: &[u8]) -> Option<u8> {
        path.iter().try_fold(0, |at, name| self.edges.get(&(at, *name)).copied())
    }

    fn reaches(&self, from: u8, to: u8) -> bool {
        from == to || self.edges.iter().any(|((parent, _), child)| *parent == from && self.reaches(*child, to))
    }

    /// Every path with what it leads to, sorted.
    fn paths(&self) -> Vec<(String, u8)> {
        let (mut found, mut open) = (Vec::new(), vec![(String::new(), 0)]);
        while let Some((path, at)) = open.pop() {
            for ((_, name), child) in self.edges.iter().filter(|((parent, _), _)| *parent == at) {
                let below = format!("{path}{}", text(&[*name]));
                found.push((below.clone(), *child));
                open.push((below, *child));
            }
        }
        found.sort();
        found
    }

    /// The edges that lead to an entity, sorted.
    fn parents(&self, number: u8) -> Vec<(String, String)> {
        let to = self.edges.iter().filter(|(_, child)| **child == number);
        let mut found: Vec<_> = to.map(|((parent, name), _)| (id(*parent), text(&[*name])[1..].to_owned())).collect();
        found.sort();
        found
    }

    fn set(&mut self, path: &[u8], id: u8) -> bool {
        let Some((name, above)) = path.split_last() else { return false };
        let Some(parent) = self.follow(above) else { return false };
        if self.edges.contains_key(&(parent, *name)) || !self.entities.contains(&id) || self.reaches(id, parent) {
            return false;
        }
        self.edges.insert((parent, *name), id);
        true
    }

    fn delete(&mut self, path: &[u8]) -> bool {
        let Some((name, above)) = path.split_last() else { return false };
        self.follow(above).is_some_and(|parent| self.edges.remove(&(parent, *name)).is_some())
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some((name, above)) = from.split_last() else { return false };
        let Some(parent) = self.follow(above) else { return false };
        let Some(id) = self.edges.get(&(parent, *name)).copied() else { return false };
        self.set(to, id) && self.edges.remove(&(parent, *name)).is_some()
    }

    fn purge(&mut self, id: u8) -> bool {
        self.edges.retain(|(parent, _), child| *parent != id && *child != id);
        self.entities.remove(&id)
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8),
    Set(Vec<u8>, u8),
    Delete(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    Purge(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let path = || prop::collection::vec(0..3_u8, 1..4);
    prop_oneof![
        (1..6_u8).prop_map(Op::Put),
        (path(), 1..6_u8).prop_map(|(path, id)| Op::Set(path, id)),
        path().prop_map(Op::Delete),
        (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
        (1..6_u8).prop_map(Op::Purge),
    ]
}

fn text(path: &[u8]) -> String {
    path.iter().map(|name| format!("/{}", char::from(b'a' + name))).collect()
}

fn id(number: u8) -> String {
    if number == 0 { ROOT.to_owned() } else { number.to_string() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(ops in prop::collection::vec(op(), 1..40)) {
        let (_dir, db) = db();
        let mut model = Model { entities: [0].into(), edges: BTreeMap::new() };
        for op in ops {
            let (did, expected) = match &op {
                Op::Put(number) => {
                    model.entities.insert(*number);
                    (db.put_entity(Durability::Process, &id(*number), "thing", "{}").is_ok(), true)
                }
                Op::Set(path, number) => {
                    (db.write(Durability::Process, |tx| tx.set(&text(path), &id(*number))).is_ok(), model.set(path, *number))
                }
                Op::Delete(path) => {
                    (db.write(Durability::Process, |tx| tx.delete(&text(path))).unwrap(), model.delete(path))
                }
                Op::Rename(from, to) => (
                    db.write(Durability::Process, |tx| tx.rename(&text(from), &text(to))).is_ok(),
                    model.rename(from, to),
                ),
                Op::Purge(number) => {
                    (db.write(Durability::Process, |tx| tx.purge(&id(*number))).unwrap(), model.purge(*number))
                }
            };
            prop_assert_eq!(did, expected, "{:?}", op);
        }
        let paths = model.paths();
        for depth in 0..4 {
            let below = |path: &&(String, u8)| path.0.matches('/').count() <= depth;
            let expected: Vec<_> = paths.iter().filter(below).map(|(path, number)| (path.clone(), id(*number))).collect();
            prop_assert_eq!(db.read(|view| view.walk("/", depth)).unwrap(), expected);
        }
        for (path, number) in &paths {
            prop_assert_eq!(db.get(path).unwrap().map(|entity| entity.id), Some(id(*number)));
            let missing = format!("{path}/none");
            prop_assert!(!db.read(|view| view.exists(&missing)).unwrap());
        }
        for number in &model.entities {
            let leading: Vec<_> = paths.iter().filter(|(_, to)| to == number).map(|(path, _)| path.clone()).collect();
            let leading = if *number == 0 { vec!["/".to_owned()] } else { leading };
            prop_assert_eq!(db.read(|view| view.references(&id(*number))).unwrap(), leading);
            let parents: Vec<_> = model.parents(*number);
            prop_assert_eq!(db.read(|view| view.parents(&id(*number))).unwrap(), parents);
            let edges = db.read(|view| view.edges(&id(*number))).unwrap();
            let expected: BTreeMap<String, String> = model
                .edges
                .iter()
                .filter(|((parent, _), _)| parent == number)
                .map(|((_, name), child)| (text(&[*name])[1..].to_owned(), id(*child)))
                .collect();
            prop_assert_eq!(edges, expected);
        }
    }
}

#[test]
fn a_backup_that_fails_leaves_the_one_before_and_no_litter() {
    let (dir, db) = db();
    let many: Vec<_> = (0..20_000).map(|number| format!("entity{number}")).collect();
    put(&db, &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(db.backup().unwrap());
    let backup = std::fs::read(dir.path().join("gantry.db.backup")).unwrap();
    drop(db);
    // Pages in the middle, so that the copy meets them.
    let path = dir.path().join("gantry.db");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 40 * 4096);
    bytes[8 * 4096..40 * 4096].fill(0xee);
    std::fs::write(&path, bytes).unwrap();
    let db = GraphDb::open(&path).unwrap();
    // Something is new, as far as the database knows.
    db.written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    db.backup().unwrap_err();
    assert_eq!(std::fs::read(dir.path().join("gantry.db.backup")).unwrap(), backup);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "gantry.db.backup.new"), "{names:?}");
}

#[test]
fn what_is_written_from_the_moment_on_that_a_backup_begins_is_younger_than_it() {
    let (dir, db) = db();
    put(&db, &["one"]);
    let begins = std::time::SystemTime::now();
    assert!(db.backup().unwrap());
    let backup = super::backed_up(dir.path()).unwrap();
    assert!(backup < begins, "{backup:?} is not before {begins:?}");
}
