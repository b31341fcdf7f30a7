//! `certs.d/<host>/`: whom a registry's certificate may be signed by (`*.crt`), and who we are to it (`*.cert` with `*.key`).

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gantry_linux::fs;
use reqwest::{Certificate, ClientBuilder, Identity, Url};

use crate::{Error, Result};

/// Where administrators put them, ours first.
pub const DIRECTORIES: [&str; 2] = ["/etc/gantry/certs.d", "/etc/docker/certs.d"];

/// The files for one registry, and when each was written: others make another client.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Certificates(Vec<(PathBuf, SystemTime)>);

impl Certificates {
    /// Those for the host of a URL; mostly none.
    ///
    /// # Errors
    /// When a directory is there and cannot be read.
    pub fn of(url: &Url, directories: &[PathBuf]) -> Result<Self> {
        let Some(host) = url.host_str() else { return Ok(Self::default()) };
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let names = with_port.iter().map(String::as_str).chain([host]);
        let mut files = Vec::new();
        for directory in names.flat_map(|name| directories.iter().map(move |directory| directory.join(name))) {
            match fs::list(&directory) {
                Ok(names) => {
                    for path in names.iter().map(|name| directory.join(name)).filter(|path| is_one(path)) {
                        let written = fs::metadata(&path)
                            .map_err(|error| unreadable(&error))?
                            .modified()
                            .unwrap_or(SystemTime::UNIX_EPOCH);
                        files.push((path, written));
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(unreadable(&error)),
            }
        }
        files.sort();
        Ok(Self(files))
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client with them.
    ///
    /// # Errors
    /// When a file is none, or lacks its other half.
    pub fn add_to(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        let has = |path: &Path| self.0.iter().any(|(known, _)| known == path);
        for (path, _) in &self.0 {
            let invalid = |reason: String| Error::invalid(path.display().to_string(), reason);
            match extension(path) {
                "crt" => {
                    let all = Certificate::from_pem_bundle(&fs::read(path).map_err(|error| unreadable(&error))?);
                    let all = all.map_err(|error| invalid(format!("not certificates in PEM: {error}")))?;
                    builder = builder.tls_certs_merge(all);
                }
                "cert" => {
                    let key = path.with_extension("key");
                    if !has(&key) {
                        return Err(invalid(format!(
                            "missing key {} for client certificate. CA certificates must use the extension .crt",
                            key.display()
                        )));
                    }
                    let mut both = fs::read(&key).map_err(|error| unreadable(&error))?;
                    both.push(b'\n');
                    both.extend(fs::read(path).map_err(|error| unreadable(&error))?);
                    // What the library would say of it could be the key.
                    let identity = Identity::from_pem(&both);
                    builder =
                        builder.identity(identity.map_err(|_| invalid("not a certificate and its key in PEM".into()))?);
                }
                _ if !has(&path.with_extension("cert")) => {
                    let certificate = path.with_extension("cert");
                    return Err(invalid(format!("missing client certificate {} for this key", certificate.display())));
                }
                _ => {}
            }
        }
        Ok(builder)
    }
}

fn unreadable(error: &gantry_linux::Error) -> Error {
    Error::invalid("certificates of a registry", error.to_string())
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn is_one(path: &Path) -> bool {
    matches!(extension(path), "crt" | "cert" | "key")
}
