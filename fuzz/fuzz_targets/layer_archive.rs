//! A layer's archive, hostile: it is unpacked into a draft or refused. Nothing outside of the draft changes; what became
//! a layer gives the archive back byte for byte; and the archive that is written of its files makes the same files again.
#![no_main]

use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use gantry_fuzz::place::Place;
use gantry_fuzz::tarball::Tarball;
use gantry_graphdriver::{Error, GraphDriver};
use libfuzzer_sys::fuzz_target;

/// Larger trees are not written out.
const SIZE_LIMIT: u64 = 4 << 20;

#[derive(Debug, Arbitrary)]
struct Input {
    overlay: bool,
    on_top: bool,
    archive: Archive,
}

#[derive(Debug, Arbitrary)]
enum Archive {
    Described(Tarball),
    Plain(Vec<u8>),
}

struct Store {
    place: Place,
    /// Overlay, vfs; each with the layer `low`.
    drivers: [Arc<dyn GraphDriver>; 2],
}

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let place = Place::new();
    let drivers = ["overlay", "vfs"].map(|name| {
        let driver = gantry_graphdriver::open(&place.home(), Some(name)).expect("open the driver").0;
        driver.create("low", None).expect("a draft");
        driver.apply("low", &mut low().as_slice()).expect("the layer below");
        driver.commit("low").expect("a layer");
        driver
    });
    Store { place, drivers }
});

/// What the described archives meet in the layer below.
fn low() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o750);
        header.set_size(if kind == tar::EntryType::Regular { 3 } else { 0 });
        match kind {
            tar::EntryType::Symlink => builder.append_link(&mut header, name, link).expect("append"),
            tar::EntryType::Regular => builder.append_data(&mut header, name, &b"low"[..]).expect("append"),
            _ => builder.append_data(&mut header, name, &b""[..]).expect("append"),
        }
    };
    add(tar::EntryType::Directory, "a", "");
    add(tar::EntryType::Regular, "a/b", "");
    add(tar::EntryType::Directory, "a/c", "");
    add(tar::EntryType::Regular, "a/c/d", "");
    add(tar::EntryType::Symlink, "b", "a/c");
    add(tar::EntryType::Regular, "d", "");
    add(tar::EntryType::Regular, "low", "");
    builder.into_inner().expect("an archive")
}

fuzz_target!(|input: Input| {
    let store = &*STORE;
    let driver = &*store.drivers[usize::from(!input.overlay)];
    let archive = match &input.archive {
        Archive::Described(described) => described.bytes(&store.place.outside().to_string_lossy()),
        Archive::Plain(bytes) => bytes.clone(),
    };
    let parent = input.on_top.then_some("low");
    if made(driver, "one", parent, &[&archive]) {
        let given = written(driver, "one");
        assert!(given == archive, "the layer gives another archive: {} bytes of {}", given.len(), archive.len());
        if driver.size("one").expect("a size") <= SIZE_LIMIT {
            rewritten(driver, parent, &archive);
        }
    }
    store.place.check();
    for id in ["one", "two", "three"] {
        driver.remove(id).expect("remove");
    }
    driver.sweep(true).expect("sweep");
    assert_eq!(driver.list().expect("list"), ["low"]);
});

/// Unpacks archives into one draft; false when it was refused.
fn made(driver: &dyn GraphDriver, id: &str, parent: Option<&str>, archives: &[&[u8]]) -> bool {
    driver.create(id, parent).expect("a draft");
    let mut made = Ok(0);
    for archive in archives {
        let mut rest = *archive;
        made = made.and_then(|before| Ok(before + driver.apply(id, &mut rest)?));
        assert!(made.is_err() || rest.is_empty(), "{} bytes were not read", rest.len());
    }
    let made = made.and_then(|content| driver.commit(id).map(|()| content));
    match made {
        Ok(content) => {
            assert_eq!(driver.size(id).expect("a size"), content, "size");
            true
        }
        Err(Error::Archive(_) | Error::System(_) | Error::Inside { .. }) => {
            assert!(!driver.exists(id), "refused, and yet there");
            false
        }
        Err(other) => panic!("{other}"),
    }
}

fn written(driver: &dyn GraphDriver, id: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    driver.diff(id, &mut archive).unwrap_or_else(|error| panic!("{id}: {error}"));
    archive
}

/// A draft that got two archives has no recipe: its archive is written from its files. It makes the same files again.
fn rewritten(driver: &dyn GraphDriver, parent: Option<&str>, archive: &[u8]) {
    assert!(made(driver, "two", parent, &[archive, &[]]), "refused the second time");
    let second = written(driver, "two");
    assert!(made(driver, "three", parent, &[&second, &[]]), "refuses what was written");
    assert!(written(driver, "three") == second, "other files");
    assert_eq!(driver.changes("three").expect("changes"), driver.changes("two").expect("changes"));
}
