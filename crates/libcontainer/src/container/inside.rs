//! A first process in a user namespace that was made beforehand, with the network namespace that belongs to it: a helper
//! enters both and clones the process with the other new namespaces, which thereby belong to the user namespace too.

use std::os::fd::{BorrowedFd, OwnedFd};

use gantry_linux::process::{self, CloneFlags};

use super::staged::become_root;
use super::start::{First, join_keyring, set_oom_score};
use crate::error::Result;

/// What the helper enters.
#[derive(Debug)]
pub struct Inside {
    /// The user namespace; its user 0 is mapped.
    pub user: OwnedFd,
    /// A network namespace that belongs to it; `None` where the process enters another one.
    pub net: Option<OwnedFd>,
}

/// Enters the namespaces, and for what is cloned then the pid namespace: in a process that does nothing else.
pub fn enter_user_namespace(inside: &Inside, first: &First, pid_namespace: Option<BorrowedFd<'_>>) -> Result<()> {
    // Inside it is nobody's own file any more.
    set_oom_score(first.config.process.oom_score_adj, true)?;
    // As the host's root, who may have many of them: they count against who joins them.
    join_keyring(&first.config.process, &first.report)?;
    process::setns(&inside.user, CloneFlags::NEWUSER, "the container's users")?;
    if let Some(net) = &inside.net {
        process::setns(net, CloneFlags::NEWNET, "the container's network")?;
    }
    if let Some(namespace) = pid_namespace {
        process::setns(namespace, CloneFlags::NEWPID, "the configured path")?;
    }
    become_root()
}
