//! What a daemon was told about registries, and what a client keeps about them, as people meet it: `insecure-registries`, `certs.d`, proxies,
//! helpers for one registry, credentials for the registry that layers come from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use gantry_tests::{Cli, Cutter, Daemon, Options, Registry, World, both, command, http, paths, skip};
use serde_json::{Value, json};

/// `me`, whose password is `secret`.
const PASSWORDS: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// The next daemon in the same place, told this by its file.
fn told(daemon: &mut Daemon, settings: &Value) {
    let file = daemon.home().join("daemon.json");
    fs::write(&file, settings.to_string()).expect("write daemon.json");
    daemon.stop().expect("stop");
    daemon.set_flags(&["--config-file", &file.display().to_string()]);
    daemon.launch().expect("the daemon with other settings");
}

fn client(world: &World) -> Cli<'_> {
    world.docker().unwrap_or_else(|| world.gantry())
}

/// The address of the daemon's bridge: this machine's, and none of loopback's.
fn bridge(daemon: &Daemon) -> String {
    daemon.slot().bip().split('/').next().unwrap_or_default().to_owned()
}

#[test]
fn http_beyond_loopback_is_spoken_only_with_registries_that_daemon_json_lists() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let address = bridge(&world.daemon);
    let own = world.push_own("insecure").expect("push");
    let line = Cutter::start_at(&address, &world.registry.host()).expect("a way to the registry");
    let name = line.name(&own);
    let cli = client(&world);
    cli.run(&["pull", &name]).fails(1, "server gave HTTP response to HTTPS client");
    drop(cli);
    told(&mut world.daemon, &json!({"insecure-registries": [format!("{address}/32")]}));
    let cli = client(&world);
    cli.ok(&["pull", "-q", &name]);
    assert_eq!(cli.ok(&["run", "--rm", &name]), "new");
    let listed = world.daemon.get("/info").expect("info").json();
    assert!(listed["RegistryConfig"]["InsecureRegistryCIDRs"].to_string().contains(&address), "{listed}");
}

/// Makes a key and a certificate for this subject, its signed by nobody; its name is `name`.
fn certify(directory: &Path, name: &str, subject: &str) {
    let mut openssl = Command::new(paths::need("openssl").expect("openssl"));
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName={subject}"), "-addext"]);
    openssl.args(["basicConstraints=critical,CA:FALSE", "-keyout"]);
    openssl.arg(directory.join(format!("{name}.key"))).arg("-out").arg(directory.join(format!("{name}.cert")));
    command::succeed(&mut openssl, command::LIMIT).expect("openssl");
}

/// A daemon that sees `certs.d` of a directory as `/etc/docker/certs.d`; the machine's `/etc` stays as it is.
fn with_certificates(directory: &Path) -> World {
    let script = r#"cd "$0" && mkdir etc && mount -t tmpfs tmpfs etc && mkdir etc/upper etc/work &&
        mount -t overlay overlay -o lowerdir=/etc,upperdir=etc/upper,workdir=etc/work /etc &&
        mkdir -p /etc/docker/certs.d && mount --bind certs.d /etc/docker/certs.d && cd / && exec "$@""#;
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
    let mut before: Vec<String> = words.map(str::to_owned).to_vec();
    before.push(directory.display().to_string());
    World::start(Options { before, ..Options::default() }).expect("a daemon of its own")
}

#[test]
fn certs_d_says_whom_to_trust_and_who_we_are_for_that_registry_alone() {
    if paths::need("openssl").is_err() {
        return skip("no openssl");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let certificates = directory.path().join("certs.d");
    fs::create_dir(&certificates).expect("a directory");
    let world = with_certificates(directory.path());
    let address = bridge(&world.daemon);
    certify(directory.path(), "server", &format!("IP:{address}"));
    certify(directory.path(), "client", "DNS:client");
    let file = |name: &str| directory.path().join(name).display().to_string();
    let tls = format!(
        "tls: {{certificate: {}, key: {}, clientcas: [{}]}}",
        file("server.cert"),
        file("server.key"),
        file("client.cert")
    );
    let store = directory.path().join("registry");
    let plain = Registry::serve(&store).expect("a registry");
    let own = world.push_own("certified").expect("push");
    let copy = format!("docker://{}", world.registry.name(&own));
    let mut skopeo = Command::new(paths::need("skopeo").expect("skopeo"));
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", &copy]);
    command::succeed(skopeo.arg(format!("docker://{}", plain.name("app:1"))), command::LIMIT).expect("copy");
    drop(plain);
    let registry = Registry::serve_at(&store, &address, &tls).expect("a registry with TLS");
    let name = registry.name("app:1");
    let cli = client(&world);
    cli.run(&["pull", &name]).fails(1, "certificate");
    let here = certificates.join(registry.host());
    fs::create_dir(&here).expect("a directory");
    fs::copy(file("server.cert"), here.join("ca.crt")).expect("copy");
    // It is trusted, and does not let strangers in.
    let stranger = cli.run(&["pull", &name]);
    assert_ne!(stranger.code, 0, "{stranger}");
    fs::copy(file("client.cert"), here.join("client.cert")).expect("copy");
    cli.run(&["pull", &name]).fails(1, "missing key");
    fs::copy(file("client.key"), here.join("client.key")).expect("copy");
    cli.ok(&["pull", "-q", &name]);
    assert_eq!(cli.ok(&["run", "--rm", &name]), "new");
    for cli in [Some(world.gantry()), world.docker()].into_iter().flatten() {
        our_own_server(&cli, &name, &address, directory.path());
    }
    cli.ok(&["rmi", &name]);
    fs::rename(&here, certificates.join("registry.test:1")).expect("rename");
    cli.run(&["pull", &name]).fails(1, "certificate");
}

/// The same with our own server, into which an image is pushed, too, by somebody with a password.
fn our_own_server(cli: &Cli<'_>, image: &str, address: &str, directory: &Path) {
    let file = |name: &str| directory.join(name).display().to_string();
    fs::write(file("htpasswd"), PASSWORDS).expect("write the users");
    let settings = format!(
        "[tls]\ncert = {:?}\nkey = {:?}\nclient-ca = {:?}\n[auth]\nhtpasswd = {:?}\n[auth.token]\n",
        file("server.cert"),
        file("server.key"),
        file("client.cert"),
        file("htpasswd")
    );
    let store = tempfile::tempdir().expect("a directory");
    let registry = Registry::own_at(store.path(), address, &settings).expect("our registry with TLS");
    let (host, name) = (registry.host(), registry.name("team/app:1"));
    let login = || cli.input(&["login", "-u", "me", "--password-stdin", &host], "secret\n");
    login().fails(1, "certificate");
    let here = directory.join("certs.d").join(&host);
    fs::create_dir(&here).expect("a directory");
    fs::copy(file("server.cert"), here.join("ca.crt")).expect("copy");
    let stranger = login();
    assert_ne!(stranger.code, 0, "{stranger}");
    for part in ["client.cert", "client.key"] {
        fs::copy(file(part), here.join(part)).expect("copy");
    }
    login().ok();
    cli.ok(&["tag", image, &name]);
    assert_eq!(cli.ok(&["push", "-q", &name]), name);
    cli.ok(&["rmi", &name]);
    assert_eq!(cli.ok(&["pull", "-q", &name]), name);
    assert_eq!(cli.ok(&["run", "--rm", &name]), "new");
    cli.ok(&["rmi", &name]);
    cli.ok(&["logout", &host]);
    // No password is asked for: nobody may be there.
    cli.run(&["pull", &name]).fails(1, "unauthorized: authentication required");
}

#[test]
fn proxies_of_daemon_json_and_of_the_environment_lead_to_registries_and_never_to_loopback() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let own = world.push_own("proxied").expect("push");
    // A registry takes requests as proxies get them. Its name is known to nobody here.
    let name = format!("registry.test:5000/{own}");
    let (by_file, by_environment) = (proxy(&world), proxy(&world));
    let listed = json!(["registry.test:5000"]);
    let proxies = json!({"http-proxy": by_file.url(), "https-proxy": by_file.url(), "no-proxy": "other.test"});
    told(&mut world.daemon, &json!({"insecure-registries": listed, "proxies": proxies}));
    let cli = client(&world);
    cli.ok(&["pull", "-q", &name]);
    assert_eq!(cli.ok(&["run", "--rm", &name]), "new");
    let through = by_file.total();
    assert!(through > 0);
    cli.ok(&["rmi", &name]);
    cli.ok(&["pull", "-q", &world.registry.name(&own)]);
    assert_eq!(by_file.total(), through, "loopback is reached without");
    cli.ok(&["rmi", &world.registry.name(&own)]);
    drop(cli);
    let url = by_environment.url();
    world.daemon.set_environment(&[("HTTP_PROXY", &url), ("HTTPS_PROXY", &url)]);
    told(&mut world.daemon, &json!({"insecure-registries": listed}));
    let cli = client(&world);
    cli.ok(&["pull", "-q", &name]);
    assert!(by_environment.total() > 0);
    assert_eq!(by_file.total(), through);
    drop(cli);
    world.daemon.set_environment(&[("HTTP_PROXY", &url), ("HTTPS_PROXY", &url), ("NO_PROXY", "registry.test")]);
    told(&mut world.daemon, &json!({"insecure-registries": listed}));
    let before = by_environment.total();
    let cli = client(&world);
    let refused = cli.run(&["pull", &format!("registry.test:5000/{own}:other")]);
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(by_environment.total(), before, "NO_PROXY names it");
}

fn proxy(world: &World) -> Cutter {
    Cutter::start_at("127.0.0.1", &world.registry.host()).expect("a proxy")
}

/// A helper that has a password for whoever asks, and writes down who did.
const HELPER: &str = r#"#!/bin/sh
host="$(cat)"
echo "$1 $host" >> "$(dirname "$0")/asked"
[ "$1" = get ] && echo "{\"ServerURL\": \"$host\", \"Username\": \"me\", \"Secret\": \"secret\"}"
"#;

#[test]
fn a_helper_of_one_registry_is_asked_for_that_one_and_for_no_other() {
    both(|world, cli| {
        let directory = tempfile::tempdir().expect("a directory");
        let target = Registry::serve_with_passwords(&directory.path().join("registry"), PASSWORDS).expect("a registry");
        let (host, to) = (target.host(), target.name("app:1"));
        let helper = directory.path().join("docker-credential-one");
        fs::write(&helper, HELPER).expect("write the helper");
        fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).expect("make it a program");
        let settings = json!({"credHelpers": {host.as_str(): "one"}});
        fs::write(directory.path().join("config.json"), settings.to_string()).expect("write the configuration");
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap_or_default());
        let run = |arguments: &[&str]| {
            let mut client = cli.command(arguments);
            client.env("DOCKER_CONFIG", directory.path()).env("PATH", &path);
            command::run(&mut client, None, command::LIMIT).expect("a client that ends")
        };
        let own = world.registry.name(&world.push_own("helper").expect("push"));
        run(&["pull", "-q", &own]).ok();
        let asked = || fs::read_to_string(directory.path().join("asked")).unwrap_or_default();
        assert_eq!(asked(), "");
        cli.ok(&["tag", &own, &to]);
        run(&["push", "-q", &to]).ok();
        cli.ok(&["rmi", &to]);
        run(&["pull", "-q", &to]).ok();
        assert!(
            asked().lines().count() > 0 && asked().lines().all(|line| line == format!("get {host}")),
            "{}",
            asked()
        );
        cli.ok(&["rmi", &own, &to]);
    });
}

#[test]
fn layers_of_a_private_registry_are_pushed_to_another_with_credentials_for_each() {
    let world = gantry_tests::world();
    let cli = world.gantry();
    let directory = tempfile::tempdir().expect("a directory");
    let private = |name: &str| {
        Registry::serve_with_passwords(&directory.path().join(name), PASSWORDS).expect("a registry with passwords")
    };
    let (from, to, third) = (private("from"), private("to"), private("third"));
    let own = world.registry.name(&world.push_own("between").expect("push"));
    cli.ok(&["pull", "-q", &own]);
    for registry in [&from, &to] {
        cli.input(&["login", "-u", "me", "--password-stdin", &registry.host()], "secret\n").ok();
    }
    let (source, target) = (from.name("app:1"), to.name("app:1"));
    cli.ok(&["tag", &own, &source]);
    cli.ok(&["push", "-q", &source]);
    // From here on only the private registry has its layers.
    cli.ok(&["rmi", &own, &source]);
    cli.ok(&["pull", "-q", &source]);
    cli.ok(&["tag", &source, &target]);
    let said = cli.ok(&["push", &target]);
    let digest = said.lines().find_map(|line| line.strip_prefix("1: digest: ")?.split(' ').next()).expect("a digest");
    assert!(said.contains("Pushed") && !said.contains("compressed anew"), "{said}");
    // The same as a program says it: one header for the target, and one for others. Without that the layers would be compressed anew.
    let encode = |value: &Value| URL_SAFE.encode(value.to_string());
    let push = |tag: &str, others: &Value| {
        let name = third.name("app");
        cli.ok(&["tag", &source, &format!("{name}:{tag}")]);
        let auth = json!({"username": "me", "password": "secret", "serveraddress": third.host()});
        let headers = [("X-Registry-Auth", encode(&auth)), ("X-Registry-Config", encode(others))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let path = format!("/images/{name}/push?tag={tag}");
        let answer = http::unix_with(&world.daemon.socket(), "POST", &path, &headers, Some(b"")).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        cli.ok(&["rmi", &format!("{name}:{tag}")]);
        answer.text()
    };
    let host = from.host();
    let said = push("1", &json!({host.as_str(): {"username": "me", "password": "secret"}}));
    assert!(said.contains(digest) && !said.contains("compressed anew"), "{said}");
    for registry in [&from, &to] {
        cli.ok(&["logout", &registry.host()]);
    }
    cli.ok(&["rmi", &source, &target]);
}
