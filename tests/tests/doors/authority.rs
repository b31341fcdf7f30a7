//! An authority of a test's own, by openssl: certificates as people's own tools make them, as good or as bad as wanted.

use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_tests::{command, paths};

/// Its certificates are for clients and servers on loopback.
const RULES: &str = "
[req]
distinguished_name = anything
[anything]
commonName = optional
[ca]
default_ca = own
[own]
dir = .
database = index
new_certs_dir = .
serial = serial
crlnumber = number
certificate = ca.pem
private_key = ca-key.pem
default_md = sha256
default_days = 30
default_crl_days = 30
policy = anything
unique_subject = no
x509_extensions = member
crl_extensions = list
[list]
authorityKeyIdentifier = keyid:always
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[member]
subjectAltName = IP:127.0.0.1
extendedKeyUsage = serverAuth,clientAuth
authorityKeyIdentifier = keyid:always
";

pub struct Authority {
    files: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { files: tempfile::tempdir().expect("a directory") };
        for (name, content) in [("rules", RULES), ("index", ""), ("serial", "1000\n"), ("number", "01\n")] {
            std::fs::write(authority.file(name), content).expect("write the authority's files");
        }
        let new = ["req", "-x509", "-days", "30", "-subj", "/CN=the authority", "-extensions", "authority"];
        authority.openssl(&[&new[..], &KEY, &["-keyout", "ca-key.pem", "-out", "ca.pem"]].concat());
        authority
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// `NAME/{ca,cert,key}.pem`, as clients want them; `dates` are such as `20200101000000Z`.
    pub fn issue(&self, name: &str, dates: Option<[&str; 2]>) -> PathBuf {
        let directory = self.file(name);
        std::fs::create_dir(&directory).expect("make a directory");
        std::fs::copy(self.file("ca.pem"), directory.join("ca.pem")).expect("the authority");
        let (key, request, certificate) =
            (format!("{name}/key.pem"), format!("{name}/csr"), format!("{name}/cert.pem"));
        let subject = format!("/CN={name}");
        self.openssl(&[&["req", "-new", "-subj", &subject][..], &KEY, &["-keyout", &key, "-out", &request]].concat());
        let mut sign = vec!["ca", "-batch", "-notext", "-in", &request, "-out", &certificate];
        if let Some([from, to]) = dates {
            sign.extend(["-startdate", from, "-enddate", to]);
        }
        self.openssl(&sign);
        directory
    }

    /// Revokes a certificate, and gives the authority's certificate with its new list.
    pub fn revoke(&self, name: &str) -> Vec<u8> {
        self.openssl(&["ca", "-revoke", &format!("{name}/cert.pem")]);
        self.openssl(&["ca", "-gencrl", "-out", "list.pem"]);
        [read(&self.file("ca.pem")), read(&self.file("list.pem"))].concat()
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new(paths::need("openssl").expect("openssl"));
        command.args(&arguments[..1]).args(["-config", "rules"]).args(&arguments[1..]).current_dir(self.files.path());
        command::succeed(&mut command, command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// A new key of the usual kind.
const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a file of the authority")
}
