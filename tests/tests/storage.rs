//! The graphdriver: which one a daemon takes and why, what becomes of the others' images, and limits of containers' size.

use std::path::Path;
use std::process::Command;

use gantry_tests::{Cli, IMAGE, Options, World, both, command, paths, skip};

fn own() -> World {
    World::start(Options::default()).expect("a daemon of its own")
}

fn restart(world: &mut World, flags: &[&str], environment: &[(&str, &str)]) {
    world.daemon.stop().expect("stop");
    world.daemon.set_flags(flags);
    world.daemon.set_environment(environment);
    world.daemon.launch().expect("start with another driver");
}

/// Docker's client where there is one.
fn client(world: &World) -> Cli<'_> {
    world.docker().unwrap_or_else(|| {
        skip("no docker CLI on this machine");
        world.gantry()
    })
}

fn driver(world: &World) -> String {
    client(world).ok(&["info", "-f", "{{.Driver}}"])
}

/// Flags and environment of a daemon, the driver that it takes, and why.
type Way<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str, &'a str);

#[test]
fn the_driver_is_the_flags_the_environments_the_files_or_that_of_the_images_and_info_says_why() {
    let mut world = own();
    assert_eq!(driver(&world), "overlay");
    let file = world.daemon.home().join("daemon.json");
    std::fs::write(&file, r#"{"storage-driver": "vfs"}"#).expect("a file of settings");
    let config = format!("--config-file={}", file.display());
    let ways: [Way; 5] = [
        (&["--storage-driver=vfs"], &[], "vfs", "vfs was asked for"),
        (&[], &[("DOCKER_DRIVER", "vfs")], "vfs", "vfs was asked for"),
        (&["-s", "overlay2"], &[("DOCKER_DRIVER", "vfs")], "overlay", "overlay was asked for"),
        (&[&config], &[], "vfs", "vfs was asked for"),
        (&[], &[], "overlay", "overlay holds the layers of this data root"),
    ];
    for (flags, environment, name, reason) in ways {
        restart(&mut world, flags, environment);
        assert_eq!(driver(&world), name, "{flags:?} {environment:?}");
        for info in [client(&world).ok(&["info"]), world.gantry().ok(&["info"])] {
            let lines = [format!("Storage Driver: {name}"), format!("Chosen because: {reason}")];
            assert!(lines.iter().all(|line| info.contains(line)), "{info}");
        }
        assert!(world.daemon.log().contains(reason), "{}", world.daemon.log());
    }
    let mut daemon = Command::new(paths::gantry().expect("the binary"));
    daemon.args(["daemon", "--storage-driver=zfs", "--bridge=none", "--data-root"]).arg(world.daemon.home().join("x"));
    daemon.arg("--exec-root").arg(world.daemon.home().join("y"));
    let refused = command::run(&mut daemon, None, command::LIMIT).expect("a daemon that does not start");
    assert!(refused.code != 0 && refused.stderr.contains("no such graphdriver: zfs; there are overlay"), "{refused}");
}

#[test]
fn another_driver_has_its_own_images_and_leaves_those_of_the_first_as_they_were() {
    let mut world = own();
    let saved = world.daemon.home().join("saved.tar").display().to_string();
    // The client prints the names of one image in any order.
    let list = |world: &World| {
        let text = client(world).ok(&["images", "--digests", "--no-trunc"]);
        text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    {
        let cli = client(&world);
        cli.ok(&["tag", IMAGE, "mine"]);
        cli.ok(&["save", "-o", &saved, IMAGE]);
        cli.ok(&["run", "--name", "web", IMAGE, "sh", "-c", "echo kept > /file"]);
    }
    let before = list(&world);

    restart(&mut world, &["--storage-driver=vfs"], &[]);
    let cli = client(&world);
    assert_eq!(cli.ok(&["images", "-q"]), "");
    cli.run(&["start", "web"]).fails(1, "--storage-driver overlay");
    assert!(cli.ok(&["ps", "-as"]).contains("web"));
    cli.ok(&["system", "df"]);
    cli.ok(&["load", "-i", &saved]);
    assert_eq!(cli.ok(&["run", "--rm", IMAGE, "echo", "runs"]), "runs");
    assert_eq!(world.gantry().run(&["system", "fsck"]).code, 0);
    cli.ok(&["rmi", IMAGE]);
    cli.ok(&["image", "prune", "-af"]);
    assert_eq!(world.gantry().run(&["system", "fsck", "--repair"]).code, 0);

    restart(&mut world, &[], &[]);
    assert_eq!(list(&world), before);
    let cli = client(&world);
    assert_eq!(cli.ok(&["run", "--rm", "mine", "echo", "runs"]), "runs");
    assert!(cli.ok(&["diff", "web"]).contains("A /file"));
    cli.ok(&["start", "-a", "web"]);
    let fsck = world.gantry().run(&["system", "fsck"]);
    assert_eq!(fsck.code, 0, "{fsck}");
    cli.ok(&["rm", "web"]);
}

#[test]
fn a_limit_that_cannot_be_had_is_refused_with_the_way_to_have_it() {
    both(|world, cli| {
        let name = world.name("limited");
        let create = |option| cli.run(&["create", "--name", &name, "--storage-opt", option, IMAGE, "true"]);
        create("size=1G").fails(1, "graphdriver overlay cannot limit the size of a container");
        create("size=1G").fails(1, "pquota");
        create("size=lots").fails(1, "size=lots");
        create("dm.basesize=1G").fails(1, "unknown option dm.basesize");
        cli.ok(&["create", "--name", &name, "--storage-opt", "size=0", IMAGE, "true"]);
        cli.ok(&["rm", &name]);
    });
}

/// Mounts a btrfs of a loop file where the daemon's data will be; what is left of it goes with the daemon's place.
fn mount_btrfs(world: &World) -> Result<(), String> {
    let (image, root) = (world.daemon.slot().root().join("btrfs"), world.daemon.data_root());
    std::fs::remove_dir_all(&root).expect("empty the data root");
    std::fs::create_dir(&root).expect("a data root");
    std::fs::File::create(&image).and_then(|file| file.set_len(1 << 30)).expect("a loop file");
    let run = |program: &str, words: &[&Path]| {
        let output = command::run(Command::new(program).args(words), None, command::LIMIT);
        output
            .map_err(|error| format!("{error:#}"))
            .and_then(|out| if out.code == 0 { Ok(()) } else { Err(out.to_string()) })
    };
    run("mkfs.btrfs", &["-q".as_ref(), &image])?;
    run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &root])
}

#[test]
fn a_container_stops_at_its_size_also_after_restarts_and_its_neighbour_does_not() {
    let mut world = own();
    world.daemon.stop().expect("stop");
    if let Err(error) = mount_btrfs(&world) {
        skip(&format!("no btrfs for the daemon: {error}"));
        return;
    }
    world.daemon.set_flags(&["--storage-opt", "btrfs.min_space=8m", "--storage-driver=btrfs"]);
    world.daemon.launch().expect("start on btrfs");
    world.pull(IMAGE).expect("pull");
    let fill = "dd if=/dev/zero of=/fill bs=1M count=64 2>&1; rm -f /fill; sync";
    for cli in [Some(world.gantry()), world.docker()].into_iter().flatten() {
        let name = world.name("small");
        cli.ok(&["run", "--name", &name, "--storage-opt", "size=16M", IMAGE, "sh", "-c", fill]);
        assert!(cli.ok(&["logs", &name]).contains("quota exceeded"), "{}", cli.ok(&["logs", &name]));
        assert_eq!(cli.inspect(&name, "{{index .HostConfig.StorageOpt \"size\"}}"), "16M");
        assert!(!cli.ok(&["run", "--rm", IMAGE, "sh", "-c", fill]).contains("exceeded"));
        let below = cli.run(&["create", "--storage-opt", "size=4M", IMAGE, "true"]);
        assert!(below.code == 1 && below.stderr.contains("btrfs.min_space"), "{below}");
    }
    world.daemon.stop().expect("stop");
    world.daemon.launch().expect("start again");
    let cli = client(&world);
    assert!(cli.ok(&["start", "-a", "small-0"]).contains("quota exceeded"));
    world.daemon.remove_containers().expect("remove");
    world.daemon.stop().expect("stop");
    let refused = |option: &str| {
        let mut daemon = Command::new(paths::gantry().expect("the binary"));
        daemon.args(["daemon", "--bridge=none", "--storage-driver=btrfs", "--storage-opt", option, "--data-root"]);
        daemon.arg(world.daemon.data_root()).arg("--exec-root").arg(world.daemon.home().join("y"));
        command::run(&mut daemon, None, command::LIMIT).expect("a daemon that does not start").stderr
    };
    assert!(refused("btrfs.min_space=much").contains("btrfs.min_space=much"));
    assert!(refused("dm.fs=xfs").contains("dm.fs=xfs"));
}
