//! What is kept of a container under the exec root: `c/<id>/` with the supervisor's socket `s`, its cgroup's path `leaf`
//! where that does not follow from the id, and `exit` when it has ended.

use std::fs::File;
use std::path::{Path, PathBuf};

use gantry_linux::fs::{self, Durability};

use crate::{Error, Exit};

/// The supervisor's socket.
pub const SOCKET: &str = "s";
const EXIT: &str = "exit";
const LEAF: &str = "leaf";

/// A container's directory.
#[derive(Debug, Clone)]
pub struct Record {
    path: PathBuf,
}

impl Record {
    /// Of the container `id`; an id that is no plain name is refused.
    pub fn new(exec_root: &Path, id: &str) -> Result<Self, Error> {
        let plain = !id.is_empty()
            && id.len() <= 128
            && !id.starts_with('.')
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !plain {
            return Err(Error::Invalid(format!("container id {id:?}: use letters, digits, `_`, `.` and `-`")));
        }
        Ok(Self { path: exec_root.join("c").join(id) })
    }

    /// Ids of all containers that have a directory.
    pub fn list(exec_root: &Path) -> Result<Vec<String>, gantry_linux::Error> {
        match fs::list(exec_root.join("c")) {
            Ok(names) => Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory; whether it was not there before.
    pub fn make(&self) -> Result<bool, gantry_linux::Error> {
        match fs::create_dir(&self.path) {
            Ok(()) => {
                fs::set_mode(&self.path, 0o700)?;
                Ok(true)
            }
            Err(error) if error.errno() == rustix::io::Errno::EXIST.raw_os_error() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens the directory.
    pub fn open(&self) -> Result<File, gantry_linux::Error> {
        fs::open(&self.path)
    }

    /// Notes the path of the cgroup.
    pub fn set_leaf(&self, leaf: &str) -> Result<(), gantry_linux::Error> {
        fs::write_atomic(self.path.join(LEAF), leaf.as_bytes(), 0o600, Durability::Process)
    }

    /// The cgroup's path as noted; `None` where it follows from the id.
    pub fn leaf(&self) -> Option<String> {
        fs::read_to_string(self.path.join(LEAF)).ok()
    }

    /// Notes how the container ended, in one step.
    pub fn set_exit(&self, exit: &Exit) -> Result<(), gantry_linux::Error> {
        let json = serde_json::to_vec(exit)
            .map_err(|error| gantry_linux::Error::new("encode", "exit record", std::io::Error::from(error)))?;
        fs::write_atomic(self.path.join(EXIT), &json, 0o600, Durability::Process)
    }

    /// How the container ended; `None` while it runs, or when nobody could note it.
    pub fn exit(&self) -> Result<Option<Exit>, Error> {
        let path = self.path.join(EXIT);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
                .map_err(|error| Error::System(format!("read {}: {error}", path.display()))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::System(error.to_string())),
        }
    }

    /// Forgets an earlier end.
    pub fn clear_exit(&self) -> Result<(), gantry_linux::Error> {
        ignore_missing(fs::remove_file(self.path.join(EXIT)))
    }

    /// Removes the socket's name.
    pub fn remove_socket(&self) -> Result<(), gantry_linux::Error> {
        ignore_missing(fs::remove_file(self.path.join(SOCKET)))
    }

    /// Removes the directory unless there is something in it.
    pub fn remove_if_empty(&self) -> Result<(), gantry_linux::Error> {
        fs::remove_dir(&self.path)
    }

    /// Removes the directory with everything in it.
    pub fn remove(&self) -> Result<(), gantry_linux::Error> {
        fs::remove_dir_all(&self.path)
    }
}

fn ignore_missing(result: Result<(), gantry_linux::Error>) -> Result<(), gantry_linux::Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
