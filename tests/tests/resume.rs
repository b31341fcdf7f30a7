//! Pulls that break off: what came of them is kept, counted, and never fetched again.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gantry_tests::image::{self, Layer};
use gantry_tests::{Cutter, IMAGE, Options, Registry, World, command, eventually, note};
use rustix::process::{Pid, Signal, kill_process};

/// Bytes of the layer, in MB; the whole size of the promise by this variable.
const SIZE: &str = "GANTRY_RESUME_MB";
const MB: u64 = 1_000_000;

/// Busybox with a layer of so many bytes that nothing compresses.
fn noise(bytes: u64) -> image::Image {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let content: Vec<u8> = (0..bytes / 8).flat_map(|_| next()).collect();
    let (_, mut image) = image::standard().expect("images").into_iter().next().expect("busybox");
    image.layers.push(Layer::default().file("noise", 0o644, content).finish().expect("a layer"));
    image
}

/// A registry with that image, and how many bytes its blobs are.
fn registry(root: &Path, bytes: u64) -> (Registry, u64) {
    let registry = Registry::serve(root).expect("a registry");
    registry.push("noise", "latest", &noise(bytes)).expect("push");
    let size = Registry::blobs(root).expect("its blobs");
    (registry, size)
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    // It may have ended, which the test sees.
    let _ = kill_process(pid, signal);
}

#[test]
fn a_layer_comes_through_cuts_and_two_killed_daemons_and_no_byte_comes_twice() {
    let megabytes = std::env::var(SIZE).ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let store = tempfile::tempdir().expect("a directory");
    let (registry, size) = registry(store.path(), megabytes * MB);
    let line = Cutter::start(&registry.host(), megabytes * MB / 10, 60 * MB).expect("a proxy");
    let name = line.name("noise");
    for round in 1..=2 {
        let pid = world.daemon.pid().expect("a daemon");
        line.when(size * round / 3, move || send(pid, Signal::KILL));
        let cli = world.docker().unwrap_or_else(|| world.gantry());
        let out = cli.run(&["pull", &name]);
        assert_ne!(out.code, 0, "the daemon died half-way: {out}");
        world.daemon.kill9().expect("reap the daemon");
        world.daemon.launch().expect("the next daemon");
    }
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    cli.ok(&["pull", &name]);
    let fetched = line.total();
    note(&format!(
        "{size} bytes in 10 cuts and 2 killed daemons: {fetched} fetched, {:.3} of it",
        fetched as f64 / size as f64
    ));
    assert!(fetched * 100 <= size * 105, "{fetched} of {size}");
    let bytes = (megabytes * MB / 8 * 8).to_string();
    assert_eq!(cli.ok(&["run", "--rm", &name, "stat", "-c", "%s", "/noise"]), bytes);
    let checked = world.gantry().ok(&["system", "fsck"]);
    assert!(checked.ends_with("checked: clean"), "{checked}");
    let parts = world.daemon.data_root().join("parts");
    assert_eq!(std::fs::read_dir(parts).expect("the parts").count(), 0, "an image that is there needs no parts");
}

#[test]
fn an_interrupted_pull_is_counted_goes_on_from_the_byte_and_can_be_pruned() {
    let options = Options { flags: vec!["--keep-compressed-layers".to_owned()], ..Options::default() };
    let world = World::start(options).expect("a daemon of its own");
    let store = tempfile::tempdir().expect("a directory");
    let (registry, size) = registry(store.path(), 8 * MB);
    let line = Cutter::start(&registry.host(), u64::MAX, 4 * MB).expect("a proxy");
    let name = line.name("noise");
    let parts = world.daemon.data_root().join("parts");
    let part_count = || std::fs::read_dir(&parts).map_or(0, |parts| parts.filter(|part| part.is_ok()).count());
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let images = || world.daemon.get("/v1.47/system/df?type=image").expect("df").json()["LayersSize"].as_u64();
    let interrupt = || {
        let half = line.total() + size / 2;
        let mut pull = cli.command(&["pull", &name]).spawn().expect("a client");
        let pid = pull.id();
        line.when(half, move || send(pid, Signal::INT));
        assert!(!command::wait(&mut pull, command::LIMIT).expect("the client ends").success());
    };
    let before = images().expect("a number");
    interrupt();
    assert!(part_count() > 0, "what came is kept");
    assert!(images().expect("a number") >= before + size / 3, "and counted");
    let fetched = line.total();
    cli.ok(&["pull", &name]);
    let again = line.total() - fetched;
    assert!(again < size * 6 / 10, "{again} of {size} came after half had come");
    assert_eq!(part_count(), 0);
    let content = world.daemon.data_root().join("content/sha256");
    let kept = || {
        let sizes =
            std::fs::read_dir(&content).expect("the content").map(|file| file.unwrap().metadata().unwrap().len());
        sizes.max().expect("some")
    };
    assert!(kept() > 8 * MB, "the daemon was told to keep compressed layers");
    cli.ok(&["rmi", &name]);
    assert!(kept() < 8 * MB, "as long as their layers are there");
    interrupt();
    // The daemon ends the pull when its last client has left; until then its parts are in use.
    eventually("the parts are pruned, and told", || {
        let freed = cli.ok(&["image", "prune", "-f"]);
        assert!(freed.contains("Total reclaimed space"), "{freed}");
        part_count() == 0 && freed.contains("MB")
    });
    assert_eq!(cli.ok(&["run", "--rm", IMAGE, "echo", "here"]), "here");
}

#[test]
fn a_pull_that_two_clients_wait_for_goes_on_when_one_leaves_and_comes_once() {
    let world = World::start(Options::default()).expect("a daemon of its own");
    let store = tempfile::tempdir().expect("a directory");
    let (registry, size) = registry(store.path(), 8 * MB);
    let line = Cutter::start(&registry.host(), u64::MAX, 2 * MB).expect("a proxy");
    let name = line.name("noise");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let pull = || cli.command(&["pull", "-q", &name]).stdout(std::process::Stdio::null()).spawn().expect("a client");
    let (mut first, mut second) = (pull(), pull());
    // Half of it has come, and the other one waits for it, too.
    let pulls = || {
        let jobs = world.daemon.get("/jobs").expect("an answer").json();
        let running = |job: &&serde_json::Value| job["Name"] == "pull" && job["State"] != "done";
        jobs.as_array().map_or(0, |jobs| jobs.iter().filter(running).count())
    };
    gantry_tests::until(command::LIMIT, || (line.total() >= size / 2 && pulls() == 2).then_some(()))
        .expect("two pulls");
    send(first.id(), Signal::INT);
    assert!(!command::wait(&mut first, command::LIMIT).expect("the first leaves").success());
    assert!(command::wait(&mut second, command::LIMIT).expect("the second ends").success());
    let fetched = line.total();
    assert!(fetched * 100 <= size * 105, "{fetched} of {size}");
    assert_eq!(cli.ok(&["run", "--rm", &name, "stat", "-c", "%s", "/noise"]), (8 * MB).to_string());
}

#[test]
fn the_bar_of_a_slow_pull_tells_how_long_it_will_still_take_and_that_is_true() {
    let world = gantry_tests::world();
    let store = tempfile::tempdir().expect("a directory");
    let speed = 2 * MB;
    let (registry, _) = registry(store.path(), 8 * MB);
    let line = Cutter::start(&registry.host(), u64::MAX, speed).expect("a proxy");
    let name = line.name("noise");
    let cli = world.gantry();
    let terminal = gantry_tests::Terminal::start(&cli.line(&format!("pull {name}"))).expect("tmux");
    // `…: Downloading [====>   ] 2.51 MB/8.44 MB 3s`, in 80 columns.
    let told = || {
        let screen = terminal.screen();
        let bar = screen.lines().find(|line| line.contains(": Downloading ["))?;
        bar.rsplit_once(' ')?.1.strip_suffix('s')?.parse::<f64>().ok()
    };
    let left = gantry_tests::until(command::LIMIT, told).expect("a bar with a time");
    let began = Instant::now();
    let still = (8 * MB).saturating_sub(line.total()) as f64 / speed as f64;
    terminal.shows("Downloaded newer image");
    let took = began.elapsed().as_secs_f64();
    // A machine that has much else to do is not the bar's fault: what that adds, the line does not count.
    assert!(took > left / 2.0 - 1.0, "{left} s were told, and it took {took}");
    assert!(still < left * 2.0 + 1.0, "{left} s were told, and what was still to come takes {still}");
    cli.ok(&["rmi", &name]);
}

#[test]
fn a_push_goes_on_when_our_registry_is_killed_under_it() {
    let world = gantry_tests::world();
    let from = tempfile::tempdir().expect("a directory");
    let (registry, size) = registry(from.path(), 30 * MB);
    let (source, digest) = (registry.name("noise"), registry.manifest_digest("noise", "latest").expect("a digest"));
    for cli in [Some(world.gantry()), world.docker()].into_iter().flatten() {
        let to = tempfile::tempdir().expect("a directory");
        let target = Arc::new(Mutex::new(Registry::own(to.path()).expect("our registry")));
        let line = Cutter::start(&target.lock().expect("the registry").host(), u64::MAX, 100 * MB).expect("a proxy");
        let name = line.name("noise:1");
        cli.ok(&["pull", "-q", &source]);
        cli.ok(&["tag", &source, &name]);
        let (killed, root) = (Arc::clone(&target), to.path().to_owned());
        line.when_sent(size / 2, move || {
            killed.lock().expect("the registry").kill_and_serve_again(&root).expect("the next registry");
        });
        let said = cli.ok(&["push", &name]);
        assert!(said.contains(&digest), "{said}");
        let sent = line.sent();
        note(&format!("{size} bytes to a registry that was killed half-way: {sent} sent"));
        // What was on its way when it was killed, in the kernel's buffers, is lost; what it had taken is not.
        assert!(sent > size && sent - size < size / 3, "{sent} for {size}, of which it had half");
        cli.ok(&["rmi", &source, &name]);
    }
}

#[test]
fn mirrors_of_daemon_json_are_asked_in_their_order_before_the_registry() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let line = Cutter::start(&world.registry.host(), u64::MAX, 100 * MB).expect("a proxy");
    let prefix = world.registry.host();
    let location = format!("http://{}", line.name("").trim_end_matches('/'));
    let settings = serde_json::json!({"registries": [{"prefix": prefix, "mirrors": ["http://127.0.0.1:1", location]}]});
    let file = world.daemon.home().join("daemon.json");
    std::fs::write(&file, settings.to_string()).expect("write daemon.json");
    world.daemon.stop().expect("stop");
    world.daemon.set_flags(&["--config-file", &file.display().to_string()]);
    world.daemon.launch().expect("the daemon with a mirror");
    let own = world.push_own("mirrored").expect("push");
    let name = world.registry.name(&own);
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let said = cli.ok(&["pull", &name]);
    assert!(
        said.contains("Mirror http://127.0.0.1:1 failed: ") && said.contains(&format!("; trying {location}")),
        "{said}"
    );
    assert!(line.total() > 0, "it came through the mirror");
    assert_eq!(cli.ok(&["run", "--rm", &name]), "new");
}
