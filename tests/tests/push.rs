//! Push, login and what goes with them, by our client and the real `docker` CLI, against Debian's `docker-registry`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gantry_tests::{Cli, Registry, both, command, paths, skip};

/// `me`, whose password is `secret`.
const PASSWORDS: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn registry(directory: &Path) -> Registry {
    Registry::serve(&directory.join("registry")).expect("a registry")
}

/// The digest that a push says the tag has.
fn digest_of(said: &str, tag: &str) -> String {
    let begin = format!("{tag}: digest: ");
    let line = said.lines().find_map(|line| line.strip_prefix(&begin)).unwrap_or_else(|| panic!("no digest in {said}"));
    line.split(" size: ").next().unwrap_or_default().to_owned()
}

/// An image of one container's change.
fn committed(cli: &Cli<'_>, base: &str, content: &str) -> String {
    let script = format!("echo {content} > /committed");
    let container = cli.ok(&["run", "-d", base, "sh", "-c", &script]);
    cli.ok(&["wait", &container]);
    let id = cli.ok(&["commit", &container]);
    cli.ok(&["rm", &container]);
    id
}

#[test]
fn what_was_pulled_is_pushed_as_the_same_and_a_second_push_sends_nothing() {
    both(|world, cli| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = registry(directory.path());
        let own = world.push_own("pushed").expect("push");
        let digest = world.registry.manifest_digest(&own, "latest").expect("a digest");
        let (from, to) = (world.registry.name(&own), target.name("team/app:1"));
        cli.ok(&["pull", "-q", &from]);
        cli.ok(&["tag", &from, &to]);
        let said = cli.ok(&["push", &to]);
        let first = format!("The push refers to repository [{}]", target.name("team/app"));
        assert!(said.starts_with(&first) && said.contains("Pushed"), "{said}");
        assert_eq!(digest_of(&said, "1"), digest);
        assert_eq!(target.manifest_digest("team/app", "1").expect("a digest"), digest);
        let again = cli.ok(&["push", &to]);
        assert!(again.contains("Layer already exists") && !again.contains("Pushed"), "{again}");
        let digests = cli.inspect(&to, "{{json .RepoDigests}}");
        assert!(digests.contains(&format!("{}@{digest}", target.name("team/app"))), "{digests}");
        assert_eq!(cli.ok(&["push", "-q", &to]), to);
        cli.ok(&["rmi", &from, &to]);
        cli.ok(&["run", "--rm", &to]);
        cli.ok(&["rmi", &to]);
    });
}

#[test]
fn what_was_committed_is_compressed_once_mounts_its_base_and_runs_when_it_is_pulled_back() {
    both(|world, cli| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = registry(directory.path());
        let own = world.push_own("base").expect("push");
        let (from, base, to) = (world.registry.name(&own), target.name("base"), target.name("committed"));
        cli.ok(&["pull", "-q", &from]);
        cli.ok(&["tag", &from, &base]);
        cli.ok(&["push", "-q", &base]);
        let id = committed(cli, &base, &own);
        cli.ok(&["tag", &id, &to]);
        let said = cli.ok(&["push", &to]);
        assert!(said.contains("Mounted from base") && said.contains("Pushed"), "{said}");
        assert!(said.contains("Using default tag: latest"), "{said}");
        let digest = digest_of(&said, "latest");
        let again = cli.ok(&["push", &to]);
        assert!(!again.contains("Pushed") && !again.contains("Mounted"), "{again}");
        assert_eq!(digest_of(&again, "latest"), digest);
        cli.ok(&["rmi", &to, &base, &from]);
        cli.ok(&["pull", "-q", &to]);
        assert_eq!(cli.inspect(&to, "{{.Id}}"), id);
        assert_eq!(cli.ok(&["run", "--rm", &to, "cat", "/committed"]), own);
        cli.ok(&["rmi", &to]);
    });
}

#[test]
fn an_index_with_other_platforms_is_pushed_whole() {
    both(|world, cli| {
        let Ok(skopeo) = paths::need("skopeo") else { return skip("no skopeo") };
        let directory = tempfile::tempdir().expect("a directory");
        let (source, target) = (registry(&directory.path().join("a")), registry(&directory.path().join("b")));
        let own = world.push_own("index").expect("push");
        let layout = directory.path().join("layout");
        let copy = |arguments: &[&str]| {
            let mut skopeo = Command::new(&skopeo);
            skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]);
            command::succeed(skopeo.args(arguments), Duration::from_secs(60)).expect("copy");
        };
        for name in [own.as_str(), "wrongarch"] {
            copy(&[
                &format!("docker://{}:latest", world.registry.name(name)),
                &format!("oci:{}:{name}", layout.display()),
            ]);
        }
        let index = gantry_tests::image::index_of(&layout).expect("an index");
        copy(&["--all", &format!("oci:{}", layout.display()), &format!("docker://{}", source.name("app:1"))]);
        let (from, to) = (source.name("app:1"), target.name("app:1"));
        cli.ok(&["pull", "-q", &from]);
        cli.ok(&["tag", &from, &to]);
        assert_eq!(digest_of(&cli.ok(&["push", &to]), "1"), index);
        // Everything is there: whoever wants the other platform gets it.
        let whole = format!("oci:{}", directory.path().join("back").display());
        copy(&["--all", &format!("docker://{to}"), &whole]);
        cli.ok(&["rmi", &from, &to]);
    });
}

#[test]
fn all_tags_of_a_repository_are_pushed_and_what_is_not_there_is_said_in_dockers_words() {
    both(|world, cli| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = registry(directory.path());
        let own = world.registry.name(&world.push_own("tags").expect("push"));
        cli.ok(&["pull", "-q", &own]);
        let name = target.name("app");
        for tag in ["one", "two"] {
            cli.ok(&["tag", &own, &format!("{name}:{tag}")]);
        }
        let said = cli.ok(&["push", "-a", &name]);
        assert_eq!(digest_of(&said, "one"), digest_of(&said, "two"));
        cli.run(&["push", "-a", &format!("{name}:one")]).fails(1, "tag can't be used with --all-tags/-a");
        cli.run(&["push", &format!("{name}:three")]).fails(1, &format!("tag does not exist: {name}:three"));
        let absent = target.name("absent");
        let says = format!("An image does not exist locally with the tag: {absent}");
        cli.run(&["push", &absent]).fails(1, &says);
        let nobody = "127.0.0.1:1/nobody/there:1";
        cli.ok(&["tag", &own, nobody]);
        cli.run(&["push", nobody]).fails(1, "connection refused");
        let other = cli.run(&["push", "--platform", "linux/s390x", &format!("{name}:one")]);
        other.fails(1, "does not match the specified platform");
        cli.ok(&["rmi", &own, &format!("{name}:one"), &format!("{name}:two"), nobody]);
    });
}

#[test]
fn a_password_opens_a_registry_and_is_kept_for_its_owner_alone_until_logout() {
    use std::os::unix::fs::PermissionsExt;
    both(|world, cli| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = Registry::serve_with_passwords(&directory.path().join("registry"), PASSWORDS).expect("a registry");
        let (host, to) = (target.host(), target.name("app:1"));
        let own = world.registry.name(&world.push_own("private").expect("push"));
        cli.ok(&["pull", "-q", &own]);
        cli.ok(&["tag", &own, &to]);
        cli.run(&["push", &to]).fails(1, "no basic auth credentials");
        let wrong = cli.input(&["login", "-u", "me", "--password-stdin", &host], "wrong\n");
        wrong.fails(1, "401 Unauthorized");
        let right = cli.input(&["login", "-u", "me", "--password-stdin", &host], "secret\n");
        assert!(right.ok().contains("Login Succeeded"), "{right}");
        let kept = world.daemon.home().join("config.json");
        let mode = std::fs::metadata(&kept).expect("a configuration").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let pushed = digest_of(&cli.ok(&["push", &to]), "1");
        assert!(cli.ok(&["login", &host]).contains("Login Succeeded"), "with what is known");
        cli.ok(&["rmi", &to]);
        cli.ok(&["pull", "-q", &to]);
        assert!(cli.inspect(&to, "{{json .RepoDigests}}").contains(&pushed));
        let out = cli.ok(&["logout", &host]);
        assert_eq!(out, format!("Removing login credentials for {host}"));
        assert!(!std::fs::read_to_string(&kept).unwrap_or_default().contains(&host));
        cli.run(&["push", &to]).fails(1, "no basic auth credentials");
        cli.ok(&["rmi", &own, &to]);
    });
}

/// A helper that keeps what it is given in a file beside itself.
const HELPER: &str = r#"#!/bin/sh
kept="$(dirname "$0")/kept"
case "$1" in
    store) cat > "$kept" ;;
    get) cat > /dev/null; [ -s "$kept" ] && exec cat "$kept"; echo "credentials not found in native keychain"; exit 1 ;;
    erase) cat > /dev/null; rm -f "$kept" ;;
    list) echo '{}' ;;
esac
"#;

#[test]
fn a_helper_keeps_the_password_and_the_file_has_none() {
    use std::os::unix::fs::PermissionsExt;
    both(|world, cli| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = Registry::serve_with_passwords(&directory.path().join("registry"), PASSWORDS).expect("a registry");
        let (host, to) = (target.host(), target.name("app:1"));
        let helper = directory.path().join("docker-credential-tests");
        std::fs::write(&helper, HELPER).expect("write the helper");
        std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).expect("make it a program");
        let config = directory.path().join("config.json");
        std::fs::write(&config, r#"{"credsStore": "tests", "psFormat": "json"}"#).expect("write the configuration");
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap_or_default());
        let run = |arguments: &[&str], input: &str| {
            let mut client = cli.command(arguments);
            client.env("DOCKER_CONFIG", directory.path()).env("PATH", &path);
            command::run(&mut client, Some(input.as_bytes()), command::LIMIT).expect("a client that ends")
        };
        let own = world.registry.name(&world.push_own("helped").expect("push"));
        cli.ok(&["pull", "-q", &own]);
        cli.ok(&["tag", &own, &to]);
        run(&["login", "-u", "me", "--password-stdin", &host], "secret").ok();
        let file = std::fs::read_to_string(&config).expect("a configuration");
        assert!(file.contains(&host) && file.contains("psFormat") && !file.contains("\"auth\":"), "{file}");
        let kept = std::fs::read_to_string(directory.path().join("kept")).expect("what the helper keeps");
        assert!(kept.contains("secret") && kept.contains(&host), "{kept}");
        run(&["push", "-q", &to], "").ok();
        run(&["logout", &host], "").ok();
        assert!(!directory.path().join("kept").exists());
        run(&["push", "-q", &to], "").fails(1, "no basic auth credentials");
        cli.ok(&["rmi", &own, &to]);
    });
}

#[test]
fn a_registry_is_searched_and_asked_what_a_name_means() {
    both(|world, cli| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = Registry::own(&directory.path().join("registry")).expect("our registry");
        let (own, to) = (world.registry.name(&world.push_own("found").expect("push")), target.name("team/found:1"));
        cli.ok(&["pull", "-q", &own]);
        cli.ok(&["tag", &own, &to]);
        let digest = digest_of(&cli.ok(&["push", &to]), "1");
        let found = cli.ok(&["search", "--format", "{{.Name}} {{.StarCount}}", &target.name("found")]);
        assert!(found.lines().any(|line| line.contains("team/found") && line.ends_with(" 0")), "{found}");
        let many = cli.ok(&["search", "--filter", "stars=5", "--format", "{{.Name}}", &target.name("found")]);
        assert_eq!(many, "");
        let official =
            cli.ok(&["search", "--filter", "is-official=true", "--format", "{{.Name}}", &target.name("found")]);
        assert_eq!(official, "");
        cli.run(&["search", "--limit", "101", &target.name("found")]).fails(1, "outside the range of [1, 100]");
        let answer = world.daemon.get(&format!("/distribution/{to}/json")).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["Descriptor"]["digest"], digest.as_str());
        assert_eq!(answer["Platforms"][0]["architecture"], gantry_tests::image::architecture());
        cli.ok(&["rmi", &own, &to]);
    });
}

#[test]
fn a_password_that_is_typed_is_not_shown() {
    use gantry_tests::{Terminal, world};
    let world = world();
    let cli = world.gantry();
    let directory = tempfile::tempdir().expect("a directory");
    let target = Registry::serve_with_passwords(&directory.path().join("registry"), PASSWORDS).expect("a registry");
    // Its own configuration: a client that writes another's at the same time brings back what that one removed.
    let line = cli.line_of(directory.path(), &format!("login {}; stty -a", target.host()));
    let terminal = Terminal::start(&line).expect("tmux");
    terminal.shows("Username:");
    terminal.write("me");
    terminal.press(&["Enter"]);
    terminal.shows("Password:");
    terminal.write("secret");
    terminal.press(&["Enter"]);
    terminal.shows("Login Succeeded");
    terminal.shows(" echo ");
    assert!(!terminal.screen().contains("secret"), "{}", terminal.screen());
}
