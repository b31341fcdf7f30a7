//! What most tests share: one daemon and one registry per test process, with a small image pulled.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result};

use crate::{Cli, Daemon, Kind, Options, Registry, image};

/// The image that tests run where it does not matter which.
pub const IMAGE: &str = "busybox";

/// A daemon and a registry.
#[derive(Debug)]
pub struct World {
    /// The daemon.
    pub daemon: Daemon,
    /// The registry with the standard images.
    pub registry: Registry,
    next: AtomicU32,
}

impl World {
    /// A world of its own for a test that disturbs others.
    pub fn start(options: Options) -> Result<Self> {
        let registry = Registry::start()?;
        let daemon = Daemon::with(options)?;
        let world = Self { daemon, registry, next: AtomicU32::new(0) };
        world.pull(IMAGE)?;
        Ok(world)
    }

    /// Pulls one of the standard images and gives it its short name.
    pub fn pull(&self, image: &str) -> Result<()> {
        self.daemon.pull(&self.registry.name(image), image)
    }

    /// Pushes an image that no other test has, whose name begins with `base`; it prints `new` when it is run.
    pub fn push_own(&self, base: &str) -> Result<String> {
        let name = self.name(base);
        let (_, mut image) = image::standard()?.into_iter().find(|(name, _)| *name == "layered").context("an image")?;
        image.layers.push(image::Layer::default().file("own", 0o644, &name).finish()?);
        self.registry.push(&name, "latest", &image)?;
        Ok(name)
    }

    /// A name that no other test of this world uses.
    #[must_use]
    pub fn name(&self, base: &str) -> String {
        format!("{base}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Our client.
    #[must_use]
    pub fn gantry(&self) -> Cli<'_> {
        Cli::new(self, Kind::Gantry).expect("the binary under test is built")
    }

    /// The real `docker` CLI, where there is one.
    #[must_use]
    pub fn docker(&self) -> Option<Cli<'_>> {
        Cli::new(self, Kind::Docker)
    }
}

/// The world that the running tests of this process share; it goes with the last of them.
#[must_use]
pub fn world() -> Arc<World> {
    static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(world) = shared.upgrade() {
        return world;
    }
    let world = World::start(Options::default()).context("start the shared daemon").unwrap_or_else(|e| panic!("{e:?}"));
    let world = Arc::new(world);
    *shared = Arc::downgrade(&world);
    world
}

/// Runs a test with our client, then with the real `docker` CLI.
pub fn both(test: impl Fn(&World, &Cli<'_>)) {
    let world = world();
    test(&world, &world.gantry());
    match world.docker() {
        Some(docker) => test(&world, &docker),
        None => skip("no docker CLI on this machine"),
    }
}

/// Says that a test, or a part of it, was not run; `cargo xtask test` repeats it at the end.
pub fn skip(reason: &str) {
    use std::io::Write;
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    writeln!(std::io::stderr(), "skipped: {name}: {reason}").ok();
    if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Ok(mut file) = file {
            writeln!(file, "{name}: {reason}").ok();
        }
    }
}

/// Says something that is worth reading also when the test passes.
pub fn note(text: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "note: {}: {text}", std::thread::current().name().unwrap_or("?")).ok();
}
