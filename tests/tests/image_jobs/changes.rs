//! `diff` and `commit` tell what somebody changed, not what the engine made for its own mounts.

use gantry_tests::image::{Image, Layer};
use gantry_tests::{Cli, IMAGE, World, both};
use serde_json::json;

/// An image of one program and nothing else: no `/etc`, no `/dev`.
fn bare(world: &World, cli: &Cli<'_>) -> String {
    let busybox = std::fs::read(gantry_tests::paths::need("busybox").expect("busybox")).expect("its bytes");
    let layer = Layer::default().file("busybox", 0o755, busybox).finish().expect("a layer");
    let image = Image::new(json!({"Entrypoint": ["/busybox"], "Cmd": ["true"]}), vec![layer]);
    world.registry.push("bare", "latest", &image).expect("push");
    let name = world.registry.name("bare");
    cli.ok(&["pull", "-q", &name]);
    name
}

fn layers(cli: &Cli<'_>, image: &str) -> usize {
    cli.inspect(image, "{{join .RootFS.Layers \" \"}}").split(' ').count()
}

#[test]
fn what_the_engine_made_is_neither_told_nor_committed() {
    both(|world, cli| {
        for base in [bare(world, cli), IMAGE.to_owned()] {
            let (container, image) = (world.name("unchanged"), world.name("unchanged-image"));
            cli.ok(&["run", "--name", &container, &base, "true"]);
            assert_eq!(cli.ok(&["diff", &container]), "", "{base}");
            cli.ok(&["commit", &container, &image]);
            assert_eq!(layers(cli, &image), layers(cli, &base), "nothing changed, so there is no layer: {base}");
            cli.ok(&["rm", &container]);
            cli.ok(&["rmi", &image]);
        }
    });
}

#[test]
fn what_somebody_changed_is_told_also_beside_it() {
    both(|world, cli| {
        let bare = bare(world, cli);
        let (container, image) = (world.name("changed"), world.name("changed-image"));
        let script = "echo own > /etc/own; /busybox mkdir /new; echo x > /new/file";
        cli.ok(&["run", "--name", &container, "-v", "/data", &bare, "sh", "-c", script]);
        assert_eq!(cli.ok(&["diff", &container]), "A /data\nC /etc\nA /etc/own\nA /new\nA /new/file");
        cli.ok(&["commit", &container, &image]);
        let kept = cli.ok(&["run", "--rm", "--network", "none", &image, "cat", "/etc/own", "/new/file"]);
        assert_eq!(kept, "own\nx");
        let created = cli.ok(&["create", &image]);
        let archive = cli.run(&["export", &created]);
        let mut archive = tar::Archive::new(archive.bytes.as_slice());
        let names: Vec<_> = archive
            .entries()
            .expect("a tar")
            .map(|e| e.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert!(names.iter().any(|name| name.ends_with("etc/own")), "{names:?}");
        assert!(
            !names.iter().any(|name| name.ends_with("etc/hosts")),
            "the engine's files are not in the image: {names:?}"
        );
        cli.ok(&["rm", &created, &container]);
        cli.ok(&["rmi", &image]);
    });
}

#[test]
fn programs_see_that_they_are_in_a_container() {
    both(|_, cli| {
        assert_eq!(cli.ok(&["run", "--rm", IMAGE, "stat", "-c", "%s %u", "/.dockerenv"]), "0 0");
        assert_eq!(cli.ok(&["run", "--rm", "--read-only", IMAGE, "test", "-f", "/.dockerenv"]), "");
    });
}
