//! What goes, and what a dead daemon left.

use std::fs;

use gantry_graphdriver::Error;

use super::bench::{Bench, base};

pub fn removed_layers_are_gone_at_once(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    drop(bench.writable("web", "base"));
    assert_eq!(bench.driver.list().unwrap(), ["base", "web"]);
    assert!(matches!(bench.driver.create_writable("web", Some("base"), None), Err(Error::Exists(_))));
    assert!(matches!(bench.driver.create("base", None), Err(Error::Exists(_))));
    assert!(matches!(bench.driver.create_writable("x", Some("none"), None), Err(Error::NotFound(_))));
    bench.driver.remove("web").unwrap();
    bench.driver.remove("web").unwrap();
    assert!(!bench.driver.exists("web"));
    assert!(matches!(bench.driver.mount("web", false), Err(Error::NotFound(_))));
    drop(bench.writable("web", "base"));
    bench.driver.remove("web").unwrap();
    bench.driver.sweep(false).unwrap();
    let trash = bench.root.path().join(bench.driver.name()).join("trash");
    assert_eq!(fs::read_dir(trash).unwrap().count(), 0);
    assert_eq!(bench.driver.list().unwrap(), ["base"]);
    for id in ["../base", "", ".", "a/b"] {
        assert!(bench.driver.create(id, None).is_err(), "{id:?}");
        bench.driver.remove(id).unwrap();
    }
}

pub fn drafts_of_the_dead_are_removed(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    bench.driver.create("draft", Some("base")).unwrap();
    bench.driver.apply("draft", &mut &*base().0).unwrap();
    assert!(!bench.driver.exists("draft"));
    let kind = bench.driver.name();
    let Bench { driver, root } = bench;
    drop(driver);
    let driver = gantry_graphdriver::open(root.path(), None).unwrap().0;
    assert_eq!(driver.name(), kind);
    assert_eq!(driver.list().unwrap(), ["base"]);
    assert!(matches!(driver.commit("draft"), Err(Error::NotFound(_))));
    driver.create("draft", Some("base")).unwrap();
    driver.sweep(true).unwrap();
    assert!(matches!(driver.commit("draft"), Err(Error::NotFound(_))));
    assert_eq!(fs::read_dir(root.path().join(kind).join("drafts")).unwrap().count(), 0);
}
