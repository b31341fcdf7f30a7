//! The harness itself: what the other suites stand on.

use gantry_tests::{Registry, Terminal, slot::Slot};

#[test]
fn the_registry_serves_the_standard_images() {
    let registry = Registry::start().expect("a registry");
    for name in ["busybox", "web", "layered"] {
        let digest = registry.manifest_digest(name, "latest").expect("a digest");
        assert!(digest.starts_with("sha256:"), "{digest}");
    }
}

#[test]
fn two_places_share_nothing() {
    let (one, two) = (Slot::acquire(None).expect("a place"), Slot::acquire(None).expect("a place"));
    assert_ne!(one.root(), two.root());
    assert_ne!(one.bridge(), two.bridge());
    assert_ne!(one.prefix(), two.prefix());
    let root = one.root().to_owned();
    drop(one);
    assert!(!root.exists());
}

#[test]
fn a_terminal_shows_what_was_typed_and_its_size() {
    let terminal = Terminal::start("sh").expect("a terminal");
    terminal.write("echo $((40 + 2))\n");
    terminal.shows("42");
    terminal.write("exit 3\n");
    terminal.shows("[exit 3]");
}
