//! Containers described by a bundle and a state directory, made and used by processes that come and go.
//!
//! Nothing here prints, reads the environment or ends the process; what was left out is returned as warnings. Creating and
//! executing clone the calling process, which must have a single thread.

mod container;
mod options;

use std::path::{Path, PathBuf};

pub use container::Container;
pub use options::{ConsoleSocket, CreateOptions, Created, ExecOptions, Executed};

use crate::error::{Error, Result};

/// The containers below one state directory.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
}

impl Runtime {
    /// With state in `root`, which is made when it is needed.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Creates a container from `bundle/config.json`: everything but the program's start. On failure nothing is left.
    pub fn create(&self, id: &str, bundle: &Path, options: &CreateOptions) -> Result<Created> {
        let _ = (bundle, options, &self.root);
        Err(unfinished("create", id))
    }

    /// A container that is there.
    pub fn open(&self, id: &str) -> Result<Container> {
        Err(unfinished("open", id))
    }

    /// The containers, by id. A damaged one is left out and told of in the warnings.
    pub fn list(&self) -> Result<(Vec<Container>, Vec<String>)> {
        Err(unfinished("list", "containers"))
    }
}

fn unfinished(what: &str, subject: &str) -> Error {
    Error::Invalid(format!("{what} {subject}: being built"))
}
