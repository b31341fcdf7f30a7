//! What goes wrong is said where an engine looks for it, in the words that it knows.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use common::World;
use serde_json::{Value, json};

#[track_caller]
fn refused(world: &World, args: &[&str], code: i32, words: &str) {
    let output = world.command(args);
    assert_eq!(output.code, code, "{args:?}: {output:?}");
    assert!(output.err.replace("\\\"", "\"").contains(words), "{args:?}: {output:?}");
}

#[test]
fn errors_have_the_words_and_codes_that_engines_know() {
    let mut world = World::new();
    let id = world.id();
    refused(&world, &["state", &id], 1, "does not exist");
    refused(&world, &["kill", &id, "9"], 1, "does not exist");
    refused(&world, &["exec", &id, "true"], 255, "does not exist");
    refused(&world, &["delete", &id], 1, "does not exist");
    world.program(&["nonesuch"]);
    refused(&world, &["run", &id], 1, "exec: \"nonesuch\": executable file not found in $PATH");
    world.program(&["/etc"]);
    refused(&world, &["run", &id], 1, "permission denied");
    let id = world.sleeping();
    refused(&world, &["exec", &id, "nonesuch"], 255, "exec: \"nonesuch\": executable file not found in $PATH");
    refused(&world, &["create", &id], 1, "already exists");
    refused(&world, &["start", &id], 1, "running");
    refused(&world, &["kill", &id, "SIGNOPE"], 1, "unknown signal \"SIGNOPE\"");
    refused(&world, &["exec", &id], 255, "args cannot be empty");
    refused(&world, &["checkpoint", "--image-path", "/x", &id], 1, "not supported");
    refused(&world, &["restore", "--bundle", "/x", &id], 1, "not supported");
    refused(&world, &["create", "../x"], 1, "invalid container ID format");
    refused(&world, &["create", "--bundle", "/nonesuch", "x"], 1, "config.json not found");
    refused(&world, &["--systemd-cgroup", "create", "x"], 1, "systemd");
    refused(&world, &["frob"], 1, "frob");
    refused(&world, &["create", "--frob", "x"], 1, "--frob");
    refused(&world, &["create"], 1, "CONTAINER");
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_with_its_place() {
    let mut world = World::new();
    let id = world.id();
    let file = world.bundle().join("config.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (text, words) in [
        ("{\"ociVersion\": \"1.0.0\",\n  oops}", "line 2 column 3"),
        ("", "line 1 column 0"),
        ("{\"process\": {\"args\": [1]}}", "line 1 column 23"),
        ("7", "line 1 column 1"),
    ] {
        std::fs::write(&file, text).unwrap();
        refused(&world, &["create", &id], 1, words);
    }
    let changes: [(&str, Value, &str); 8] = [
        ("/ociVersion", json!("2.0.0"), "ociVersion \"2.0.0\""),
        ("/ociVersion", json!(""), "ociVersion \"\""),
        ("/root", Value::Null, "no root.path"),
        ("/root/path", json!("nowhere"), "nowhere"),
        ("/root/path", json!("/"), "root.path is the host's /"),
        ("/process/args", json!([]), "no command specified"),
        ("/process/cwd", json!("relative"), "relative"),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "astral"}]), "astral"),
    ];
    for (place, value, words) in changes {
        let mut config = good.clone();
        *config.pointer_mut(place).unwrap() = value;
        std::fs::write(&file, config.to_string()).unwrap();
        refused(&world, &["create", &id], 1, words);
        refused(&world, &["state", &id], 1, "does not exist");
    }
    std::fs::write(&file, good.to_string()).unwrap();
}

#[test]
fn a_log_file_gets_json_and_standard_error_the_words() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["nonesuch"]);
    let log = world.file("log.json");
    let output = world.command(&["--log", &log, "--log-format=json", "create", &id]);
    assert_eq!(output.code, 1);
    let text = std::fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(format!("{}\n", last["msg"].as_str().unwrap()), output.err);
    world.command(&["-log", &log, "create", &id]);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.lines().last().unwrap().contains(" level=error msg=\""), "{text}");
}

#[test]
fn a_failed_create_leaves_nothing() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["nonesuch"]);
    assert_eq!(world.command(&["create", &id]).code, 1);
    assert_eq!(world.ok(&["list", "-q"]), "");
    world.program(&["true"]);
    world.ok(&["run", &id]);
}

#[test]
fn spec_does_not_overwrite_and_its_rootless_form_has_the_callers_ids() {
    let world = World::new();
    refused(&world, &["spec"], 1, "exists");
    let dir = tempfile::tempdir().unwrap();
    world.ok(&["spec", "-rootless", "-b", dir.path().to_str().unwrap()]);
    let config: Value = serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 0, "size": 1}]));
}

#[test]
fn versions_and_features_are_told() {
    let world = World::new();
    for flag in ["--version", "-v", "-version"] {
        let text = world.ok(&[flag]);
        assert!(text.starts_with("gantry-runtime version ") && text.contains("\nspec: 1.3.0\n"), "{text}");
    }
    let features: Value = serde_json::from_str(&world.ok(&["features"])).unwrap();
    assert_eq!(features["ociVersionMax"], "1.3.0");
    assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&json!("user")));
    for command in ["run", "exec", "update"] {
        assert!(world.ok(&[command, "--help"]).contains("Usage: gantry-runtime "));
        assert!(world.ok(&["help", command]).contains("Usage: gantry-runtime "));
    }
    assert!(world.ok(&["--help"]).contains("checkpoint"));
}
