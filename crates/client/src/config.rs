//! The person's `config.json`: headers, detach keys, formats, credentials. What is written of it leaves the rest as it is.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result, reason};

/// What is read of config.json.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where it is, whether it is there or not; none for a person without a home.
    #[serde(skip)]
    path: Option<PathBuf>,
    /// The context that is used when none is named.
    #[serde(rename = "currentContext")]
    pub current_context: String,
    pub(crate) auths: BTreeMap<String, Auth>,
    /// The helper that keeps credentials: `docker-credential-…`.
    #[serde(rename = "credsStore")]
    pub(crate) creds_store: String,
    /// Helpers of single registries.
    #[serde(rename = "credHelpers")]
    pub(crate) cred_helpers: BTreeMap<String, String>,
    /// Added to each request.
    #[serde(rename = "HttpHeaders")]
    pub http_headers: BTreeMap<String, String>,
    /// Instead of ctrl-p,ctrl-q.
    #[serde(rename = "detachKeys")]
    pub detach_keys: String,
    /// Default of `ps --format`.
    #[serde(rename = "psFormat")]
    pub ps_format: String,
    /// Default of `images --format`.
    #[serde(rename = "imagesFormat")]
    pub images_format: String,
}

/// Credentials as the file has them.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct Auth {
    pub auth: String,
    pub username: String,
    pub password: String,
    pub identitytoken: String,
    pub registrytoken: String,
}

impl Config {
    /// Reads it from that directory, `DOCKER_CONFIG` or `~/.docker`; one that is not there is empty.
    pub fn load(directory: Option<&str>) -> Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = match directory {
            Some(directory) => Some(PathBuf::from(directory)),
            None => variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker"))),
        };
        let Some(path) = directory.map(|directory| directory.join("config.json")) else { return Ok(Self::default()) };
        let config = match read(&path)? {
            Some(text) => serde_json::from_slice(&text).map_err(|error| unreadable(&path, &error.to_string()))?,
            None => Self::default(),
        };
        Ok(Self { path: Some(path), ..config })
    }

    /// The directory that it is in; contexts and certificates are beside it.
    pub fn directory(&self) -> &Path {
        self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(".docker"))
    }

    /// Where it is.
    pub fn path(&self) -> Result<&Path> {
        self.path
            .as_deref()
            .ok_or_else(|| Failure::new("credentials cannot be kept: neither HOME nor DOCKER_CONFIG is set"))
    }

    /// Puts credentials under that key, or with `None` takes them out; says whether there were any.
    pub fn set_auth(&self, key: &str, auth: Option<Value>) -> Result<bool> {
        let path = self.path()?;
        let mut whole: Map<String, Value> = match read(path)? {
            Some(text) => serde_json::from_slice(&text).map_err(|error| unreadable(path, &error.to_string()))?,
            None => Map::new(),
        };
        let auths = whole.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if auths.is_null() {
            *auths = Value::Object(Map::new());
        }
        let auths = auths.as_object_mut().ok_or_else(|| unreadable(path, "auths is not an object"))?;
        let before = match auth {
            Some(auth) => auths.insert(key.to_owned(), auth),
            None => auths.remove(key),
        };
        if auths.is_empty() {
            whole.remove("auths");
        }
        write(path, &serde_json::to_vec_pretty(&whole)?)?;
        Ok(before.is_some())
    }
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::new(format!("cannot read {}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(unreadable(path, &reason(&error))),
    }
}

/// Replaces the file in one step; it is for its owner's eyes only. Where it is a link, what that leads to is replaced.
fn write(path: &Path, text: &[u8]) -> Result<()> {
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = target.parent().unwrap_or_else(|| Path::new("."));
    let failed = |error: std::io::Error| Failure::new(format!("cannot write {}: {}", target.display(), reason(&error)));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let staged = directory.join(format!(".config.json.{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        if let Ok(before) = std::fs::metadata(&target) {
            // With sudo it stays its owner's.
            std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&staged, &target)
    })();
    written.map_err(|error| {
        // What could not be written need not be removed.
        let _ = std::fs::remove_file(&staged);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_leaves_the_rest_is_for_the_owner_alone_and_follows_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("elsewhere.json"), directory.path().join("config.json"));
        std::fs::write(&file, r#"{"auths": {"a": {"auth": "x"}}, "plugins": {"y": {"z": "1"}}}"#).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let config = Config::load(directory.path().to_str()).unwrap();
        assert!(!config.set_auth("b", Some(serde_json::json!({"auth": "y"}))).unwrap());
        let whole: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(whole["plugins"]["y"]["z"], "1");
        assert_eq!((&whole["auths"]["a"]["auth"], &whole["auths"]["b"]["auth"]), (&"x".into(), &"y".into()));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(config.set_auth("b", None).unwrap() && !config.set_auth("b", None).unwrap());
        assert!(std::fs::read_dir(directory.path()).unwrap().count() == 2, "nothing half-written is left");
    }
}
