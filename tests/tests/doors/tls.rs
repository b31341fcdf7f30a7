//! Who does not get in over TLS, what they are told, and what openssl and curl think of it.

use std::process::Command;

use gantry_tests::{Output, command, eventually, paths};

use super::{certificates, clients, doors, free_port, run};

#[test]
fn whoever_is_not_believed_is_told_why_in_one_sentence() {
    let doors = doors();
    let stranger = tempfile::tempdir().expect("a directory");
    certificates(stranger.path(), &["--host", "127.0.0.1"]);
    let gantry = &clients()[0];
    let home = tempfile::tempdir().expect("a home");
    let ask = |environment: &[(&str, String)], flags: &[&str]| -> String {
        let output = run(gantry, home.path(), environment, &[flags, &["ps"]].concat());
        assert_eq!(output.code, 1, "{output}");
        assert_eq!(output.stderr.trim_end().lines().count(), 1, "{output}");
        output.stderr
    };
    let ours = doors.file("tls").display().to_string();
    let host = || ("DOCKER_HOST", format!("tcp://127.0.0.1:{}", doors.port));
    // The wrong authority on either side.
    let said = ask(&[host()], &["--tlsverify", &format!("--tlscacert={}/ca.pem", stranger.path().display())]);
    assert!(said.contains("unknown authority") && said.contains("--tlscacert"), "{said}");
    let theirs = stranger.path().display();
    let flags = [
        format!("--tlscacert={ours}/ca.pem"),
        format!("--tlscert={theirs}/cert.pem"),
        format!("--tlskey={theirs}/key.pem"),
    ];
    let said = ask(&[host()], &["--tlsverify", &flags[0], &flags[1], &flags[2]]);
    assert!(said.contains("does not know the authority that signed this client's certificate"), "{said}");
    // None at all.
    let said = ask(&[host()], &["--tlsverify", &flags[0]]);
    assert!(said.contains("wants a client's certificate"), "{said}");
    // Plain HTTP to a port of TLS, and the reverse.
    let said = ask(&[host()], &[]);
    assert!(said.contains("HTTP request to an HTTPS server") && said.contains("--tlsverify"), "{said}");
    let named =
        [("DOCKER_HOST", format!("tcp://localhost:{}", doors.port)), doors.tls()[1].clone(), doors.tls()[2].clone()];
    let said = ask(&named, &[]);
    assert!(said.contains("is for 127.0.0.1, not for localhost"), "{said}");
    let nobody = [("DOCKER_HOST", format!("tcp://127.0.0.1:{}", free_port()))];
    assert!(ask(&nobody, &["--tls"]).contains("Is the docker daemon running?"));
}

#[test]
fn a_daemon_without_tls_is_told_from_one_with_it() {
    let port = free_port();
    let flags = vec!["-H".to_owned(), format!("tcp://127.0.0.1:{port}")];
    let options = gantry_tests::Options { flags, ..gantry_tests::Options::default() };
    let _daemon = gantry_tests::Daemon::with(options).unwrap_or_else(|error| panic!("{error:?}"));
    let home = tempfile::tempdir().expect("a home");
    let environment = [("DOCKER_HOST", format!("tcp://127.0.0.1:{port}"))];
    let output = run(&clients()[0], home.path(), &environment, &["--tls", "ps"]);
    output.fails(1, "does not speak TLS there: leave --tls and --tlsverify out");
}

#[test]
fn certificates_are_read_again_on_sighup_and_those_of_before_open_nothing() {
    let files = tempfile::tempdir().expect("a directory");
    certificates(&files.path().join("old"), &["--host", "127.0.0.1"]);
    certificates(&files.path().join("new"), &["--host", "127.0.0.1"]);
    let current = files.path().join("current");
    std::fs::create_dir(&current).expect("make a directory");
    let install = |from: &str| {
        for file in ["ca.pem", "server-cert.pem", "server-key.pem"] {
            std::fs::copy(files.path().join(from).join(file), current.join(file)).expect("install a file");
        }
    };
    install("old");
    let port = free_port();
    let at = |name: &str| current.join(name).display().to_string();
    let flags = vec![
        "-H".to_owned(),
        format!("tcp://127.0.0.1:{port}"),
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", at("ca.pem")),
        format!("--tlscert={}", at("server-cert.pem")),
        format!("--tlskey={}", at("server-key.pem")),
    ];
    let options = gantry_tests::Options { flags, ..gantry_tests::Options::default() };
    let daemon = gantry_tests::Daemon::with(options).unwrap_or_else(|error| panic!("{error:?}"));
    let home = tempfile::tempdir().expect("a home");
    let ask = |from: &str| -> Output {
        let environment = [
            ("DOCKER_HOST", format!("tcp://127.0.0.1:{port}")),
            ("DOCKER_TLS_VERIFY", "1".to_owned()),
            ("DOCKER_CERT_PATH", files.path().join(from).display().to_string()),
        ];
        run(&clients()[0], home.path(), &environment, &["ps", "-q"])
    };
    ask("old").ok();
    ask("new").fails(1, "unknown authority");
    // What cannot be used changes nothing.
    std::fs::write(current.join("server-key.pem"), "nonsense").expect("damage the key");
    daemon.hangup().expect("tell the daemon");
    eventually("the daemon says that the old certificates stay", || {
        daemon.log().contains("the old certificates stay in use")
    });
    ask("old").ok();
    install("new");
    daemon.hangup().expect("tell the daemon");
    eventually("the new ones are in use", || ask("new").code == 0);
    ask("old").fails(1, "unknown authority");
}

#[test]
fn openssl_believes_the_daemon_and_curl_gets_in() {
    let doors = doors();
    let tls = |name: &str| doors.file("tls").join(name).display().to_string();
    for protocol in ["-tls1_3", "-tls1_2"] {
        let mut openssl = Command::new(paths::need("openssl").expect("openssl"));
        openssl.args(["s_client", "-connect", &format!("127.0.0.1:{}", doors.port), "-CAfile", &tls("ca.pem")]);
        openssl.args(["-cert", &tls("cert.pem"), "-key", &tls("key.pem"), "-verify_return_error", protocol]);
        let output = command::run(&mut openssl, Some(b""), command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"));
        assert!(output.stdout.contains("Verify return code: 0 (ok)"), "{protocol}: {output}");
        assert!(output.stdout.contains("Secure Renegotiation IS supported") || protocol == "-tls1_3", "{output}");
    }
    let mut curl = Command::new(paths::need("curl").expect("curl"));
    curl.args(["-sS", "--cacert", &tls("ca.pem"), "--cert", &tls("cert.pem"), "--key", &tls("key.pem")]);
    curl.arg(format!("https://127.0.0.1:{}/_ping", doors.port));
    assert_eq!(command::run(&mut curl, None, command::LIMIT).expect("curl").ok(), "OK");
}

#[test]
fn tcp_that_others_reach_is_refused_without_tls_with_the_reason() {
    let root = tempfile::tempdir().expect("a directory");
    let mut daemon = Command::new(&clients()[0]);
    let at = |name: &str| root.path().join(name).display().to_string();
    daemon.args(["daemon", "--bridge=none", "--iptables=false", "--data-root", &at("data"), "--exec-root", &at("run")]);
    daemon.args(["-H", "tcp://0.0.0.0:0"]);
    let output = command::run(&mut daemon, None, command::LIMIT).expect("the daemon ends");
    output.fails(1, "whoever reaches the API is root on this machine");
    output.fails(1, "--insecure-no-tls");
}
