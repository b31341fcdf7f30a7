//! Contexts: named daemons, kept where and as Docker keeps them, so that both programs share them.
//!
//! `contexts/meta/<sha256 of the name>/meta.json` tells where the daemon is, `contexts/tls/<the same>/docker/` has what
//! TLS needs; `currentContext` in config.json is the one in use.

mod archive;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use gantry_transport::tls::Verification;
use gantry_transport::{ClientTls, Endpoint};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Result, reason};

/// The context that is always there: flags, environment, the usual sockets.
pub const DEFAULT: &str = "default";
/// The endpoint that is spoken to.
const DOCKER: &str = "docker";
/// What TLS needs, under Docker's names.
pub const TLS_FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// What a context's meta.json says. What others have put there is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// `Description`, and what other programs keep.
    pub metadata: Map<String, Value>,
    /// `docker`, and those of other programs.
    pub endpoints: Map<String, Value>,
}

/// All contexts of a person.
pub struct Contexts<'a> {
    /// The directory of config.json.
    pub directory: &'a Path,
}

/// The material of TLS, in the order of [`TLS_FILES`]; `None` where there is none.
pub type Material = [Option<Vec<u8>>; 3];

impl Meta {
    /// One line for people.
    pub fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or_default()
    }

    /// Sets it; empty takes it away.
    pub fn describe(&mut self, text: &str) {
        if text.is_empty() {
            self.metadata.remove("Description");
        } else {
            self.metadata.insert("Description".to_owned(), text.into());
        }
    }

    /// Where the daemon is.
    pub fn host(&self) -> &str {
        self.endpoints.get(DOCKER).and_then(|docker| docker["Host"].as_str()).unwrap_or_default()
    }

    /// Whether whoever answers is believed.
    pub fn skips_verification(&self) -> bool {
        self.endpoints.get(DOCKER).is_some_and(|docker| docker["SkipTLSVerify"] == true)
    }

    /// Sets where the daemon is.
    pub fn point(&mut self, host: &str, skip_verification: bool) {
        let docker = serde_json::json!({ "Host": host, "SkipTLSVerify": skip_verification });
        self.endpoints.insert(DOCKER.to_owned(), docker);
    }
}

/// Refuses what is no name of a context.
pub fn check_name(name: &str) -> Result<()> {
    if name == DEFAULT {
        return Err(Failure::new("\"default\" is a reserved context name"));
    }
    let mut letters = name.bytes();
    let first = letters.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'+' | b'-'));
    if first && rest && name.len() > 1 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
    )))
}

fn identity(name: &str) -> String {
    Sha256::digest(name).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{what} {}: {}", path.display(), reason(error)))
}

fn not_found(name: &str) -> Failure {
    Failure::new(format!("context {name:?} not found: 'context ls' shows those that exist"))
}

impl Contexts<'_> {
    /// Where a context's meta.json is.
    pub fn meta_directory(&self, name: &str) -> PathBuf {
        self.directory.join("contexts/meta").join(identity(name))
    }

    /// Where its certificates are.
    pub fn tls_directory(&self, name: &str) -> PathBuf {
        self.directory.join("contexts/tls").join(identity(name))
    }

    fn tls_file(&self, name: &str, file: &str) -> PathBuf {
        self.tls_directory(name).join(DOCKER).join(file)
    }

    /// A context.
    pub fn read(&self, name: &str) -> Result<Meta> {
        let path = self.meta_directory(name).join("meta.json");
        match std::fs::read(&path) {
            Ok(text) => parse(&path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_found(name)),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    /// Whether there is such a context.
    pub fn exists(&self, name: &str) -> bool {
        self.meta_directory(name).join("meta.json").exists()
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Meta>> {
        let root = self.directory.join("contexts/meta");
        let entries = match std::fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &root, &error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| failed("read", &root, &error))?.path().join("meta.json");
            if let Ok(text) = std::fs::read(&path) {
                all.push(parse(&path, &text)?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Writes a context, and its certificates where some are given; `None` keeps those that it has.
    pub fn write(&self, meta: &Meta, material: Option<&Material>) -> Result<()> {
        if let Some(material) = material {
            let directory = self.tls_directory(&meta.name);
            remove_directory(&directory)?;
            for (file, bytes) in TLS_FILES.iter().zip(material) {
                if let Some(bytes) = bytes {
                    put(&self.tls_file(&meta.name, file), bytes, 0o700)?;
                }
            }
        }
        put(&self.meta_directory(&meta.name).join("meta.json"), &serde_json::to_vec(meta)?, 0o755)
    }

    /// Removes a context and its certificates.
    pub fn remove(&self, name: &str) -> Result<()> {
        remove_directory(&self.meta_directory(name))?;
        remove_directory(&self.tls_directory(name))
    }

    /// Its certificates.
    pub fn material(&self, name: &str) -> Result<Material> {
        let mut all = Material::default();
        for (file, bytes) in TLS_FILES.iter().zip(&mut all) {
            let path = self.tls_file(name, file);
            match std::fs::read(&path) {
                Ok(read) => *bytes = Some(read),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read", &path, &error)),
            }
        }
        Ok(all)
    }

    /// How its daemon is reached.
    pub fn door(&self, name: &str) -> Result<(Endpoint, Option<ClientTls>)> {
        let meta = self.read(name)?;
        let [ca, certificate, key] = TLS_FILES.map(|file| self.tls_file(name, file));
        // A file that may not be looked at is not one that is not there: without TLS everybody could be the daemon.
        let is_there = |path: &Path| path.try_exists().map_err(|error| failed("look for", path, &error));
        let (has_ca, has_identity) = (is_there(&ca)?, is_there(&certificate)? && is_there(&key)?);
        let identity = has_identity.then_some((certificate, key));
        let tls = (has_ca || identity.is_some() || meta.skips_verification()).then(|| ClientTls {
            verification: match (meta.skips_verification(), has_ca) {
                (true, _) => Verification::None,
                (false, true) => Verification::Authority(ca),
                (false, false) => Verification::Machine,
            },
            identity,
        });
        Ok((Endpoint::parse(meta.host(), tls.is_some())?, tls))
    }

    /// Makes it the one in use; the rest of config.json stays.
    pub fn choose(&self, name: &str) -> Result<()> {
        let path = self.directory.join("config.json");
        let mut config: Map<String, Value> = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        if name == DEFAULT {
            config.remove("currentContext");
        } else {
            config.insert("currentContext".to_owned(), name.into());
        }
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        config.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format))?;
        put(&path, &text, 0o700)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Meta> {
    serde_json::from_slice(text).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
}

fn remove_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path, &error)),
    }
}

/// Writes a file that nobody else reads, in one step.
pub fn put(path: &Path, bytes: &[u8], directory_mode: u32) -> Result<()> {
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(directory_mode).create(directory)?;
        // Where it is a link the person wants the file that it leads to.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let beside = target.with_extension(format!("{}.tmp", std::process::id()));
        // New, or it could be somebody else's, who then reads keys.
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let written = file.write_all(bytes).and_then(|()| std::fs::rename(&beside, &target));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&beside);
        }
        written
    };
    write().map_err(|error| failed("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_kept_where_docker_looks_with_what_others_put_there() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts { directory: home.path() };
        let text = r#"{"Name":"far","Metadata":{"Description":"x","other":1},"Endpoints":{"docker":{"Host":"ssh://a@b"},"kubernetes":{"x":2}}}"#;
        let mut meta = parse(Path::new("x"), text.as_bytes()).unwrap();
        meta.describe("y");
        contexts.write(&meta, Some(&[Some(b"ca".to_vec()), None, None])).unwrap();
        // sha256("far"), as Docker names its directories.
        let id = "512eea46ceb3921dff4363c7069d89d4964d1d9fccaa0f411851a7aa60a5c868";
        assert!(home.path().join("contexts/meta").join(id).join("meta.json").exists());
        let read = contexts.read("far").unwrap();
        assert_eq!((read.host(), read.description(), &read.metadata["other"]), ("ssh://a@b", "y", &Value::from(1)));
        assert_eq!(read.endpoints["kubernetes"]["x"], 2);
        assert_eq!(contexts.material("far").unwrap()[0].as_deref(), Some(&b"ca"[..]));
        contexts.remove("far").unwrap();
        assert!(!contexts.exists("far") && !contexts.tls_directory("far").exists());
    }

    #[test]
    fn choosing_a_context_leaves_the_rest_of_the_configuration() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config.json"), r#"{"auths":{"x":{}},"psFormat":"y"}"#).unwrap();
        let contexts = Contexts { directory: home.path() };
        contexts.choose("far").unwrap();
        let text = std::fs::read_to_string(home.path().join("config.json")).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, serde_json::json!({"auths": {"x": {}}, "currentContext": "far", "psFormat": "y"}));
        contexts.choose(DEFAULT).unwrap();
        assert!(!std::fs::read_to_string(home.path().join("config.json")).unwrap().contains("currentContext"));
    }

    #[test]
    fn names_are_those_that_docker_takes() {
        for good in ["ab", "a.b+c-d_e", "9x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "default", "-x", "a/b", "..", "a b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
