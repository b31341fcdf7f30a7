//! One data root under several graphdrivers: each has its own images, and leaves the others' alone.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{Source, debian, name, open};
use gantry_graph::{Error, Graph};
use gantry_linux::mount::RootMount;

fn names(graph: &Graph) -> Vec<String> {
    graph.images().all_names().filter(|(name, _)| name.digest().is_none()).map(|(name, _)| name.familiar()).collect()
}

#[test]
fn images_names_and_containers_of_a_driver_are_as_they_were_whatever_was_done_with_another() {
    let root = tempfile::tempdir().unwrap();
    let (debian, other) = (debian(), Source::new(&[&[("a", "a")]]));
    let graph = open(root.path(), "overlay");
    let id = debian.pull(&graph, &["debian", "mine"]);
    graph.create_container_layer("web", &id, None).unwrap();
    let RootMount::Overlay { upper: Some(upper), .. } = graph.container_root("web", false).unwrap() else {
        panic!("a writable overlay")
    };
    std::fs::write(upper.upper.join("written"), "w").unwrap();
    drop(graph);

    let graph = open(root.path(), "vfs");
    assert!(graph.images().is_empty());
    let error = graph.container_root("web", false).unwrap_err();
    assert!(matches!(&error, Error::Conflict(_)), "{error}");
    assert!(error.to_string().contains("--storage-driver overlay"), "{error}");
    assert_eq!(graph.container_layers_elsewhere().unwrap(), ["web".to_owned()].into(), "it uses no image of vfs");
    // The same image, another under the same name, both removed again.
    let other_id = other.pull(&graph, &["mine"]);
    assert_eq!(debian.pull(&graph, &["debian"]), id);
    assert_eq!(names(&graph), ["debian:latest", "mine:latest"]);
    graph.remove_image("debian", true, true, &[]).unwrap();
    assert!(graph.image("debian").is_err());
    assert!(!graph.content().list().unwrap().contains(&id), "it is not this driver's");
    graph.sweep().unwrap();
    drop(graph);

    let graph = open(root.path(), "overlay");
    assert_eq!(names(&graph), ["debian:latest", "mine:latest"]);
    assert!(graph.container_layers_elsewhere().unwrap().is_empty());
    let image = graph.image("mine").unwrap();
    assert_eq!((&image.id, image.layers.len()), (&id, 2));
    graph.content().read(&id).unwrap();
    let RootMount::Overlay { upper: Some(upper), lower, .. } = graph.container_root("web", false).unwrap() else {
        panic!("a writable overlay")
    };
    assert_eq!(std::fs::read(upper.upper.join("written")).unwrap(), b"w");
    assert_eq!(std::fs::read(lower[0].join("etc/app")).unwrap(), b"12345");
    graph.tag(&name("third"), &id).unwrap();
    drop(graph);

    let graph = open(root.path(), "vfs");
    assert_eq!(names(&graph), ["mine:latest"]);
    assert_eq!(graph.image("mine").unwrap().id, other_id);
    drop(graph);
    assert_eq!(names(&open(root.path(), "overlay")), ["debian:latest", "mine:latest", "third:latest"]);
}
