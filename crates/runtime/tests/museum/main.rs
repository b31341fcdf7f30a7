//! The escape museum: the incidents of this kind of software that concern the runtime, each as a test that is named after
//! what we promise. `cargo xtask museum` sees every one of them fail where its protection is switched off.
#![allow(clippy::disallowed_methods, reason = "tests prepare files plainly")]

#[path = "../common/mod.rs"]
mod common;
mod descriptors;
mod identity;
mod images;
mod kernel;
mod procfs;

use common::{Output, World};

/// Runs the container of this bundle.
fn run(world: &mut World) -> Output {
    let id = world.id();
    world.command(&["run", &id])
}

/// Runs a shell line in it.
fn run_line(world: &mut World, line: &str) -> Output {
    world.shell(line);
    run(world)
}

/// The bundle's file of this name.
fn inside(world: &World, path: &str) -> std::path::PathBuf {
    world.bundle().join("rootfs").join(path)
}
