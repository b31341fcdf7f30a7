//! The doors' settings in `daemon.json`.

use std::process::Command;

use gantry_tests::{Options, Output, World, command};
use serde_json::json;

use super::{certificates, clients, free_port, run};

/// Becomes the daemon without `-H`, whose value goes into the settings as a further host.
const AS_SETTINGS: &str = r#"file=$1 rest=$2; shift 2; for word do shift
if [ "$word" = -H ]; then take=1; elif [ "$take" ]; then take=; printf '{"hosts": ["%s", %s' "$word" "$rest" > "$file"
else set -- "$@" "$word"; fi; done; exec "$@" --config-file "$file""#;

#[test]
fn hosts_and_certificates_of_the_settings_are_served() {
    let files = tempfile::tempdir().expect("a directory");
    let at = |name: &str| files.path().join(name).display().to_string();
    certificates(&files.path().join("tls"), &["--host", "127.0.0.1"]);
    let port = free_port();
    let rest = format!(
        r#""tcp://127.0.0.1:{port}"], "tlsverify": true, "tlscacert": "{}", "tlscert": "{}", "tlskey": "{}",
        "sockets": ["path={},policy=read-only,mode=0600"], "audit-log": "{}"}}"#,
        at("tls/ca.pem"),
        at("tls/server-cert.pem"),
        at("tls/server-key.pem"),
        at("look.sock"),
        at("audit"),
    );
    let before = ["/bin/sh", "-c", AS_SETTINGS, "settings", &at("daemon.json"), &rest].map(str::to_owned).to_vec();
    let world = World::start(Options { before, ..Options::default() }).unwrap_or_else(|error| panic!("{error:?}"));
    let home = tempfile::tempdir().expect("a home");
    let tls = [
        ("DOCKER_HOST", format!("tcp://127.0.0.1:{port}")),
        ("DOCKER_TLS_VERIFY", "1".to_owned()),
        ("DOCKER_CERT_PATH", at("tls")),
    ];
    for program in clients() {
        run(&program, home.path(), &tls, &["volume", "create", &world.name("told")]).ok();
        run(&program, home.path(), &tls[..1], &["ps"]).fails(1, "HTTP request to an HTTPS server");
        let look = [("DOCKER_HOST", format!("unix://{}", at("look.sock")))];
        run(&program, home.path(), &look, &["ps"]).ok();
        run(&program, home.path(), &look, &["volume", "create"]).fails(1, "not allowed through unix://");
    }
    assert!(std::fs::read_to_string(at("audit")).expect("the audit log").contains("CN=client"));
}

#[test]
fn what_is_a_flag_and_a_setting_is_refused_in_dockers_words() {
    let files = tempfile::tempdir().expect("a directory");
    let at = |name: &str| files.path().join(name).display().to_string();
    let start = |settings: &serde_json::Value, flags: &[&str]| -> Output {
        std::fs::write(at("daemon.json"), settings.to_string()).expect("write the settings");
        let mut daemon = Command::new(&clients()[0]);
        daemon.args([
            "daemon",
            "--bridge=none",
            "--iptables=false",
            "--data-root",
            &at("data"),
            "--exec-root",
            &at("run"),
        ]);
        daemon.args(["--config-file", &at("daemon.json")]).args(flags);
        command::run(&mut daemon, None, command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"))
    };
    let both = "the following directives are specified both as a flag and in the configuration file: ";
    let output = start(&json!({ "hosts": ["unix:///x"] }), &["-H", "fd://"]);
    output.fails(1, &format!("{both}hosts: (from flag: [fd://], from file: [unix:///x])"));
    let output = start(&json!({ "tlsverify": true, "tlscacert": "/a" }), &["--tlsverify", "--tlscacert", "/b"]);
    output.fails(
        1,
        &format!("{both}tlscacert: (from flag: /b, from file: /a), tlsverify: (from flag: true, from file: true)"),
    );
    start(&json!({ "hosts": ["tcp://0.0.0.0:0"] }), &[]).fails(1, "nothing protects this address");
    start(&json!({ "hosts": "unix:///x" }), &[]).fails(1, "hosts");
    start(&json!({ "tlsverify": true, "tlscacert": at("none") }), &[]).fails(1, "cannot read");
}
