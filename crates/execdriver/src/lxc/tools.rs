//! LXC's programs: found, and new enough.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::Error;

/// The oldest major version whose configuration file and cgroup handling we write for.
const OLDEST: u32 = 5;
/// Where programs are; a daemon's own `PATH` may lack the second.
const DIRECTORIES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"];

/// LXC as it is installed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tools {
    /// `lxc-start`.
    pub start: PathBuf,
    /// What it says its version is.
    pub version: String,
}

impl Tools {
    /// Looks for LXC where programs are.
    ///
    /// # Errors
    /// [`Error::System`]: it is not there or too old; says which package to install.
    pub fn find() -> Result<Self, Error> {
        Self::find_in(&DIRECTORIES)
    }

    fn find_in(directories: &[impl AsRef<Path>]) -> Result<Self, Error> {
        let mut places = directories.iter().map(|directory| directory.as_ref().join("lxc-start"));
        match places.find(|path| gantry_linux::fs::metadata(path).is_ok()) {
            Some(start) => Self::at(start),
            None => Err(Error::System(
                "the lxc execdriver needs LXC 5 or newer, and there is no lxc-start: install the package lxc, or use \
                 --exec-driver native"
                    .into(),
            )),
        }
    }

    /// This `lxc-start`, if it is new enough.
    ///
    /// # Errors
    /// See [`Tools::find`].
    pub fn at(start: PathBuf) -> Result<Self, Error> {
        let mut question = Command::new(&start);
        let output = question.arg("--version").env_clear().stdin(Stdio::null()).output();
        let output =
            output.map_err(|error| Error::System(format!("ask {} for its version: {error}", start.display())))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if major(&version).is_none_or(|major| major < OLDEST) {
            return Err(Error::System(format!(
                "the lxc execdriver needs LXC {OLDEST} or newer, and {} says that it is {version:?}: install a newer \
                 package lxc, or use --exec-driver native",
                start.display()
            )));
        }
        Ok(Self { start, version })
    }
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Tools, major};

    #[test]
    fn where_there_is_no_lxc_the_package_is_named() {
        let error = Tools::find_in(&["/no/such/directory"]).unwrap_err().to_string();
        assert!(error.contains("install the package lxc"), "{error}");
    }

    #[test]
    fn versions_are_understood_or_refused() {
        assert_eq!(major("5.0.2"), Some(5));
        assert_eq!(major("10.1.0-devel"), Some(10));
        assert_eq!(major("devel"), None);
        assert_eq!(major(""), None);
    }
}
