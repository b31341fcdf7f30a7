//! Images as files and of containers (`save`, `load`, `commit`), and giving space back (`prune`, `system df`).

use std::process::Command;

use gantry_tests::{Cli, IMAGE, World, both, command, image, paths, skip};

/// Pulls an image of one's own and returns its name.
fn pull(world: &World, cli: &Cli<'_>, base: &str) -> String {
    let name = world.registry.name(&world.push_own(base).expect("push"));
    cli.ok(&["pull", "-q", &name]);
    name
}

#[test]
fn saved_images_are_loaded_with_their_names_and_run() {
    both(|world, cli| {
        let source = pull(world, cli, "saved");
        let (one, two) = (world.name("save-a"), world.name("save-b"));
        cli.ok(&["tag", &source, &one]);
        cli.ok(&["tag", &source, &format!("{two}:v1")]);
        let file = world.daemon.home().join(format!("{one}.tar")).display().to_string();
        cli.ok(&["save", "-o", &file, &one, &format!("{two}:v1")]);
        let id = cli.inspect(&source, "{{.Id}}");
        cli.ok(&["rmi", &one, &format!("{two}:v1"), &source]);
        cli.run(&["inspect", &one]).fails(1, "no such");
        let loaded = cli.ok(&["load", "-i", &file]);
        assert!(loaded.contains(&format!("Loaded image: {one}:latest")), "{loaded}");
        assert!(loaded.contains(&format!("Loaded image: {two}:v1")), "{loaded}");
        assert_eq!(cli.inspect(&one, "{{.Id}}"), id);
        assert_eq!(cli.ok(&["run", "--rm", &one]), "new");
        // Through pipes, without a name, compressed.
        let output = command::run(&mut cli.command(&["save", &id]), None, command::LIMIT).expect("save");
        assert_eq!(output.code, 0, "{output}");
        cli.ok(&["rmi", &one, &format!("{two}:v1")]);
        command::succeed(Command::new("gzip").args(["-1f", &file]), command::LIMIT).expect("gzip");
        let bytes = std::fs::read(format!("{file}.gz")).expect("the archive");
        assert!(cli.input(&["load"], bytes).ok().contains(&format!("Loaded image: {one}:latest")));
        cli.ok(&["rmi", &one, &format!("{two}:v1")]);
    });
}

#[test]
fn what_is_no_archive_of_images_is_refused_and_the_way_out_is_named() {
    both(|world, cli| {
        cli.input(&["load"], "neither tar nor anything else, but long enough to be looked at")
            .fails(1, "image archive");
        cli.input(&["load"], [0x9b; 4096]).fails(1, "this is no tar archive");
        cli.input(&["load"], "no archive, and longer than any buffer".repeat(1 << 18)).fails(1, "image archive");
        cli.input(&["load"], image::busybox_layer().expect("a layer")).fails(1, "import");
        cli.run(&["load", "-i", "/no/such/file"]).fails(1, "/no/such/file");
        let file = world.daemon.home().join(world.name("none.tar")).display().to_string();
        cli.run(&["save", "-o", &file, &world.name("none")]).fails(1, "No such image");
    });
}

#[test]
fn a_commit_keeps_files_and_configuration_and_says_who_made_it() {
    both(|world, cli| {
        let (container, image) = (world.name("commit"), world.name("committed"));
        cli.ok(&["run", "--name", &container, "-e", "A=b", IMAGE, "sh", "-c", "echo hi > /made; rm /etc/passwd"]);
        let change = ["-c", "CMD [\"cat\", \"/made\"]", "-c", "LABEL x=y", "-a", "me", "-m", "why"];
        let id = cli.ok(&[&["commit"], &change[..], &[&container, &image]].concat());
        assert!(id.starts_with("sha256:"), "{id}");
        assert_eq!(cli.ok(&["run", "--rm", &image]), "hi");
        assert_eq!(cli.run(&["run", "--rm", &image, "ls", "/etc/passwd"]).code, 1);
        assert_eq!(cli.inspect(&image, "{{.Author}} {{.Comment}} {{index .Config.Labels \"x\"}}"), "me why y");
        assert!(cli.inspect(&image, "{{json .Config.Env}}").contains("A=b"));
        let parent = cli.inspect(IMAGE, "{{.Id}}");
        assert_eq!(cli.inspect(&image, "{{.Parent}}"), parent);
        let history = cli.ok(&["history", "--no-trunc", "--format", "{{.CreatedBy}} {{.Comment}}", &image]);
        assert!(
            history.lines().next().is_some_and(|line| line.contains("echo hi > /made") && line.ends_with("why")),
            "{history}"
        );
        cli.run(&["rmi", &parent]).fails(1, "dependent child images");
        cli.ok(&["rm", &container]);
        cli.ok(&["rmi", &image]);
        assert_eq!(cli.inspect(IMAGE, "{{.Id}}"), parent, "an image with a name stays");
    });
}

#[test]
fn a_running_container_is_committed_frozen_and_runs_on() {
    both(|world, cli| {
        let (container, image) = (world.name("live"), world.name("lived"));
        cli.ok(&["run", "-d", "--name", &container, IMAGE, "sh", "-c", "echo hi > /made; echo ready; sleep 1000"]);
        gantry_tests::eventually("it is ready", || cli.ok(&["logs", &container]).contains("ready"));
        cli.ok(&["commit", &container, &image]);
        cli.ok(&["commit", "--pause=false", &container, &format!("{image}:unfrozen")]);
        assert_eq!(cli.inspect(&container, "{{.State.Status}}"), "running");
        assert_eq!(cli.ok(&["exec", &container, "cat", "/made"]), "hi");
        assert_eq!(cli.ok(&["run", "--rm", &image, "cat", "/made"]), "hi");
        assert!(cli.ok(&["diff", &container]).contains("A /made"));
        cli.run(&["commit", "no-such-container"]).fails(1, "no-such-container");
        cli.run(&["commit", "-c", "RUN x", &container]).fails(1, "not a valid change command");
        cli.ok(&["rm", "-f", &container]);
        cli.ok(&["rmi", &image, &format!("{image}:unfrozen")]);
    });
}

/// skopeo and podman write and read the same images.
#[test]
fn archives_of_others_are_loaded_and_ours_by_others() {
    let Some(skopeo) = paths::program("skopeo") else { return skip("skopeo is not installed") };
    let podman = paths::program("podman");
    if podman.is_none() {
        skip("podman is not installed: its archives are not loaded");
    }
    both(|world, cli| {
        let name = pull(world, cli, "exchanged");
        let id = cli.inspect(&name, "{{.Id}}");
        let directory = world.daemon.home().join(world.name("exchange"));
        std::fs::create_dir_all(&directory).expect("a directory");
        let at = |file: &str| directory.join(file).display().to_string();
        cli.ok(&["save", "-o", &at("ours.tar"), &name]);
        for (to, kind) in [("docker", "docker-archive"), ("oci", "oci-archive")] {
            let target = format!("{kind}:{}:{name}:{to}", at(&format!("{to}.tar")));
            let source = format!("docker-archive:{}", at("ours.tar"));
            let mut copy = Command::new(&skopeo);
            command::succeed(copy.args(["copy", "--insecure-policy", "-q", &source, &target]), command::LIMIT)
                .expect("skopeo copy");
            let loaded = cli.ok(&["load", "-i", &at(&format!("{to}.tar"))]);
            assert!(loaded.contains(&format!("Loaded image: {name}:{to}")), "{loaded}");
            if to == "docker" {
                // For an OCI archive skopeo writes the configuration anew.
                assert_eq!(cli.inspect(&format!("{name}:{to}"), "{{.Id}}"), id);
            }
            assert_eq!(cli.ok(&["run", "--rm", &format!("{name}:{to}")]), "new");
            cli.ok(&["rmi", &format!("{name}:{to}")]);
        }
        if let Some(podman) = &podman {
            let run = |arguments: &[&str]| {
                let mut podman = Command::new(podman);
                podman
                    .args(["--root", &at("root"), "--runroot", &at("run"), "--storage-driver", "vfs"])
                    .args(arguments);
                command::succeed(&mut podman, command::LIMIT).expect("podman").ok()
            };
            run(&["load", "-q", "-i", &at("ours.tar")]);
            let hex = id.trim_start_matches("sha256:");
            assert_eq!(run(&["image", "inspect", "--format", "{{.Id}}", &name]), hex);
            for kind in ["docker-archive", "oci-archive"] {
                cli.ok(&["rmi", &name]);
                run(&["save", "-q", "--format", kind, "-o", &at(&format!("podman-{kind}.tar")), &name]);
                cli.ok(&["load", "-i", &at(&format!("podman-{kind}.tar"))]);
                assert_eq!(cli.ok(&["run", "--rm", &name]), "new", "podman save --format {kind}");
            }
            run(&["rmi", "-f", &name]);
        }
        cli.ok(&["rmi", &name]);
        std::fs::remove_dir_all(&directory).expect("remove");
    });
}

#[test]
fn df_counts_each_layer_once_and_says_what_can_be_had_back() {
    both(|world, cli| {
        let (container, image, volume) = (world.name("df"), world.name("df-image"), world.name("df-volume"));
        cli.ok(&[
            "run",
            "--name",
            &container,
            "-v",
            &format!("{volume}:/v"),
            IMAGE,
            "sh",
            "-c",
            "head -c 3000000 /dev/zero | tee /made > /v/file",
        ]);
        cli.ok(&["commit", &container, &image]);
        let whole = cli.ok(&["system", "df", "-v"]);
        let line = |name: &str| whole.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        assert!(line(&image).contains("3MB"), "the committed layer is the image's own: {whole}");
        // Blocks on the disk, with directories and logs.
        assert!(line(&container).contains("3.0"), "{whole}");
        assert!(line(&volume).contains("1") && line(&volume).contains("3.0"), "{whole}");
        let table = cli.ok(&["system", "df"]);
        let head: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(head, ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
        for kind in ["Images", "Containers", "Local Volumes", "Build Cache"] {
            assert!(table.contains(kind), "{table}");
        }
        cli.ok(&["rm", &container]);
        cli.ok(&["rmi", &image]);
        cli.ok(&["volume", "rm", &volume]);
    });
}

#[test]
fn prune_takes_what_its_filters_say_and_tells_what_came_back() {
    both(|world, cli| {
        let label = world.name("prune");
        let (kept, gone) = (world.name("kept"), world.name("gone"));
        let mark = format!("label={label}");
        cli.ok(&["create", "--name", &gone, "--label", &label, IMAGE, "true"]);
        cli.ok(&["run", "-d", "--name", &kept, "--label", &label, IMAGE, "sleep", "1000"]);
        assert!(cli.input(&["container", "prune", "--filter", &mark], "n\n").stdout.contains("Are you sure"));
        assert_eq!(cli.inspect(&gone, "{{.State.Status}}"), "created");
        let out = cli.input(&["container", "prune", "--filter", &mark], "y\n").ok();
        assert!(out.contains("Deleted Containers:") && out.contains("Total reclaimed space: 0B"), "{out}");
        cli.run(&["inspect", &gone]).fails(1, "no such");
        assert_eq!(cli.inspect(&kept, "{{.State.Status}}"), "running");

        let image = world.name("image");
        cli.ok(&["commit", "-c", &format!("LABEL {label}=1"), &kept, &image]);
        cli.ok(&["exec", &kept, "sh", "-c", "echo more > /more"]);
        cli.ok(&["commit", "-c", &format!("LABEL {label}=1"), &kept, &image]);
        let out = cli.ok(&["image", "prune", "-f", "--filter", &mark]);
        assert!(out.contains("deleted: sha256:") && !out.contains("untagged"), "the one that lost its name: {out}");
        cli.ok(&["inspect", &image]);
        let above = world.name("above");
        cli.ok(&["create", "--name", &above, &image]);
        cli.ok(&["commit", &above, &above]);
        cli.ok(&["rm", &above]);
        let out = cli.ok(&["image", "prune", "-af", "--filter", &mark]);
        let both = [&image, &above].map(|name| format!("untagged: {name}:latest"));
        assert!(both.iter().all(|line| out.contains(line)), "an image and the one that it was made on top of: {out}");
        cli.ok(&["inspect", IMAGE]);
        cli.ok(&["commit", "-c", &format!("LABEL {label}=1"), &kept, &image]);
        cli.ok(&["create", "--name", &above, &image]);
        cli.ok(&["commit", &above, &above]);
        cli.ok(&["rm", &above]);
        cli.ok(&["create", "--name", &above, &above]);
        let out = cli.ok(&["image", "prune", "-af", "--filter", &mark]);
        let untagged = format!("Deleted Images:\nuntagged: {image}:latest\n");
        assert!(out.starts_with(&untagged) && !out.contains("deleted: "), "one is made upon it that is used: {out}");
        cli.ok(&["rm", &above]);
        cli.ok(&["rmi", &above]);

        let (used, unused) = (world.name("used"), world.name("unused"));
        cli.ok(&["volume", "create", "--label", &label, &unused]);
        cli.ok(&["volume", "create", "--label", &label, &used]);
        cli.ok(&["create", "--name", &gone, "-v", &format!("{used}:/v"), IMAGE, "true"]);
        assert!(
            cli.ok(&["volume", "prune", "-f", "--filter", &mark]).starts_with("Total reclaimed space: 0B"),
            "they have names"
        );
        let out = cli.ok(&["volume", "prune", "-af", "--filter", &mark]);
        assert!(out.contains(&unused) && !out.contains(&used), "{out}");
        cli.ok(&["network", "prune", "-f"]);
        let out = cli.ok(&["system", "prune", "-f", "--filter", &format!("label={label}-none")]);
        assert_eq!(out, "Total reclaimed space: 0B");
        cli.run(&["container", "prune", "-f", "--filter", "until=yesterday"]).fails(1, "yesterday");
        cli.ok(&["rm", "-f", &kept, &gone]);
        cli.ok(&["volume", "rm", &used]);
    });
}

/// Packs an OCI layout of images for several platforms behind one index, under a name.
fn pack_platforms(platforms: &[&'static str], name: &str) -> Vec<u8> {
    use serde_json::{Value, json};
    let digest = |bytes: &[u8]| image::digest(bytes);
    let home = tempfile::tempdir().expect("a directory");
    let describe = |kind: &str, bytes: &[u8]| {
        let kind = format!("application/vnd.oci.image.{kind}.v1+json");
        json!({"mediaType": kind, "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len()})
    };
    let mut manifests = Vec::new();
    for architecture in platforms {
        let layer = image::Layer::default().file("made-for", 0o644, architecture).finish().expect("a layer");
        let own = image::Image { architecture, ..image::Image::new(json!({"Cmd": ["none"]}), vec![layer]) };
        own.write_layout(home.path()).expect("write a layout");
        let index = std::fs::read(home.path().join("index.json")).expect("read the index");
        let index: Value = serde_json::from_slice(&index).expect("an index");
        let mut entry = index["manifests"][0].clone();
        entry["annotations"] = json!({});
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        manifests.push(entry);
    }
    let nested = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    std::fs::write(home.path().join("blobs/sha256").join(digest(nested.as_bytes())), &nested).expect("write the index");
    let mut entry = describe("index", nested.as_bytes());
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    std::fs::write(home.path().join("index.json"), index).expect("write the layout's index");
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", home.path()).expect("pack the layout");
    archive.into_inner().expect("an archive")
}

#[test]
fn of_an_archive_for_several_platforms_the_one_that_is_wanted_is_loaded() {
    both(|world, cli| {
        let name = world.name("platforms");
        let archive = pack_platforms(&["arm64", "amd64", "s390x"], &format!("docker.io/library/{name}:1"));
        let shown = |platform: &[&str]| {
            cli.input(&[&["load"], platform].concat(), archive.clone()).ok();
            let shown = cli.inspect(&format!("{name}:1"), "{{.Id}} {{.Os}}/{{.Architecture}}");
            shown.split_once(' ').map(|(id, platform)| (id.to_owned(), platform.to_owned())).expect("two words")
        };
        let (own, platform) = shown(&[]);
        assert_eq!(platform, format!("linux/{}", image::architecture()));
        let (other, platform) = shown(&["--platform", "linux/s390x"]);
        assert_eq!(platform, "linux/s390x");
        cli.input(&["load", "--platform", "linux/riscv64"], archive.clone()).fails(1, "linux/riscv64");
        cli.ok(&["rmi", &own, &other]);
    });
}
