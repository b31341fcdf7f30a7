//! An archive of images, Docker's or an OCI layout, hostile: its images are loaded whole or not at all. What is loaded
//! passes fsck, is written as an archive that gives the same images again, and leaves nothing when it is removed.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use gantry_api::reference::{Digest, Reference};
use gantry_fuzz::images::Input;
use gantry_fuzz::place::Place;
use gantry_graph::{Graph, Image};
use libfuzzer_sys::fuzz_target;

struct Store {
    place: Place,
    /// On overlay, on vfs, with their data roots.
    graphs: [(PathBuf, Graph); 2],
}

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let place = Place::new();
    let graphs = ["overlay", "vfs"].map(|name| {
        let root = place.home().join(format!("on-{name}"));
        let driver = gantry_graphdriver::open(&root, Some(name)).expect("open the driver").0;
        (root.clone(), Graph::open(&root, driver).expect("open the store"))
    });
    Store { place, graphs }
});

fuzz_target!(|input: Input| {
    let store = &*STORE;
    let (root, graph) = &store.graphs[usize::from(!input.overlay)];
    let archive = input.bytes(&store.place.outside().to_string_lossy());
    if let Ok(loaded) = graph.load(&mut archive.as_slice(), None, &|_| {}) {
        let images = graph.images();
        assert!(loaded.iter().all(|loaded| images.get(&loaded.image.id).is_some()), "loaded and not there");
    }
    store.place.check();
    whole(graph);
    let before = described(graph);
    if !before.is_empty() {
        let saved = saved(graph);
        empty(root, graph);
        graph.load(&mut saved.as_slice(), None, &|_| {}).expect("load what was saved");
        whole(graph);
        assert_eq!(described(graph), before, "other images");
        assert!(self::saved(graph) == saved, "another archive of the same images");
    }
    empty(root, graph);
});

/// Id, names, configuration and layers of every image.
fn described(graph: &Graph) -> BTreeMap<Digest, (Vec<Reference>, Vec<u8>, Vec<(Digest, u64)>)> {
    let images = graph.images();
    let describe = |image: &Arc<Image>| {
        let layers = image.layers.iter().map(|layer| (layer.chain_id.clone(), layer.size)).collect();
        (image.id.clone(), (images.names(&image.id), image.raw.to_vec(), layers))
    };
    images.iter().map(describe).collect()
}

fn saved(graph: &Graph) -> Vec<u8> {
    let images = graph.images();
    let named: Vec<_> = images.iter().map(|image| (Arc::clone(image), images.names(&image.id))).collect();
    let mut archive = Vec::new();
    graph.save(&named, &mut archive).expect("save");
    archive
}

fn whole(graph: &Graph) {
    graph.fsck(false, &mut |finding| panic!("{finding}")).expect("fsck");
}

/// Removes every image; nothing is left of them.
fn empty(root: &std::path::Path, graph: &Graph) {
    for image in graph.images().iter() {
        if graph.images().get(&image.id).is_some() {
            graph.remove_image(image.id.as_str(), true, false, &[]).expect("remove");
        }
    }
    graph.sweep().expect("sweep");
    assert!(graph.images().is_empty());
    assert_eq!(graph.content().list().expect("list"), []);
    assert!(graph.driver().list().expect("list").is_empty());
    let driver = root.join(graph.driver().name());
    for left in [root.join("content/ingest"), driver.join("drafts"), driver.join("trash")] {
        assert_eq!(std::fs::read_dir(&left).expect("list").count(), 0, "{}", left.display());
    }
}
