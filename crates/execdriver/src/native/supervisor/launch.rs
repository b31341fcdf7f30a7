//! A start whose process is made by LXC: what the supervisor gives it, and how it takes the process over.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use gantry_linux::process::CloneFlags;
use gantry_linux::{Error as SystemError, ResultExt};
use libcontainer::config::{Config, Namespace};
use libcontainer::container::First;
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use super::start::{Joins, first_of, with_seed};
use super::{REMOVAL, Supervisor, open_own_netns};
use crate::lxc::{Launch, Launched, Tools};
use crate::native::protocol::{Kind, Refusal};

impl Supervisor {
    /// Has LXC make the process, and the process become what `first` says.
    pub(super) fn first_by_lxc(
        &mut self,
        tools: &Tools,
        first: &mut First,
        pid_namespace: Option<OwnedFd>,
    ) -> Result<Pid, Refusal> {
        let join = std::mem::take(&mut first.join);
        let launched = self.launch(tools, &first.config, &first.stage, join, pid_namespace)?;
        first.cgroups = self.cgroup_views();
        first.join = self.host_cgroup_namespace(&first.config)?;
        libcontainer::seed::hand_over(&launched.socket, first, own_cgroup_namespace(&first.config))?;
        Ok(launched.pid)
    }

    /// Has LXC make the process and its cgroup, which gets the container's limits and becomes the supervisor's own. On
    /// failure nothing of it is left but what `undo` and `give_back` remove.
    fn launch(
        &mut self,
        tools: &Tools,
        config: &Config,
        directory: &Path,
        join: Joins,
        pid_namespace: Option<OwnedFd>,
    ) -> Result<Launched, Refusal> {
        let mut shared: Vec<(&'static str, OwnedFd)> = pid_namespace.into_iter().map(|fd| ("pid", fd)).collect();
        for (kind, fd) in join {
            shared.push((lxc_name(kind)?, fd));
        }
        if !shared.iter().any(|(name, _)| *name == "net") {
            shared.push(("net", open_own_netns()?));
        }
        let launch = Launch {
            tools,
            config,
            directory,
            parent: self.cgroup_parent(),
            hierarchies: &self.hierarchies,
            shared,
            fail_at: libcontainer::steps::injected(),
        };
        let launched = launch.run()?;
        let warm = std::mem::replace(&mut self.leaf, launched.leaf.clone());
        // Execs are cloned by the seed, and are born where it is.
        if let Some(seed) = &self.seed {
            self.leaf.join(seed.pid.as_raw_nonzero().get().unsigned_abs())?;
        }
        warm.remove(Instant::now() + REMOVAL).map_err(first_of)?;
        let limited = self.leaf.apply(&with_seed(&config.resources));
        limited.map_err(|error| Refusal::new(Kind::Invalid, error.to_string()))?;
        Ok(launched)
    }

    /// LXC always makes a new cgroup namespace: a container that shares the host's goes back to it.
    fn host_cgroup_namespace(&self, config: &Config) -> Result<Joins, SystemError> {
        if config.namespaces.cgroup != Namespace::Host {
            return Ok(Vec::new());
        }
        let path = "/proc/self/ns/cgroup";
        let own = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
        Ok(vec![(CloneFlags::NEWCGROUP, own)])
    }
}

/// The namespaces that the process makes itself, when it is where it belongs: a new cgroup namespace begins in the cgroups
/// that its maker is in.
fn own_cgroup_namespace(config: &Config) -> CloneFlags {
    match config.namespaces.cgroup {
        Namespace::New => CloneFlags::NEWCGROUP,
        Namespace::Host | Namespace::Path(_) => CloneFlags::NONE,
    }
}

fn lxc_name(kind: CloneFlags) -> Result<&'static str, Refusal> {
    let names = [
        (CloneFlags::NEWNET, "net"),
        (CloneFlags::NEWUTS, "uts"),
        (CloneFlags::NEWIPC, "ipc"),
        (CloneFlags::NEWCGROUP, "cgroup"),
    ];
    let found = names.into_iter().find_map(|(flag, name)| (flag == kind).then_some(name));
    found.ok_or_else(|| Refusal::new(Kind::Invalid, "the lxc execdriver cannot join a namespace of this kind"))
}
