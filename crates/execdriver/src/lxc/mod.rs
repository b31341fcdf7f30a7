//! The lxc driver: LXC's tools make the container's first process, in the cgroups and namespaces that they make for it;
//! then the supervisor takes it over from them. Streams, log, attach, exec and exit are those of every supervisor, so a
//! container of either driver is served and restored by both.

mod configuration;
mod launch;
mod stage;
mod tools;

use std::sync::Arc;

use crate::native::{Maker, Native, NativeOptions};
use crate::{Error, ExecDriver, Exit, Running, Sandbox};

pub use configuration::{no_user_namespace, validate};
pub(crate) use launch::{Launch, Launched, tidy};
pub(crate) use stage::{is_stage, stage_main};
pub use tools::Tools;

/// The lxc driver.
pub struct Lxc {
    supervisors: Native,
    version: String,
}

impl Lxc {
    /// Looks for LXC, then starts the first supervisors.
    ///
    /// # Errors
    /// [`Error::System`] when LXC is missing or too old: the message names the package. [`Error::Invalid`] for an exec
    /// root whose path LXC cannot be told.
    pub fn new(options: NativeOptions) -> Result<Self, Error> {
        Self::with(options, Tools::find()?)
    }

    /// As [`Lxc::new`], with LXC's programs from where they were found.
    ///
    /// # Errors
    /// See [`Lxc::new`].
    pub fn with(options: NativeOptions, tools: Tools) -> Result<Self, Error> {
        if !configuration::is_plain(&options.exec_root) {
            let path = options.exec_root.display();
            return Err(Error::Invalid(format!("exec root {path}: the lxc execdriver needs a path of plain letters")));
        }
        let version = tools.version.clone();
        Ok(Self { supervisors: Native::with(options, Maker::Lxc(tools))?, version })
    }

    /// What `lxc-start --version` says.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl ExecDriver for Lxc {
    fn name(&self) -> &'static str {
        "lxc"
    }

    fn prepare(&self) -> Result<Box<dyn Sandbox>, Error> {
        self.supervisors.prepare()
    }

    fn start_role(&self, name: &str) -> Result<std::os::fd::OwnedFd, Error> {
        self.supervisors.start_role(name)
    }

    fn restore(&self, id: &str) -> Result<Arc<dyn Running>, Error> {
        self.supervisors.restore(id)
    }

    fn last_exit(&self, id: &str) -> Result<Option<Exit>, Error> {
        self.supervisors.last_exit(id)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        self.supervisors.list()
    }

    fn forget(&self, id: &str) -> Result<(), Error> {
        self.supervisors.forget(id)
    }
}
