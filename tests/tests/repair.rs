//! Damage to the store: found, repaired by fetching it again, and never in the way of a start.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_tests::{Cli, IMAGE, Options, World, eventually, image};

fn own() -> World {
    World::start(Options::default()).expect("a daemon of one's own")
}

/// Pulls an image of one's own and returns its name.
fn pull(world: &World, base: &str) -> String {
    let name = world.registry.name(&world.push_own(base).expect("push"));
    world.gantry().ok(&["pull", "-q", &name]);
    name
}

/// The layers on the disk that have this file.
fn layers_with(world: &World, file: &str) -> Vec<PathBuf> {
    let layers = fs::read_dir(world.daemon.data_root().join("overlay/layers")).expect("layers");
    let layers = layers.map(|layer| layer.expect("a layer").path());
    layers.filter(|layer| layer.join("diff").join(file).is_file()).collect()
}

fn layer_with(world: &World, file: &str) -> PathBuf {
    layers_with(world, file).pop().unwrap_or_else(|| panic!("a layer with {file}"))
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[0] ^= 1;
    fs::write(path, bytes).expect("flip a bit");
}

/// `info` with its warnings, which docker writes to standard error.
#[track_caller]
fn info(cli: &Cli<'_>) -> String {
    let out = cli.run(&["info"]);
    assert_eq!(out.code, 0, "{out}");
    out.stdout + &out.stderr
}

#[track_caller]
fn clean(cli: &Cli<'_>) {
    let out = cli.run(&["system", "fsck"]);
    assert!(out.code == 0 && out.stdout.trim_end().ends_with("checked: clean"), "{out}");
}

#[test]
fn what_is_damaged_is_fetched_again_while_a_container_runs_on_it() {
    let world = own();
    let cli = world.gantry();
    let name = pull(&world, "damaged");
    cli.ok(&["run", "-d", "--name", "user", &name, "sh", "-c", "cat /own > /seen; sleep 1000"]);
    eventually("it has read the file", || cli.run(&["exec", "user", "cat", "/seen"]).code == 0);
    clean(&cli);
    let own = layer_with(&world, "own").join("diff/own");
    let whole = fs::read(&own).expect("the file");
    flip(&own);
    let out = cli.run(&["system", "fsck", "--format", "json"]);
    assert_eq!(out.code, 1, "{out}");
    for (line, kind) in out.stdout.lines().zip(["layer", "image"]) {
        let finding: serde_json::Value = serde_json::from_str(line).expect("a finding a line");
        assert_eq!((&finding["Kind"], &finding["Outcome"]), (&kind.into(), &"found".into()), "{line}");
    }
    assert_eq!(out.stdout.lines().count(), 2, "{out}");
    let said = info(&cli);
    assert!(said.contains("is damaged") && said.contains("gantry system fsck --repair"), "{said}");
    assert_ne!(fs::read(&own).expect("the file"), whole, "a check changes nothing");
    let out = cli.run(&["system", "fsck", "--repair"]);
    assert!(
        out.code == 0 && out.stdout.contains("fetched again from") && out.stdout.contains("restart what runs"),
        "{out}"
    );
    assert_eq!(fs::read(&own).expect("the file"), whole);
    clean(&cli);
    assert_eq!(cli.inspect("user", "{{.State.Status}}"), "running");
    cli.ok(&["exec", "user", "sh", "-c", "ls -l / && cat /etc/passwd > /dev/null && cat /data/new"]);
    cli.ok(&["restart", "-t", "0", "user"]);
    assert_eq!(cli.ok(&["exec", "user", "cat", "/own"]).as_bytes(), whole);
    assert!(!info(&cli).contains("is damaged"));
    // Documents: the configuration is in memory, the manifest is fetched.
    let documents = world.daemon.data_root().join("content/sha256");
    let config = documents.join(cli.inspect(&name, "{{.Id}}").trim_start_matches("sha256:"));
    let digest = cli.inspect(&name, "{{index .RepoDigests 0}}");
    let manifest = documents.join(digest.rsplit(':').next().expect("a digest"));
    flip(&config);
    fs::remove_file(&manifest).expect("remove the manifest");
    assert_eq!(cli.run(&["system", "fsck"]).code, 1);
    let out = cli.run(&["system", "fsck", "--repair"]);
    assert!(out.code == 0 && out.stdout.contains("written again") && out.stdout.contains("fetched again"), "{out}");
    assert!(manifest.is_file());
    clean(&cli);
}

#[test]
fn a_pull_of_a_damaged_image_repairs_it() {
    let mut world = own();
    let name = pull(&world, "broken");
    let layer = layer_with(&world, "own");
    for (client, part) in [("gantry", "diff"), ("docker", "recipe"), ("docker", "")] {
        let cli = if client == "docker" { world.docker().unwrap_or_else(|| world.gantry()) } else { world.gantry() };
        let path = layer.join(part);
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("damage");
        if part != "recipe" {
            let out = cli.run(&["run", "--rm", &name]);
            assert!(out.code != 0 && out.stderr.contains("damaged"), "without {part:?}: {out}");
        }
        let out = cli.ok(&["pull", &name]);
        assert!(out.contains("Already exists") && out.contains("Pull complete"), "only that layer comes: {out}");
        assert_eq!(cli.ok(&["run", "--rm", &name]), "new");
        assert!(cli.ok(&["pull", &name]).contains("Image is up to date"));
        clean(&world.gantry());
    }
    // What a check found is brought as well; and a restart does not forget a lost layer.
    flip(&layer.join("diff/own"));
    assert_eq!(world.gantry().run(&["system", "fsck"]).code, 1);
    world.gantry().ok(&["pull", &name]);
    clean(&world.gantry());
    fs::remove_dir_all(&layer).expect("damage");
    let id = world.gantry().inspect(&name, "{{.Id}}");
    world.daemon.stop().expect("stop");
    fs::write(world.daemon.data_root().join("content/sha256").join(id.trim_start_matches("sha256:")), "")
        .expect("damage");
    world.daemon.launch().expect("a damaged image is no reason not to start");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    assert!(info(&cli).contains("is damaged"));
    assert!(cli.ok(&["images"]).contains("busybox"));
    // `docker run` itself pulls what it finds no configuration of.
    assert_eq!(cli.ok(&["run", "--rm", "-q", &name]), "new");
    clean(&world.gantry());
}

#[test]
fn what_no_registry_has_is_kept_until_a_person_says_otherwise() {
    let world = own();
    let cli = world.gantry();
    let archive = image::Layer::default().file("file", 0o644, "content").finish().expect("an archive");
    assert!(cli.input(&["import", "-", "mine"], archive).ok().starts_with("sha256:"));
    cli.ok(&["create", "--name", "user", "mine", "/file"]);
    flip(&layer_with(&world, "file").join("diff/file"));
    let out = cli.run(&["system", "fsck", "--repair"]);
    assert!(out.code == 1 && out.stdout.contains("no registry is known") && out.stdout.contains("--remove"), "{out}");
    cli.run(&["system", "fsck", "--remove"]).fails(1, "--repair");
    let out = cli.run(&["system", "fsck", "--repair", "--remove"]);
    assert!(out.code == 1 && out.stdout.contains("kept:"), "{out}");
    cli.ok(&["rm", "user"]);
    let out = cli.run(&["system", "fsck", "--repair", "--remove"]);
    assert!(out.code == 0 && out.stdout.contains("removed: pull or load mine:latest again"), "{out}");
    cli.run(&["inspect", "mine"]).fails(1, "no such");
    clean(&cli);
}

#[test]
fn a_damaged_database_is_put_aside_and_images_and_running_containers_are_found_again() {
    let mut world = own();
    let data = world.daemon.data_root();
    world.gantry().ok(&["create", "--name", "early", IMAGE, "sleep", "1000"]);
    world.gantry().ok(&["create", "--name", "removed", IMAGE, "true"]);
    world.daemon.stop().expect("a daemon that stops makes a backup");
    assert!(data.join("gantry.db.backup").is_file());
    world.daemon.launch().expect("start again");
    world.gantry().ok(&["start", "early"]);
    let address = world.gantry().inspect("early", "{{.NetworkSettings.IPAddress}}");
    assert!(!address.is_empty());
    let young = pull(&world, "young");
    let id = world.gantry().inspect(&young, "{{.Id}}");
    world.gantry().ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-v",
        "data:/v",
        &young,
        "sh",
        "-c",
        "echo hi > /v/f; sleep 1000",
    ]);
    world.gantry().ok(&["create", "--name", "idle", IMAGE, "true"]);
    let pid = world.gantry().inspect("web", "{{.State.Pid}}");
    for keep_backup in [true, false] {
        if keep_backup {
            // The backup knows it still.
            world.gantry().ok(&["rm", "-f", "removed"]);
        }
        world.daemon.kill9().expect("kill -9");
        if !keep_backup {
            fs::remove_file(data.join("gantry.db.backup")).expect("remove the backup");
        }
        // SQLite would find all of it in its log.
        fs::remove_file(data.join("gantry.db-wal")).expect("remove the log");
        fs::write(data.join("gantry.db"), "garbage").expect("damage");
        world.daemon.launch().expect("a damaged database is no reason not to start");
        let cli = world.docker().unwrap_or_else(|| world.gantry());
        let said = info(&cli);
        assert!(said.contains("the database is damaged") && said.contains("quarantine"), "{said}");
        assert_eq!(cli.inspect("web", "{{.State.Running}} {{.State.Pid}}"), format!("true {pid}"));
        assert_eq!(cli.ok(&["exec", "web", "cat", "/v/f"]), "hi");
        assert_eq!(cli.inspect("idle", "{{.State.Status}}"), "created");
        cli.run(&["inspect", "removed"]).fails(1, "no such");
        // The backup does not know that it was started.
        assert_eq!(
            cli.inspect("early", "{{.State.Running}} {{.NetworkSettings.IPAddress}}"),
            format!("true {address}")
        );
        cli.ok(&["exec", "early", "ls", "/sys/class/net/eth0"]);
        assert_eq!(cli.ok(&["run", "--rm", &id]), "new");
        assert_eq!(cli.ok(&["volume", "ls", "-q"]), "data");
        clean(&world.gantry());
    }
    let cli = world.gantry();
    // Its image's name was lost with the database and comes with a pull.
    cli.ok(&["pull", "-q", &young]);
    assert_eq!(cli.inspect(&young, "{{.Id}}"), id);
    assert_eq!(fs::read_dir(data.join("quarantine")).expect("the quarantine").count(), 2);
    cli.ok(&["rm", "-f", "web", "idle", "early"]);
    clean(&cli);
}

#[test]
fn volumes_of_a_container_that_a_damaged_database_lost_are_not_pruned() {
    let mut world = own();
    let data = world.daemon.data_root();
    let id = world.gantry().ok(&["create", "-v", "mine:/v", IMAGE, "true"]);
    world.daemon.kill9().expect("kill -9");
    for file in ["gantry.db.backup", "gantry.db-wal", &format!("containers/{id}/record.json")] {
        fs::remove_file(data.join(file)).ok();
    }
    fs::write(data.join("gantry.db"), "garbage").expect("damage");
    world.daemon.launch().expect("a damaged database is no reason not to start");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    cli.run(&["volume", "prune", "-a", "-f"]).fails(1, "was lost with a damaged database");
    assert_eq!(cli.ok(&["volume", "ls", "-q"]), "mine");
    let out = world.gantry().run(&["system", "fsck", "--repair", "--remove"]);
    assert!(out.stdout.contains(&id), "{out}");
    cli.ok(&["volume", "prune", "-a", "-f"]);
    assert_eq!(cli.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn a_healthy_store_has_no_findings_whatever_was_done_with_it() {
    let world = own();
    let cli = world.gantry();
    let name = pull(&world, "healthy");
    cli.ok(&["run", "-d", "--name", "runs", &name, "sh", "-c", "echo x > /x; echo ready; sleep 1000"]);
    eventually("it is ready", || cli.ok(&["logs", "runs"]).contains("ready"));
    clean(&cli);
    cli.ok(&["commit", "runs", "committed:1"]);
    cli.ok(&["tag", "committed:1", "committed:2"]);
    let file = world.daemon.home().join("saved.tar").display().to_string();
    cli.ok(&["save", "-o", &file, "committed:1", &name]);
    let archive = image::Layer::default().file("file", 0o644, "content").finish().expect("an archive");
    cli.input(&["import", "-", "imported"], archive).ok();
    clean(&cli);
    cli.ok(&["rmi", "committed:1", "committed:2"]);
    cli.ok(&["load", "-i", &file]);
    clean(&cli);
    cli.ok(&["rm", "-f", "runs"]);
    cli.ok(&["rmi", "-f", &name, "committed:1"]);
    cli.ok(&["image", "prune", "-af"]);
    clean(&cli);
    assert_eq!(fs::read_dir(world.daemon.data_root().join("content/sha256")).expect("documents").count(), 0);
}
