//! `kill -9` of the daemon amid pulls and loads: the next one serves, has every image whole, and its store is clean.

use std::process::Stdio;
use std::time::Instant;

use gantry_tests::image::{self, Layer};
use gantry_tests::{Cli, IMAGE, Options, World, command, until};

/// Daemons that are killed, half of them while they pull, the others while they load.
const ROUNDS: u64 = 6;

/// Busybox with three layers of many files.
fn large() -> image::Image {
    let (_, mut image) = image::standard().expect("images").into_iter().next().expect("busybox");
    for number in 0..3 {
        let layer = (0..400).fold(Layer::default(), |layer, file| {
            let text = format!("{number} {file}\n").repeat(400);
            layer.file(&format!("many/{number}/{}/{file}", file % 20), 0o644, text)
        });
        image.layers.push(layer.finish().expect("a layer"));
    }
    image
}

#[test]
fn a_daemon_that_is_killed_amid_a_pull_or_load_leaves_a_clean_store() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let name = world.registry.name("large");
    world.registry.push("large", "latest", &large()).expect("push");
    let archive = world.daemon.home().join("large.tar").display().to_string();
    let client = |world: &World, arguments: &[&str]| {
        let cli: Cli<'_> = world.docker().unwrap_or_else(|| world.gantry());
        cli.command(arguments)
    };
    // How long they take when nobody disturbs them, and a little more.
    let longest = {
        let cli = world.gantry();
        let time = |arguments: &[&str]| {
            let started = Instant::now();
            assert!(client(&world, arguments).stdout(Stdio::null()).status().expect("a client").success());
            started.elapsed() * 5 / 4
        };
        // The first one warms up.
        cli.ok(&["pull", "-q", &name]);
        cli.ok(&["save", "-o", &archive, &name]);
        cli.ok(&["rmi", &name]);
        let pull = time(&["pull", "-q", &name]);
        cli.ok(&["rmi", &name]);
        let load = time(&["load", "-i", &archive]);
        cli.ok(&["rmi", &name]);
        [pull, load]
    };
    // Instants without a pattern, and the same every time.
    let mut random = 0x6761_6e74_7279_u64;
    let (mut before, mut after) = (0, 0);
    for round in 0..ROUNDS {
        let arguments = if round % 2 == 0 { ["pull", "-q", &name] } else { ["load", "-i", &archive] };
        let mut child = client(&world, &arguments);
        let mut child =
            child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a client");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let longest = longest[usize::from(round % 2 == 1)];
        let instant = longest.mul_f64((random >> 33) as f64 / f64::from(1_u32 << 31));
        // Not for something to happen: this is the instant.
        std::thread::sleep(instant);
        world.daemon.kill9().expect("kill -9");
        let reported = command::wait(&mut child, command::LIMIT).expect("the client ends").success();
        world.daemon.launch().expect("the next daemon");
        let cli = world.gantry();
        let there = cli.run(&["inspect", &name]).code == 0;
        assert!(there || !reported, "round {round}: reported as done after {instant:?}, and not there");
        let checked = cli.run(&["system", "fsck"]);
        assert!(checked.ok().ends_with("checked: clean"), "round {round}, killed after {instant:?}: {checked}");
        let store =
            world.daemon.data_root().join(cli.ok(&["info", "-f", "{{.Driver}}"]).replace("overlay2", "overlay"));
        for litter in ["drafts", "trash"].map(|litter| store.join(litter)) {
            let is_empty = || std::fs::read_dir(&litter).is_ok_and(|mut all| all.next().is_none());
            if until(command::LIMIT, || is_empty().then_some(())).is_none() {
                let left = std::process::Command::new("find").arg(&litter).output().expect("find").stdout;
                panic!("round {round}, killed after {instant:?}: left: {}", String::from_utf8_lossy(&left));
            }
        }
        if there {
            after += 1;
            assert_eq!(cli.ok(&["run", "--rm", &name, "sh", "-c", "cat /many/2/19/399 | wc -l"]), "400");
            cli.ok(&["rmi", &name]);
        } else {
            before += 1;
        }
    }
    println!(
        "{ROUNDS} daemons were killed amid pulls and loads, {before} before and {after} after the image was there"
    );
    let cli = world.gantry();
    cli.ok(&["pull", "-q", &name]);
    assert_eq!(cli.ok(&["run", "--rm", &name, "ls", "/many"]), "0\n1\n2");
    assert_eq!(cli.ok(&["run", "--rm", IMAGE, "echo", "here"]), "here");
    assert!(cli.ok(&["system", "fsck"]).ends_with("checked: clean"));
}
