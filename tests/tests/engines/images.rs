//! Images go from other engines to ours and back: the same ids, the same files, and they run.

use std::path::PathBuf;
use std::process::Command;

use gantry_tests::{Cli, World, command};

use crate::Origin;
use crate::engine::{Engine, IMAGE};
use crate::system::System;

/// Where archives lie in a system.
const ARCHIVES: &str = "/opt/engines";

/// What an engine shows of an image, and ours: an id by its digits.
fn id(text: &str) -> &str {
    text.trim().trim_start_matches("sha256:")
}

fn outside(system: &System, name: &str) -> String {
    system.file(&format!("{ARCHIVES}/{name}")).display().to_string()
}

/// Saves two images of a foreign engine in every format that it has, loads them here; and images made here there.
pub fn exchange(engine: &Engine, formats: &[&[&str]]) {
    let world = gantry_tests::world();
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let (theirs, ours) = (world.name("localhost/theirs") + ":v1", world.name("localhost/ours") + ":v1");
    let made = world.name("made");
    engine.ok(&["run", "--name", &made, IMAGE, "sh", "-c", "echo theirs > /made; rm /etc/group; ln /made /again"]);
    engine.ok(&["commit", &made, &theirs]);
    engine.ok(&["rm", &made]);
    let wanted = [&theirs, IMAGE].map(|name| engine.inspect(name, "{{.Id}}"));
    for (number, format) in formats.iter().enumerate() {
        let file = format!("theirs-{number}.tar");
        let inside = format!("{ARCHIVES}/{file}");
        engine.ok(&[&["save"], *format, &["-o", &inside, &theirs]].concat());
        let loaded = cli.ok(&["load", "-i", &outside(&engine.system, &file)]);
        assert!(loaded.contains(&theirs), "{format:?}: {loaded}");
        assert_eq!(id(&cli.inspect(&theirs, "{{.Id}}")), id(&wanted[0]), "{format:?}");
        let seen = cli.ok(&[
            "run",
            "--rm",
            &theirs,
            "sh",
            "-c",
            "cat /again; stat -c %h /made; ls /etc/group 2> /dev/null | wc -l",
        ]);
        assert_eq!(seen, "theirs\n2\n0", "{format:?}");
        cli.ok(&["rmi", &theirs]);
    }
    back(&world, &cli, engine, &ours);
    engine.ok(&["rmi", &theirs]);
}

fn back(world: &World, cli: &Cli<'_>, engine: &Engine, ours: &str) {
    let (base, made, second) = (gantry_tests::IMAGE, world.name("made-here"), ours.replace(":v1", ":v2"));
    cli.ok(&[
        "run",
        "--name",
        &made,
        base,
        "sh",
        "-c",
        "echo ours > /made; rm /etc/group; mkdir /new; echo x > /new/x",
    ]);
    cli.ok(&["commit", "-c", "CMD [\"cat\", \"/made\"]", &made, ours]);
    cli.ok(&["commit", "-c", "LABEL second=1", &made, &second]);
    cli.ok(&["rm", &made]);
    cli.ok(&["save", "-o", &outside(&engine.system, "ours.tar"), ours, &second]);
    engine.ok(&["load", "-i", &format!("{ARCHIVES}/ours.tar")]);
    for name in [ours, &second] {
        assert_eq!(id(&engine.inspect(name, "{{.Id}}")), id(&cli.inspect(name, "{{.Id}}")), "{name}");
    }
    let seen = engine.ok(&["run", "--rm", ours, "sh", "-c", "cat /made /new/x; ls /etc/group 2> /dev/null | wc -l"]);
    assert_eq!(seen, "ours\nx\n0");
    engine.ok(&["rmi", ours, &second]);
    cli.ok(&["rmi", ours, &second]);
}

/// skopeo reads what ours saves as either kind of archive, and what it writes is loaded: compressed in each way, also as a
/// directory.
pub fn skopeo(from: Origin) {
    let Some(system) = from.system("skopeo") else { return };
    let world = gantry_tests::world();
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let pushed = world.push_own("skopeo").expect("push");
    let name = world.registry.name(&pushed);
    cli.ok(&["pull", "-q", &name]);
    let (image, diff_ids) = (cli.inspect(&name, "{{.Id}}"), cli.inspect(&name, "{{join .RootFS.Layers \" \"}}"));
    let digest = world.registry.manifest_digest(&pushed, "latest").expect("a digest");
    assert!(
        cli.inspect(&name, "{{json .RepoDigests}}").contains(&digest),
        "the digest that was pulled is the one shown"
    );
    cli.ok(&["save", "-o", &outside(&system, "ours.tar"), &name]);
    let run = |arguments: &[&str]| system.run(&[&["skopeo", "--insecure-policy"], arguments].concat()).ok();
    for kind in ["docker-archive", "oci-archive"] {
        let source = format!("{kind}:{ARCHIVES}/ours.tar");
        let said: serde_json::Value = serde_json::from_str(&run(&["inspect", &source])).expect("JSON");
        let layers: Vec<_> = said["Layers"].as_array().expect("layers").iter().filter_map(|l| l.as_str()).collect();
        assert_eq!(layers.join(" "), diff_ids, "{kind}");
        let config = run(&["inspect", "--config", "--raw", &source]);
        assert_eq!(
            gantry_tests::image::digest(config.as_bytes()),
            id(&image),
            "{kind}: the configuration byte for byte"
        );
    }
    let formats: [(&str, &[&str]); 4] = [
        ("docker-archive", &[]),
        ("oci-archive", &["--dest-compress-format", "gzip"]),
        ("oci-archive", &["--dest-compress-format", "zstd"]),
        ("oci", &["--dest-compress-format", "gzip"]),
    ];
    for (number, (kind, flags)) in formats.into_iter().enumerate() {
        let (file, copy) = (format!("copied-{number}"), format!("{name}:copy{number}"));
        let source = format!("oci-archive:{ARCHIVES}/ours.tar");
        let target = format!("{kind}:{ARCHIVES}/{file}:{copy}");
        run(&[&["copy", "-q"], flags, &[&source, &target]].concat());
        let archive = if kind == "oci" { packed(&system, &file) } else { outside(&system, &file) };
        let loaded = cli.ok(&["load", "-i", &archive]);
        assert!(loaded.contains(&copy), "{kind} {flags:?}: {loaded}");
        assert_eq!(cli.inspect(&copy, "{{.Id}}"), image, "{kind} {flags:?}");
        assert_eq!(cli.ok(&["run", "--rm", &copy]), "new");
        if kind == "oci-archive" {
            // Its manifest of compressed layers goes on as it came.
            cli.ok(&["save", "-o", &outside(&system, "again.tar"), &copy]);
            let manifest = |archive: &str| run(&["inspect", "--raw", &format!("oci-archive:{ARCHIVES}/{archive}")]);
            assert_eq!(manifest("again.tar"), manifest(&file), "{flags:?}");
        }
        cli.ok(&["rmi", &copy]);
    }
    cli.ok(&["rmi", &name]);
}

/// A directory as an archive.
fn packed(system: &System, name: &str) -> String {
    let directory = PathBuf::from(outside(system, name));
    let archive = directory.with_extension("tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&directory).arg("-cf").arg(&archive).arg(".");
    command::succeed(&mut tar, command::LIMIT).expect("tar");
    archive.display().to_string()
}
