//! What testssl would look at: which protocols and suites the daemon speaks, tried one by one with openssl.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;

use gantry_tests::{Output, command, paths};

use super::{Doors, doors};

fn openssl(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(paths::need("openssl").expect("openssl"));
    command::run(command.args(arguments), Some(input), command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"))
}

fn arguments(doors: &Doors) -> Vec<String> {
    let tls = |name: &str| doors.file("tls").join(name).display().to_string();
    let address = format!("127.0.0.1:{}", doors.port);
    let (ca, cert, key) = (tls("ca.pem"), tls("cert.pem"), tls("key.pem"));
    ["s_client", "-connect", &address, "-CAfile", &ca, "-cert", &cert, "-key", &key].map(str::to_owned).to_vec()
}

fn connect(doors: &Doors, flags: &[&str], input: &[u8]) -> Output {
    let usual = arguments(doors);
    openssl(&[&usual.iter().map(String::as_str).collect::<Vec<_>>()[..], flags].concat(), input)
}

/// The suites of a list with which a connection comes about; and how many of the others the daemon itself refused.
fn spoken(doors: &Doors, all: &[String], flags: impl Fn(&str) -> Vec<String> + Sync) -> (BTreeSet<String>, usize) {
    let (next, found) = (Mutex::new(all.iter()), Mutex::new((BTreeSet::new(), 0)));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(suite) = next.lock().expect("the list").next() else { return };
                    let flags = flags(suite);
                    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                    let output = connect(doors, &flags, b"");
                    let mut found = found.lock().expect("what was found");
                    if output.stdout.contains("Verify return code: 0 (ok)")
                        && !output.stdout.contains("Cipher is (NONE)")
                    {
                        found.0.insert(suite.clone());
                    } else if output.stderr.contains("alert") {
                        found.1 += 1;
                    }
                }
            });
        }
    });
    found.into_inner().expect("what was found")
}

fn list(arguments: &[&str]) -> Vec<String> {
    let names = openssl(&[&["ciphers"][..], arguments].concat(), b"").ok();
    names.trim().split(':').map(str::to_owned).collect()
}

#[test]
fn of_all_suites_that_openssl_knows_only_the_strong_ones_are_spoken() {
    let doors = doors();
    let old = list(&["-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]);
    let old: Vec<String> = old.into_iter().filter(|suite| !suite.starts_with("TLS_")).collect();
    assert!(old.len() > 100, "{old:?}");
    let flags = |suite: &str| ["-tls1_2", "-cipher", &format!("{suite}:@SECLEVEL=0")].map(str::to_owned).to_vec();
    let (found, refused) = spoken(&doors, &old, flags);
    // The certificate of tls-init has an elliptic key.
    let strong =
        ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"].map(|rest| format!("ECDHE-ECDSA-{rest}"));
    assert_eq!(found, BTreeSet::from(strong));
    assert!(refused > 50, "the daemon was asked: {refused}");
    let new = [
        "AES_128_GCM_SHA256",
        "AES_256_GCM_SHA384",
        "CHACHA20_POLY1305_SHA256",
        "AES_128_CCM_SHA256",
        "AES_128_CCM_8_SHA256",
    ];
    let new = new.map(|rest| format!("TLS_{rest}"));
    let flags = |suite: &str| ["-tls1_3", "-ciphersuites", suite].map(str::to_owned).to_vec();
    let (found, refused) = spoken(&doors, &new, flags);
    assert_eq!((found, refused), (BTreeSet::from_iter(new[..3].iter().cloned()), 2));
}

#[test]
fn old_protocols_are_refused_by_the_daemon_and_nothing_is_negotiated_twice() {
    let doors = doors();
    for old in ["-tls1", "-tls1_1"] {
        let output = connect(&doors, &[old, "-cipher", "ALL:@SECLEVEL=0"], b"");
        let refused =
            ["alert protocol version", "alert handshake failure"].iter().any(|alert| output.stderr.contains(alert));
        assert!(output.code != 0 && refused, "{old}: {output}");
    }
    // `R` asks for another handshake on the connection: it gets no answer, and nobody else waits for one.
    let mut again = Command::new("timeout");
    again.arg("2").arg(paths::need("openssl").expect("openssl")).args(arguments(&doors)).args(["-tls1_2", "-msg"]);
    let output = command::run(&mut again, Some(b"R\n"), command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"));
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(output.code != 0 && said.contains("RENEGOTIATING"), "{output}");
    assert_eq!(said.matches("ServerHello\n").count(), 1, "{output}");
    assert_eq!(doors.world.daemon.get("/_ping").expect("an answer").status, 200);
    // Nor are its sessions taken up again.
    let again = connect(&doors, &["-tls1_2", "-reconnect"], b"");
    assert_eq!(again.stdout.matches("\nReused, ").count(), 0, "{again}");
}
