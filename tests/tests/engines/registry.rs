//! Docker's daemon against our registry: what ours pushed there it pulls, what it pushes there ours pulls, with the same digests.

use std::fs;
use std::time::Duration;

use gantry_tests::{Cli, Registry, World, eventually};

use crate::engine::{Engine, IMAGE};
use crate::system::GANTRY;

/// Where the registry is in the system, which has a loopback of its own.
const PORT: &str = "127.0.0.1:5000";
const ROOT: &str = "/opt/engines/registry";
const PID: &str = "/opt/engines/registry.pid";

/// What a push says that the tag has.
fn pushed(said: &str) -> String {
    let digest = said.lines().find_map(|line| line.split("digest: ").nth(1)).and_then(|rest| rest.split(' ').next());
    digest.unwrap_or_else(|| panic!("no digest in {said}")).to_owned()
}

/// Both ways: of Docker's own form (schema 2), and of ours (OCI).
pub fn exchange(engine: &Engine) {
    let world = gantry_tests::world();
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let outside = engine.system.file(ROOT);
    fs::create_dir_all(&outside).expect("the registry's directory");
    let (own, digest) = ours(&world, &cli, &outside);
    let serve = format!("echo $$ > {PID}; exec {GANTRY} registry serve --addr {PORT} --root {ROOT}");
    let mut inside = engine.system.command(&["sh", "-c", &serve]).spawn().expect("our registry inside");
    let pinged = || engine.system.run(&["docker", "pull", "-q", &format!("{PORT}/ours@{digest}")]).code == 0;
    eventually("Docker's daemon pulls from our registry", pinged);
    let by_tag = format!("{PORT}/ours:1");
    engine.ok(&["pull", &by_tag]);
    assert!(engine.inspect(&by_tag, "{{json .RepoDigests}}").contains(&digest));
    assert_eq!(engine.ok(&["run", "--rm", &by_tag]), "new");
    let theirs = format!("{PORT}/theirs:1");
    engine.ok(&["tag", IMAGE, &theirs]);
    let digest = pushed(&engine.ok(&["push", &theirs]));
    engine.ok(&["rmi", &theirs, &by_tag]);
    engine.ok(&["pull", "-q", &format!("{PORT}/theirs@{digest}")]);
    engine.system.run(&["sh", "-c", &format!("kill -TERM $(cat {PID})")]).ok();
    gantry_tests::command::wait(&mut inside, Duration::from_secs(20)).expect("our registry ends");
    let registry = Registry::own(&outside).expect("our registry outside");
    let name = registry.name("theirs:1");
    cli.ok(&["pull", "-q", &name]);
    assert!(cli.inspect(&name, "{{json .RepoDigests}}").contains(&digest), "{digest}");
    let back = registry.name("back:1");
    cli.ok(&["tag", &name, &back]);
    assert_eq!(pushed(&cli.ok(&["push", &back])), digest);
    cli.ok(&["rmi", &name, &back, &own]);
}

/// Pushes an image of ours into the directory of a registry; its name, and its digest there.
fn ours(world: &World, cli: &Cli<'_>, root: &std::path::Path) -> (String, String) {
    let registry = Registry::own(root).expect("our registry outside");
    let from = world.registry.name(&world.push_own("ours").expect("push"));
    cli.ok(&["pull", "-q", &from]);
    let name = registry.name("ours:1");
    cli.ok(&["tag", &from, &name]);
    let digest = pushed(&cli.ok(&["push", &name]));
    cli.ok(&["rmi", &name]);
    (from, digest)
}
