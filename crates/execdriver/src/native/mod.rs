//! The native driver: containers by libcontainer, in supervisors that outlive the daemon.

mod dispatch;
mod link;
mod pool;
mod protocol;
mod record;
mod running;
mod supervisor;
mod template;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_linux::fs;
use libcontainer::cgroups::{Hierarchies, Leaf};
use libcontainer::protection::intact;

use self::dispatch::Dispatch;
use self::link::system;
use self::pool::{Plan, Pool};
use self::record::Record;
use self::running::{NativeContainer, NativeSandbox, Shared};
use crate::lxc::Tools;
use crate::{Error, ExecDriver, Exit, Running, Sandbox};

pub use template::{FAIL_AT, Role, TEMPLATE_ROLE, is_template, template_main};

/// A cgroup whose members have ended is gone within this time.
const REMOVAL: Duration = Duration::from_secs(5);

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct NativeOptions {
    /// Containers' directories are in `c/` below it.
    pub exec_root: PathBuf,
    /// Absolute path, in each cgroup hierarchy, of the cgroup above all containers': `/gantry/<hash of exec root>`.
    pub cgroup_parent: String,
    /// How many supervisors are kept warm; 2 is a good number.
    pub warm: usize,
    /// The binary that becomes the template: `/proc/self/exe`.
    pub executable: PathBuf,
}

/// Who makes the processes of a driver's containers. Everything else is the supervisor's, the same for all.
#[derive(Debug, Clone)]
pub(crate) enum Maker {
    /// libcontainer.
    Native,
    /// LXC.
    Lxc(Tools),
}

/// The native driver.
pub struct Native {
    options: NativeOptions,
    shared: Shared,
}

impl Native {
    /// Starts the template and the first warm supervisors.
    pub fn new(options: NativeOptions) -> Result<Self, Error> {
        Self::with(options, Maker::Native)
    }

    /// As [`Native::new`]; the containers' processes are made by `maker`.
    pub(crate) fn with(options: NativeOptions, maker: Maker) -> Result<Self, Error> {
        let containers = options.exec_root.join("c");
        let mode = if intact("state-closed") { 0o700 } else { 0o755 };
        fs::create_dir_mode(&containers, mode).map_err(system)?;
        let hierarchies = Hierarchies::discover().map_err(system)?;
        sweep_leaves(&hierarchies, &options.cgroup_parent);
        if let Maker::Lxc(_) = maker {
            crate::lxc::tidy(&hierarchies, &options.cgroup_parent);
        }
        let plan = Plan {
            exec_root: options.exec_root.clone(),
            cgroup_parent: options.cgroup_parent.clone(),
            warm: options.warm,
            program: pool::seal(&options.executable).map_err(system)?,
        };
        let dispatch = Dispatch::start().map_err(system)?;
        let pool = Pool::start(plan, Arc::clone(&dispatch)).inspect_err(|_| dispatch.stop())?;
        let exec_root = options.exec_root.clone();
        Ok(Self { options, shared: Shared { dispatch, pool, hierarchies, exec_root, maker } })
    }

    fn leaf_of(&self, id: &str, record: &Record) -> Result<Leaf, Error> {
        let path = record.leaf().unwrap_or_else(|| format!("{}/{id}", self.options.cgroup_parent));
        Leaf::open(&self.shared.hierarchies, &path).map_err(system)
    }
}

/// Removes the leaves of warm supervisors, and of LXC's starts, that were killed before they could do so themselves. A
/// leaf in use stays.
fn sweep_leaves(hierarchies: &Hierarchies, parent: &str) {
    let Ok(parent_leaf) = Leaf::open(hierarchies, parent) else { return };
    let mut names = std::collections::BTreeSet::new();
    for path in parent_leaf.paths() {
        let found = fs::list(path.directory).unwrap_or_default();
        let names_of_ours = found.into_iter().filter_map(|name| name.into_string().ok());
        names.extend(names_of_ours.filter(|name| name.starts_with("warm-") || name.starts_with("@lxc-")));
    }
    for name in names {
        let Ok(leaf) = Leaf::open(hierarchies, &format!("{parent}/{name}")) else { continue };
        if leaf.procs().is_ok_and(|members| members.is_empty()) {
            // What cannot be removed now is tried again by the next daemon.
            let _ = leaf.remove(Instant::now());
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.shared.pool.close();
        self.shared.dispatch.stop();
        if let Maker::Lxc(_) = self.shared.maker {
            crate::lxc::tidy(&self.shared.hierarchies, &self.options.cgroup_parent);
        }
    }
}

impl ExecDriver for Native {
    fn name(&self) -> &'static str {
        match self.shared.maker {
            Maker::Native => "native",
            Maker::Lxc(_) => "lxc",
        }
    }

    fn prepare(&self) -> Result<Box<dyn Sandbox>, Error> {
        Ok(Box::new(NativeSandbox::new(self.shared.pool.take()?, self.shared.clone())))
    }

    fn start_role(&self, name: &str) -> Result<OwnedFd, Error> {
        self.shared.pool.start_role(name)
    }

    fn restore(&self, id: &str) -> Result<Arc<dyn Running>, Error> {
        Ok(NativeContainer::restore(id, &self.shared)?)
    }

    fn last_exit(&self, id: &str) -> Result<Option<Exit>, Error> {
        Record::new(&self.options.exec_root, id)?.exit()
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        Record::list(&self.options.exec_root).map_err(system)
    }

    fn forget(&self, id: &str) -> Result<(), Error> {
        let record = Record::new(&self.options.exec_root, id)?;
        let leaf = self.leaf_of(id, &record)?;
        let deadline = Instant::now() + REMOVAL;
        // The supervisor has removed it unless it was killed; then its container may be alive still.
        leaf.kill_all(deadline).map_err(system)?;
        leaf.remove(deadline)
            .map_err(|errors| Error::System(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        record.remove().map_err(system)
    }
}
