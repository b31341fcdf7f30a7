//! Where the containers' state is.

use std::path::{Component, Path, PathBuf};

use gantry_linux::fs;

use crate::error::{Error, Result};

const DEFAULT: &str = "/run/gantry-runtime";

/// The state directory, absolute. A user's own is in `XDG_RUNTIME_DIR`, marked so that it is not cleaned up.
pub fn directory(chosen: Option<&Path>) -> Result<PathBuf> {
    if let Some(chosen) = chosen {
        let root = cleaned(&absolute(chosen)?);
        if root == Path::new("/") {
            return Err(Error::Usage("Option --root argument should not be set to /".into()));
        }
        return Ok(root);
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) if is_users_own() => {
            let root = Path::new(&directory).join("gantry-runtime");
            fs::create_dir_mode(&root, 0o1700)?;
            Ok(root)
        }
        _ => Ok(DEFAULT.into()),
    }
}

/// Relative to the working directory of now; it may change to the bundle.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| gantry_linux::Error::new("resolve", path.display().to_string(), error).into())
}

fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = clean.pop(),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// Whether an unprivileged user asks, possibly as root of a user namespace of their own.
fn is_users_own() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let in_user_namespace =
        fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().ne(["0", "0", "4294967295"]));
    in_user_namespace && std::env::var_os("USER").is_none_or(|user| user != "root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_machine_is_no_state_directory() {
        for path in ["/", "/..", "/x/.."] {
            assert!(directory(Some(Path::new(path))).is_err(), "{path}");
        }
        assert_eq!(directory(Some(Path::new("/run/./a/../b"))).unwrap(), Path::new("/run/b"));
    }
}
