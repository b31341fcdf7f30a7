//! A first process in a user namespace that was made beforehand, with the network namespace that belongs to it: a helper
//! enters both and clones the process with the other new namespaces, which thereby belong to the user namespace too.

use std::os::fd::{BorrowedFd, OwnedFd};

use gantry_linux::process::{self, CloneFlags};

use super::staged::become_root;
use super::start::{First, set_oom_score};
use crate::error::Result;

/// What the helper enters.
#[derive(Debug)]
pub struct Inside {
    /// The user namespace; its user 0 is mapped.
    pub user: OwnedFd,
    /// A network namespace that belongs to it.
    pub net: OwnedFd,
}

/// Enters the namespaces, and for what is cloned then the pid namespace: in a process that does nothing else.
pub fn enter_user_namespace(inside: &Inside, first: &First, pid_namespace: Option<BorrowedFd<'_>>) -> Result<()> {
    // Inside it is nobody's own file any more.
    set_oom_score(first.config.process.oom_score_adj, true)?;
    process::setns(&inside.user, CloneFlags::NEWUSER, "the container's users")?;
    process::setns(&inside.net, CloneFlags::NEWNET, "the container's network")?;
    if let Some(namespace) = pid_namespace {
        process::setns(namespace, CloneFlags::NEWPID, "the configured path")?;
    }
    become_root()
}
