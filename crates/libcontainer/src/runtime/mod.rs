//! Containers described by a bundle and a state directory, made and used by processes that come and go.
//!
//! Nothing here prints, reads the environment or ends the process; what was left out is returned as warnings. Creating and
//! executing clone the calling process, which must have a single thread; they mark its descriptors from 3 on
//! close-on-exec. A program with threads starts one without for this, as `libcontainer-c` does.

mod birth;
mod cgroup;
mod console;
mod container;
mod convert;
mod create;
mod delete;
mod directory;
mod exec;
mod mappings;
mod notify;
mod options;
mod parts;
mod plan;
mod protect;
mod record;
mod shared_root;

use std::path::{Path, PathBuf};

pub use container::Container;
pub use options::{ConsoleSocket, CreateOptions, Created, ExecOptions, Executed};
pub use protect::protect;

#[cfg(test)]
pub(crate) use convert::namespaces;
use directory::{Directory, check_id};
use record::Record;

use crate::error::Result;

/// The containers below one state directory.
///
/// ```no_run
/// use libcontainer::runtime::Runtime;
///
/// # fn main() -> libcontainer::Result<()> {
/// let (containers, warnings) = Runtime::new("/run/mine").list()?;
/// for container in &containers {
///     let state = container.state()?;
///     println!("{} is {}, process {}", state.id, state.status, state.pid);
/// }
/// // One that is damaged hides no other.
/// warnings.iter().for_each(|warning| eprintln!("{warning}"));
/// # Ok(())
/// # }
/// ```
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
    ///
    /// # Errors
    /// The configuration asks for what cannot be ([`crate::Error::Invalid`]), the name is taken
    /// ([`crate::Error::Conflict`]), or a step failed ([`crate::Error::Failed`]).
    pub fn create(&self, id: &str, bundle: &Path, options: &CreateOptions) -> Result<Created> {
        create::create(&self.root, id, bundle, options)
    }

    /// A container that is there.
    ///
    /// # Errors
    /// There is none of this name ([`crate::Error::NoSuchContainer`]), or what is remembered of it is damaged.
    pub fn open(&self, id: &str) -> Result<Container> {
        let directory = Directory::of(&self.root, id)?;
        match Record::read(directory.path())? {
            Some(record) => Ok(Container::new(directory, record)),
            // Its creator was killed at once; it can be deleted.
            None => {
                let nowhere = Path::new("/");
                let mut record = Record::new(id, crate::oci::VERSION, nowhere, nowhere);
                record.created.clear();
                Ok(Container::new(directory, record))
            }
        }
    }

    /// The containers, by id. A damaged one is left out and told of in the warnings.
    pub fn list(&self) -> Result<(Vec<Container>, Vec<String>)> {
        let mut names: Vec<String> = match gantry_linux::fs::list(&self.root) {
            Ok(names) => names.into_iter().filter_map(|name| name.into_string().ok()).collect(),
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        names.retain(|name| check_id(name).is_ok() && self.root.join(name).is_dir());
        names.sort_unstable();
        let (mut containers, mut warnings) = (Vec::new(), Vec::new());
        for name in names {
            match self.open(&name) {
                Ok(container) => containers.push(container),
                // Deleted meanwhile.
                Err(crate::Error::NoSuchContainer(_)) => {}
                Err(error) => warnings.push(format!("container {name}: {error}")),
            }
        }
        Ok((containers, warnings))
    }
}
