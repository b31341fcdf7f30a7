//! What stands before the registry's server, as people meet it: push and pull through passwords, tokens and TLS by skopeo;
//! the cache; reload; what is refused.
#![allow(clippy::disallowed_methods, reason = "tests arrange files by hand")]

mod bucket;
mod full;
mod mirror;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_tests::command::{self, LIMIT};
use gantry_tests::{Daemon, Output, Registry, eventually, paths};
use rustix::process::{Pid, Signal, kill_process};

/// `secret`, as `htpasswd -B` hashes it.
const SECRET: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
/// The same, hashed another time.
const OTHER: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// `gantry registry serve` in a directory of its own.
struct Served {
    child: Child,
    port: u16,
    log: mpsc::Receiver<String>,
    place: tempfile::TempDir,
}

impl Served {
    /// With what `write` puts into the configuration, which may name files of the place.
    fn start(flags: &[&str], write: impl FnOnce(&Path) -> String) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let at = place.path();
        fs::write(at.join("htpasswd"), format!("alice:{SECRET}\nbob:{SECRET}\n")).expect("write the users");
        let config = at.join("registry.toml");
        fs::write(&config, write(at)).expect("write the configuration");
        let mut child = Command::new(paths::gantry().expect("the binary"))
            .args(["registry", "serve", "--addr", "127.0.0.1:0", "--root"])
            .arg(at.join("root"))
            .arg("--config")
            .arg(&config)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the registry");
        let (lines, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("its log"));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let mut served = Self { child, port: 0, log, place };
        let line = served.said("serving images on");
        let port = line.split("://127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        served.port = port.unwrap_or_else(|| panic!("no port in {line:?}"));
        served
    }

    /// Waits for a line of its log.
    #[track_caller]
    fn said(&self, words: &str) -> String {
        loop {
            match self.log.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.contains(words) => return line,
                Ok(_) => {}
                Err(error) => panic!("the registry did not say {words:?}: {error}"),
            }
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    /// Ends the server; what it kept stays until what is returned goes.
    fn stop(mut self) -> tempfile::TempDir {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("signal the registry");
        let ended = self.child.wait().expect("wait for the registry");
        assert!(ended.success(), "{ended}");
        std::mem::replace(&mut self.place, tempfile::tempdir().expect("a directory"))
    }

    fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("signal the registry");
    }

    fn skopeo(&self, arguments: &[&str]) -> Output {
        let mut skopeo = Command::new(paths::need("skopeo").expect("skopeo"));
        skopeo.args(["--insecure-policy", "--tmpdir"]).arg(self.place.path()).args(arguments);
        command::run(&mut skopeo, None, LIMIT).expect("run skopeo")
    }

    /// An answer, by curl, which speaks TLS with our authority.
    fn curl(&self, arguments: &[&str], path: &str) -> String {
        let scheme = if self.at("cert.pem").exists() { "https" } else { "http" };
        let mut curl = Command::new(paths::need("curl").expect("curl"));
        curl.args(["-sS", "--noproxy", "*", "-m", "20", "-i"]).args(arguments);
        if scheme == "https" {
            curl.arg("--cacert").arg(self.at("cert.pem"));
        }
        curl.arg(format!("{scheme}://127.0.0.1:{}{path}", self.port));
        command::run(&mut curl, None, LIMIT).expect("run curl").ok()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Checks that the registry did not let it through; each client has words of its own for each step.
#[track_caller]
fn refused(output: &Output) {
    let said = output.stderr.to_lowercase();
    assert!(output.code == 1 && ["denied", "unauthorized", "403"].iter().any(|word| said.contains(word)), "{output}");
}

/// A certificate for 127.0.0.1, its own authority, and its key; also where skopeo looks for it.
fn certificate(at: &Path) {
    let mut openssl = Command::new(paths::need("openssl").expect("openssl"));
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"]);
    openssl.arg(at.join("key.pem")).arg("-out").arg(at.join("cert.pem"));
    command::run(&mut openssl, None, LIMIT).expect("run openssl").ok();
    fs::create_dir_all(at.join("ca")).expect("make a directory");
    fs::copy(at.join("cert.pem"), at.join("ca/ca.crt")).expect("copy the certificate");
}

fn secured(at: &Path, rules: &str) -> String {
    certificate(at);
    let at = at.display();
    format!(
        "[tls]\ncert = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\"\n[access-log]\nfile = \"{at}/access.log\"\n\
         [auth]\nhtpasswd = \"{at}/htpasswd\"\n[auth.token]\nservice = \"here\"\n{rules}"
    )
}

const RULES: &str = "[[auth.rules]]\nusers = [\"alice\"]\nrepositories = [\"team/**\"]\nactions = [\"pull\", \"push\", \"delete\"]\n\
     [[auth.rules]]\nusers = [\"bob\"]\nrepositories = [\"team/public\"]\nactions = [\"pull\"]\n";

#[test]
fn skopeo_pushes_and_pulls_through_tls_passwords_and_tokens_and_others_do_not() {
    let served = Served::start(&[], |at| secured(at, RULES));
    let source = Registry::start().expect("a registry with images");
    let ca = served.at("ca").display().to_string();
    let from = format!("docker://{}", source.name("busybox:latest"));
    let copy = |user: &str, to: &str| {
        let to = format!("docker://{}", served.name(to));
        let creds = format!("{user}:secret");
        served.skopeo(&["copy", "--src-tls-verify=false", "--dest-cert-dir", &ca, "--dest-creds", &creds, &from, &to])
    };
    copy("alice", "team/app:1").ok();
    copy("alice", "team/public:1").ok();
    refused(&copy("bob", "team/app:1"));
    refused(&copy("alice", "other/app:1"));
    copy("carol", "team/app:1").fails(1, "unauthorized");
    let inspect = |user: &str, name: &str| {
        let (name, creds) = (format!("docker://{}", served.name(name)), format!("{user}:secret"));
        served.skopeo(&["inspect", "--cert-dir", &ca, "--creds", &creds, "--format", "{{.Digest}}", &name])
    };
    assert_eq!(inspect("alice", "team/app:1").ok(), source.manifest_digest("busybox", "latest").expect("a digest"));
    inspect("bob", "team/public:1").ok();
    refused(&inspect("bob", "team/app:1"));

    docker_logs_in(&served, &inspect);

    let log = fs::read_to_string(served.at("access.log")).expect("the access log");
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let pushed =
        |line: &&serde_json::Value| line["user"] == "alice" && line["method"] == "PUT" && line["status"] == 201;
    let push = lines.iter().find(pushed).unwrap_or_else(|| panic!("no push of alice in\n{log}"));
    assert!(push["took_us"].as_u64() > Some(0) && push["id"].as_str().is_some_and(|id| !id.is_empty()), "{push}");
    assert!(!log.contains("secret"), "no password is in the log");
    let metrics = served.curl(&[], "/metrics");
    assert!(
        metrics.contains("gantry_registry_requests_total{route=\"manifest\",method=\"PUT\",status=\"201\"} "),
        "{metrics}"
    );
}

/// The same through a daemon of ours, by the docker CLI.
fn docker_logs_in(served: &Served, inspect: &dyn Fn(&str, &str) -> Output) {
    let daemon = Daemon::start().expect("a daemon");
    let docker = paths::need("docker").expect("docker");
    let docker = |arguments: &[&str], input: Option<&[u8]>| {
        let mut docker = daemon.client(&docker);
        command::run(docker.args(arguments), input, LIMIT).expect("run docker")
    };
    let host = format!("127.0.0.1:{}", served.port);
    let login = ["login", "-u", "alice", "--password-stdin", &host];
    docker(&login, Some(b"wrong")).fails(1, "incorrect username or password");
    refused(&docker(&["pull", &served.name("team/app:1")], None));
    docker(&login, Some(b"secret")).ok();
    // What the registry gave in place of the password is kept, and good for other clients, too.
    is_kept_in_place_of_the_password(&daemon, &host);
    let (name, settings) = (format!("docker://{}", served.name("team/app:1")), daemon.home().join("config.json"));
    let (settings, ca) = (settings.display().to_string(), served.at("ca").display().to_string());
    served.skopeo(&["inspect", "--cert-dir", &ca, "--authfile", &settings, "--format", "{{.Digest}}", &name]).ok();
    docker(&["pull", &served.name("team/app:1")], None).ok();
    docker(&["tag", &served.name("team/app:1"), &served.name("team/again:2")], None).ok();
    docker(&["push", &served.name("team/again:2")], None).ok();
    assert_eq!(inspect("alice", "team/again:2").ok(), inspect("alice", "team/app:1").ok());
    docker(&["tag", &served.name("team/app:1"), &served.name("other/x:1")], None).ok();
    refused(&docker(&["push", &served.name("other/x:1")], None));
    docker(&["logout", &host], None).ok();
    refused(&docker(&["pull", &served.name("team/again:2")], None));
    let gantry = |arguments: &[&str], input: Option<&[u8]>| {
        let mut gantry = daemon.client(&paths::gantry().expect("the binary"));
        command::run(gantry.args(arguments), input, LIMIT).expect("run our client")
    };
    gantry(&login, Some(b"secret")).ok();
    is_kept_in_place_of_the_password(&daemon, &host);
    gantry(&["pull", &served.name("team/again:2")], None).ok();
    // Alice has another password from here on, whatever it is.
    fs::write(served.at("htpasswd"), format!("alice:{OTHER}\n")).expect("write the users");
    let ended = gantry(&["pull", &served.name("team/public:1")], None);
    ended.fails(1, "what was kept of the login does not count any more: log in again");
    gantry(&login, Some(b"secret")).ok();
    gantry(&["pull", &served.name("team/public:1")], None).ok();
}

/// Checks what a client keeps of a login of alice's.
#[track_caller]
fn is_kept_in_place_of_the_password(daemon: &Daemon, host: &str) {
    let text = fs::read_to_string(daemon.home().join("config.json")).expect("the client's configuration");
    let settings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let kept = &settings["auths"][host];
    assert!(kept["identitytoken"].as_str().is_some_and(|token| token.matches('.').count() == 2), "{text}");
    let auth = STANDARD.decode(kept["auth"].as_str().unwrap_or_default()).expect("base64");
    assert!(!String::from_utf8_lossy(&auth).contains("secret"), "{text}");
}

#[test]
fn what_is_kept_is_listed_verified_collected_and_carried_to_a_machine_without_a_network() {
    let served = Served::start(&[], |_| String::new());
    let source = Registry::start().expect("a registry with images");
    let from = format!("docker://{}", source.name("busybox:latest"));
    for name in ["team/app:1", "team/app:2", "old/app:1"] {
        let to = format!("docker://{}", served.name(name));
        served.skopeo(&["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]).ok();
    }
    let digest = source.manifest_digest("busybox", "latest").expect("a digest");
    let root = served.at("root");
    let registry = |arguments: &[&str]| {
        let mut gantry = Command::new(paths::gantry().expect("the binary"));
        gantry.arg("registry").args(arguments).args(["--root", root.to_str().expect("a path")]);
        command::run(&mut gantry, None, LIMIT).expect("run the registry")
    };
    let names = registry(&["ls"]).ok();
    assert!(names.contains("team/app\t2 tags\t") && names.contains("old/app\t1 tags\t"), "{names}");
    assert_eq!(registry(&["ls", "team/app"]).ok(), format!("1\t{digest}\n2\t{digest}"));
    registry(&["ls", "nobody/x"]).fails(1, "there is no repository nobody/x");
    assert!(registry(&["verify"]).ok().contains("0 problems"));

    let rule = ["--grace", "0s", "--untagged", "0s", "--tags", "old/**:*=0s"];
    registry(&[&["gc"][..], &rule].concat()).fails(1, "--dry-run is possible beside it");
    let told = registry(&[&["gc", "--dry-run"][..], &rule].concat()).ok();
    assert!(told.contains("tag old/app 1: ") && told.contains("would go: ") && told.contains("1 tag"), "{told}");
    assert!(registry(&["ls"]).ok().contains("old/app\t1 tags"), "a dry run removes nothing");

    let stick = served.at("stick");
    let copied = registry(&["copy", "team/app:1", stick.to_str().expect("a path")]).ok();
    assert!(copied.contains(&digest), "{copied}");
    let away = Served::start(&[stick.to_str().expect("a path")], |_| String::new());
    let answer = away.curl(&[], "/v2/_catalog");
    let carried = served.skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &format!("docker://{}", away.name("team/app:1")),
    ]);
    assert_eq!(carried.ok().trim(), digest, "{answer}");
    let refused = away.curl(&["-X", "POST"], "/v2/team/app/blobs/uploads/");
    assert!(refused.contains(" 403 ") || refused.contains(" 405 "), "{refused}");

    let _kept = served.stop();
    let gone = registry(&[&["gc"][..], &rule].concat()).ok();
    assert!(gone.contains("gone: "), "{gone}");
    let left = registry(&["ls"]).ok();
    assert!(left.contains("team/app\t2 tags") && !left.contains("old/app\t1 tags"), "{left}");
    assert!(registry(&["verify"]).ok().contains("0 problems"));
}

#[test]
fn a_signal_brings_new_certificates_and_rules_without_a_restart_and_a_broken_file_changes_nothing() {
    let served = Served::start(&[], |at| secured(at, RULES));
    let config = served.at("registry.toml");
    let token = |user: &str, scope: &str| {
        let answer = served.curl(&["-u", &format!("{user}:secret")], &format!("/token?service=here&scope={scope}"));
        let body: serde_json::Value = serde_json::from_str(answer.lines().last().unwrap_or_default()).expect("JSON");
        format!("Authorization: Bearer {}", body["token"].as_str().expect("a token"))
    };
    let bobs = || served.curl(&["-H", &token("bob", "repository:team/app:pull")], "/v2/team/app/tags/list");
    assert!(bobs().contains(" 403 "), "{}", bobs());
    let before = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, format!("{before}[auth]\n")).expect("break it");
    served.hang_up();
    let line = served.said("nothing was changed");
    assert!(line.contains("duplicate key") && line.contains("registry.toml"), "{line}");
    assert!(bobs().contains(" 403 "));
    // Bob may pull what is there, and there is another certificate.
    certificate(served.place.path());
    fs::write(&config, before.replace("[\"team/public\"]", "[\"team/**\"]")).expect("write the configuration");
    served.hang_up();
    served.said("were read again");
    assert!(bobs().contains(" 404 "), "{}", bobs());
}

#[test]
fn the_cache_serves_what_it_has_when_upstream_is_gone_beside_what_is_pushed_here() {
    let upstream = Registry::start().expect("a registry with images");
    let digest = upstream.manifest_digest("busybox", "latest").expect("a digest");
    let proxy = format!("hub.test=http://{}", upstream.host());
    let hub = format!("docker.io=http://{}", upstream.host());
    let served = Served::start(&["--proxy", &proxy, "--proxy", &hub, "--cache-size", "1GiB"], |_| {
        "[cache]\nage = \"0s\"\ntimeout = \"2s\"\n".to_owned()
    });
    let copy = |from: &str, to: &str| {
        let from = format!("docker://{}", served.name(from));
        served.skopeo(&["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, to])
    };
    let layout = |name: &str| format!("oci:{}:latest", served.at(name).display());
    copy("hub.test/busybox:latest", &layout("one")).ok();
    copy("hub.test/busybox:latest", &format!("docker://{}", served.name("own/busybox:1"))).ok();
    refused(&copy("hub.test/busybox:latest", &format!("docker://{}", served.name("hub.test/other:1"))));
    // By the daemon, as everybody's registry.
    let daemon = Daemon::start().expect("a daemon");
    daemon.pull(&served.name("hub.test/busybox"), "cached").expect("a pull through the cache");
    drop(upstream);
    copy("hub.test/busybox:latest", &layout("two")).ok();
    copy("own/busybox:1", &layout("three")).ok();
    let head = served.curl(&["-I"], "/v2/hub.test/busybox/manifests/latest");
    assert!(head.contains(&digest) && head.to_lowercase().contains("warning: 299"), "{head}");
    let missing = served.curl(&[], "/v2/hub.test/nothing/manifests/latest");
    assert!(missing.contains(" 503 ") && missing.contains("hub.test cannot be asked now"), "{missing}");
    let catalog = served.curl(&[], "/v2/_catalog");
    assert!(catalog.contains("\"own/busybox\"") && !catalog.contains("hub.test"), "{catalog}");
}

#[test]
fn it_does_not_listen_where_strangers_could_come_in_and_says_what_is_missing() {
    let place = tempfile::tempdir().expect("a directory");
    let serve = |arguments: &[&str]| {
        let mut gantry = Command::new(paths::gantry().expect("the binary"));
        gantry.args(["registry", "serve", "--root"]).arg(place.path().join("root")).args(arguments);
        command::run(&mut gantry, None, LIMIT).expect("run the registry")
    };
    fs::write(place.path().join("htpasswd"), format!("alice:{SECRET}\n")).expect("write the users");
    let users = place.path().join("htpasswd").display().to_string();
    serve(&["--addr", "0.0.0.0:0"]).fails(1, "set auth.htpasswd, tls.cert and tls.key");
    serve(&["--addr", "0.0.0.0:0", "--htpasswd", &users]).fails(1, "set tls.cert and tls.key");
    let config = place.path().join("registry.json");
    for (text, says) in [
        ("{\"auth\": {\"htpaswd\": \"/x\"}}", "unknown field `htpaswd`"),
        ("{\"auth\": {\"htpasswd\": \"/nonexistent\"}}", "/nonexistent"),
        ("limits.burst = \"many\"", "invalid type"),
    ] {
        fs::write(&config, text).expect("write the configuration");
        serve(&["--config", config.to_str().expect("a path")]).fails(1, says);
    }
    assert!(!place.path().join("root/token.key").exists());
}

#[test]
fn a_client_that_sends_nothing_or_too_much_is_told_or_left() {
    let served =
        Served::start(&[], |_| "[limits]\nrequests-per-second = 1\nburst = 3\nrequest-bytes = \"1KiB\"\n".to_owned());
    let large = served.curl(&["-X", "POST", "--data-binary", &"x".repeat(2000)], "/v2/a/blobs/uploads/");
    assert!(large.contains(" 413 ") && large.contains("SIZE_INVALID"), "{large}");
    let answers: Vec<String> = (0..4).map(|_| served.curl(&[], "/v2/")).collect();
    let last = answers.last().expect("an answer");
    assert!(last.contains(" 429 ") && last.to_lowercase().contains("retry-after: 1"), "{last}");
    assert!(last.contains("TOOMANYREQUESTS") && last.to_lowercase().contains("x-request-id: "), "{last}");
    // Connections that say nothing do not keep others out.
    let idle: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(("127.0.0.1", served.port)).expect("a connection")).collect();
    eventually("an answer beside 200 silent connections", || served.curl(&[], "/v2/").contains(" 200 "));
    drop(idle);
}
