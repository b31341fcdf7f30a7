//! Certificates that are good no more: expired ones, and those that a reload says were revoked, also of connections that are
//! open.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use gantry_tests::{IMAGE, Options, Output, World, command, eventually};

use super::authority::Authority;
use super::{client, clients, free_port, run};

const PAST: Option<[&str; 2]> = Some(["20200101000000Z", "20210101000000Z"]);

/// A daemon that believes an authority, with what it reads in files that a test exchanges.
struct Guarded {
    authority: Authority,
    world: World,
    port: u16,
}

impl Guarded {
    fn start() -> Self {
        let authority = Authority::new();
        authority.issue("server", None);
        let port = free_port();
        let at = |name: &str| authority.file(name).display().to_string();
        std::fs::copy(authority.file("ca.pem"), authority.file("clients.pem")).expect("whom it believes");
        let flags = vec![
            "-H".to_owned(),
            format!("tcp://127.0.0.1:{port}"),
            "--tlsverify".to_owned(),
            format!("--tlscacert={}", at("clients.pem")),
            format!("--tlscert={}", at("server/cert.pem")),
            format!("--tlskey={}", at("server/key.pem")),
        ];
        let world = World::start(Options { flags, ..Options::default() }).unwrap_or_else(|error| panic!("{error:?}"));
        Self { authority, world, port }
    }

    fn environment(&self, who: &Path) -> Vec<(&'static str, String)> {
        vec![
            ("DOCKER_HOST", format!("tcp://127.0.0.1:{}", self.port)),
            ("DOCKER_TLS_VERIFY", "1".to_owned()),
            ("DOCKER_CERT_PATH", who.display().to_string()),
        ]
    }

    fn ask(&self, program: &Path, who: &Path) -> Output {
        let home = tempfile::tempdir().expect("a home");
        run(program, home.path(), &self.environment(who), &["ps", "-q"])
    }

    fn follow(&self, who: &Path, arguments: &[&str]) -> Child {
        let mut command = client(&clients()[0], who, &self.environment(who), arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start a client")
    }
}

/// Waits for what a client says, so that it is known to be connected.
fn says(child: &mut Child, wanted: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().expect("its output"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    assert!(line.contains(wanted), "{line}");
}

#[test]
fn expired_certificates_of_either_side_are_refused_with_the_reason() {
    let guarded = Guarded::start();
    let (good, old) = (guarded.authority.issue("ann", None), guarded.authority.issue("old", PAST));
    for program in clients() {
        guarded.ask(&program, &good).ok();
        let refused = guarded.ask(&program, &old);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(refused.stderr.contains("expired"), "{refused}");
    }
    guarded.ask(&clients()[0], &old).fails(1, "cert.pem has expired: ask for a new one");
    guarded.authority.issue("former", PAST);
    for file in ["cert.pem", "key.pem"] {
        let (from, to) = (guarded.authority.file("former").join(file), guarded.authority.file("server").join(file));
        std::fs::copy(from, to).expect("install a file");
    }
    guarded.world.daemon.hangup().expect("tell the daemon");
    eventually("the new certificate is in use", || guarded.ask(&clients()[0], &good).code != 0);
    guarded.ask(&clients()[0], &good).fails(1, "the daemon's certificate expired on 2021-01-01T00:00:00Z");
    if let Some(docker) = clients().get(1) {
        let refused = guarded.ask(docker, &good);
        assert!(refused.code != 0 && refused.stderr.contains("certificate has expired"), "{refused}");
    }
}

#[test]
fn a_revoked_certificate_opens_nothing_and_loses_what_it_had_open() {
    let guarded = Guarded::start();
    let (ann, ben) = (guarded.authority.issue("ann", None), guarded.authority.issue("ben", None));
    let name = guarded.world.name("echo");
    guarded.world.gantry().ok(&["run", "-d", "-i", "--name", &name, IMAGE, "cat"]);
    // A stream over HTTP each, and a hijacked one.
    let mut open = Vec::new();
    for who in [&ann, &ben] {
        let mut attached = guarded.follow(who, &["attach", "--sig-proxy=false", &name]);
        attached.stdin.as_mut().expect("its input").write_all(b"echoed\n").expect("type");
        says(&mut attached, "echoed");
        let mut events = guarded.follow(who, &["events", "--since", "1h", "--format", "{{.Action}}"]);
        says(&mut events, "");
        open.push([attached, events]);
    }
    std::fs::write(guarded.authority.file("clients.pem"), guarded.authority.revoke("ann")).expect("revoke");
    guarded.world.daemon.hangup().expect("tell the daemon");
    let [mut annas, mut bens] = <[_; 2]>::try_from(open).expect("two people");
    for child in &mut annas {
        command::wait(child, Duration::from_secs(20)).expect("what was open is closed");
    }
    for program in clients() {
        let refused = guarded.ask(&program, &ann);
        assert!(refused.code != 0 && refused.stderr.contains("revoked"), "{refused}");
        guarded.ask(&program, &ben).ok();
    }
    guarded.ask(&clients()[0], &ann).fails(1, "cert.pem was revoked: ask for a new one");
    bens[0].stdin.as_mut().expect("its input").write_all(b"again\n").expect("type");
    says(&mut bens[0], "again");
    for child in &mut bens {
        assert!(child.try_wait().expect("look").is_none(), "who has a good certificate stays");
        child.kill().and_then(|()| child.wait()).expect("end a client");
    }
    guarded.world.gantry().ok(&["rm", "-f", &name]);
}
