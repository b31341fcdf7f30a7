//! `spec`: a configuration to start from.

use gantry_linux::fs;

use crate::cli::Spec;
use crate::error::{Error, Result};

const ROOTFUL: &str = include_str!("rootful.json");
/// With the caller's ids in the places that are marked.
const ROOTLESS: &str = include_str!("rootless.json");

/// Writes `config.json`; one that is there stays.
pub fn spec(flags: &Spec) -> Result<u8> {
    let file = flags.bundle.clone().unwrap_or_default().join("config.json");
    if fs::symlink_metadata(&file).is_ok() {
        return Err(Error::Refused(format!("File {} exists. Remove it first", file.display())));
    }
    fs::write(&file, text(flags.rootless))?;
    Ok(0)
}

fn text(rootless: bool) -> String {
    if !rootless {
        return ROOTFUL.to_owned();
    }
    let uid = rustix::process::geteuid().as_raw().to_string();
    let gid = rustix::process::getegid().as_raw().to_string();
    ROOTLESS.replace("@UID@", &uid).replace("@GID@", &gid)
}

#[cfg(test)]
mod tests {
    use libcontainer::oci;

    use super::*;

    #[test]
    fn both_configurations_are_read_without_loss() {
        for rootless in [false, true] {
            let written: serde_json::Value = serde_json::from_str(&text(rootless)).unwrap();
            let spec = oci::Spec::parse(text(rootless).as_bytes()).unwrap();
            assert_eq!(spec.oci_version, oci::VERSION);
            let read = serde_json::to_value(&spec).unwrap();
            assert_eq!(read["mounts"], written["mounts"]);
            assert_eq!(read["linux"]["namespaces"], written["linux"]["namespaces"]);
        }
    }
}
