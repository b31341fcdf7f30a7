//! The daemon's doors: TLS, sockets that somebody else opened, ssh, contexts, policies, the audit log, and rude callers.

mod activation;
mod audit;
mod authority;
mod contexts;
mod crowds;
mod followed;
mod hidden;
mod museum;
mod policies;
mod refusals;
mod revoked;
mod rude;
mod settings;
mod ssh;
mod suites;
mod systemd;
mod tls;
mod work;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gantry_tests::{Options, Output, World, command, paths};

/// A daemon with a door of every kind; the tests of this file share it.
struct Doors {
    world: World,
    files: tempfile::TempDir,
    port: u16,
}

impl Doors {
    fn start() -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let at = |name: &str| files.path().join(name).display().to_string();
        certificates(&files.path().join("tls"), &["--host", "127.0.0.1"]);
        let port = free_port();
        let rules = r#"{
            "jobs": ["read", "create", "start", "stop", "delete", "wait", "exec_create", "exec_start", "attach", "network_create", "network_connect", "rename"],
            "labels": ["team=a"],
            "binds": ["/srv/gantry-doors/", "/srv/gantry-doors-links/"]
        }"#;
        std::fs::write(files.path().join("policy.json"), rules).expect("write the policy");
        let flags = [
            "-H".to_owned(),
            format!("tcp://127.0.0.1:{port}"),
            "--tlsverify".to_owned(),
            format!("--tlscacert={}", at("tls/ca.pem")),
            format!("--tlscert={}", at("tls/server-cert.pem")),
            format!("--tlskey={}", at("tls/server-key.pem")),
            format!("--socket=path={},policy=read-only,mode=0600", at("read-only.sock")),
            format!("--socket=path={},policy={}", at("team.sock"), at("policy.json")),
            format!("--audit-log={}", at("audit.log")),
        ];
        let world = World::start(Options { flags: flags.to_vec(), ..Options::default() });
        let world = world.unwrap_or_else(|error| panic!("{error:?}"));
        Self { world, files, port }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// What a client needs to come in over TLS.
    fn tls(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DOCKER_HOST", format!("tcp://127.0.0.1:{}", self.port)),
            ("DOCKER_TLS_VERIFY", "1".to_owned()),
            ("DOCKER_CERT_PATH", self.file("tls").display().to_string()),
        ]
    }
}

/// The shared daemon.
fn doors() -> Arc<Doors> {
    static SHARED: Mutex<Weak<Doors>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(doors) = shared.upgrade() {
        return doors;
    }
    let doors = Arc::new(Doors::start());
    *shared = Arc::downgrade(&doors);
    doors
}

/// Ours, and Docker's where it is installed.
fn clients() -> Vec<PathBuf> {
    let mut all = vec![paths::gantry().expect("the binary under test is built")];
    match paths::program("docker") {
        Some(docker) => all.push(docker),
        None => gantry_tests::skip("no docker CLI on this machine"),
    }
    all
}

/// A client with this environment and an empty home.
fn client(program: &Path, home: &Path, environment: &[(&str, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for name in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "DOCKER_HOST"] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("DOCKER_CONFIG", home).envs(environment.iter().map(|(k, v)| (k, v))).args(arguments);
    command
}

/// Runs such a client to its end.
#[track_caller]
fn run(program: &Path, home: &Path, environment: &[(&str, String)], arguments: &[&str]) -> Output {
    let mut command = client(program, home, environment, arguments);
    command::run(&mut command, None, command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Certificates, by the program that people use for them.
fn certificates(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new(paths::gantry().expect("the binary under test is built"));
    command.args(["system", "tls-init"]).args(arguments).arg(directory);
    command::succeed(&mut command, command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"));
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
