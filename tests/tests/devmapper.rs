//! A daemon with `--storage-driver devmapper`: what a person does works as with any driver, and no device outlives its use.

use std::path::Path;

use gantry_tests::{IMAGE, Options, World, eventually};

/// `None`, said loudly, where the kernel has no device mapper.
fn world() -> Option<World> {
    if !Path::new("/dev/mapper/control").exists() {
        gantry_tests::skip("the graphdriver devmapper: the kernel has no device mapper");
        return None;
    }
    let flags = ["--storage-driver=devmapper", "--storage-opt=dm.basesize=256m"].map(str::to_owned);
    Some(World::start(Options { flags: flags.into(), ..Options::default() }).expect("a daemon of its own"))
}

/// Names of the device mapper's devices of one pool.
fn devices(pool: &str) -> Vec<String> {
    let prefix = pool.strip_suffix("pool").expect("a pool's name");
    let entries = std::fs::read_dir("/sys/block").expect("/sys/block").flatten();
    let names = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("dm/name")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn containers_run_on_thin_devices_that_are_there_as_long_as_they_are_needed() {
    let Some(mut world) = world() else { return };
    let info = world.gantry().ok(&["info"]);
    assert!(info.contains("Storage Driver: devmapper"), "{info}");
    assert!(info.contains("Backing Filesystem: ext4") && info.contains("Data Space Available: "), "{info}");
    let line = info.lines().find_map(|line| line.trim().strip_prefix("Pool Name: ")).expect("a pool").to_owned();
    let cli = world.gantry();
    let script = "echo kept > /kept; mount | grep ' on / '; trap 'exit 3' TERM; while :; do sleep 0.1; done";
    cli.ok(&["run", "-d", "--name", "web", IMAGE, "sh", "-c", script]);
    eventually("it wrote", || cli.run(&["exec", "web", "cat", "/kept"]).code == 0);
    assert!(cli.ok(&["logs", "web"]).contains("type ext4 (rw"), "{}", cli.ok(&["logs", "web"]));
    assert_eq!(cli.ok(&["exec", "web", "ls", "/"]).lines().filter(|name| *name == "lost+found").count(), 0);
    assert!(cli.ok(&["diff", "web"]).contains("A /kept"));
    assert_eq!(cli.ok(&["run", "--rm", "--read-only", IMAGE, "sh", "-c", "touch /x 2>/dev/null || echo no"]), "no");
    // What was removed goes off the path.
    eventually("the pool and the container's", || devices(&line).len() == 2);
    world.daemon.kill9().expect("kill");
    // A device of something that was under way may be left until the next start.
    assert!(devices(&line).len() >= 2, "the container runs on, on its device: {:?}", devices(&line));
    world.daemon.launch().expect("start again");
    let cli = world.gantry();
    eventually("the pool and the container's, again", || devices(&line).len() == 2);
    assert_eq!(cli.ok(&["exec", "web", "cat", "/kept"]), "kept");
    cli.ok(&["stop", "web"]);
    assert_eq!(cli.inspect("web", "{{.State.ExitCode}}"), "3");
    eventually("its device is gone", || devices(&line) == [line.clone()]);
    cli.ok(&["commit", "web", "copy"]);
    assert_eq!(cli.ok(&["run", "--rm", "copy", "cat", "/kept"]), "kept");
    let target = world.daemon.home().join("copied");
    cli.ok(&["cp", "web:/kept", &target.to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(&target).expect("copied"), "kept\n");
    cli.ok(&["start", "web"]);
    assert_eq!(cli.ok(&["exec", "web", "cat", "/kept"]), "kept");
    cli.ok(&["rm", "-f", "web"]);
    cli.ok(&["rmi", "copy"]);
    drop(world);
    eventually("nothing is left", || devices(&line).is_empty());
}
