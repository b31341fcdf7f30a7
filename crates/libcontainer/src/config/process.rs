//! What a process of a container is: its first one, or an exec.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::attributes::{CpuAffinity, IoPriority, MemoryPolicy, Personality, Scheduler};
use super::capabilities::Capabilities;
use crate::error::{Error, Result};
use crate::protection::intact;

/// A process to be started in a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Program and arguments; the program is looked up in the container's `PATH` when it has no slash.
    pub args: Vec<String>,
    /// `NAME=value`. `HOME` is added from the container's passwd file when it is missing.
    pub env: Vec<String>,
    /// Absolute; made when missing for the first process.
    pub cwd: PathBuf,
    /// Whom it runs as.
    pub user: User,
    /// Names or ids of further groups (`--group-add`), looked up in the container's `/etc/group`.
    pub additional_groups: Vec<String>,
    /// `None` is 0022.
    pub umask: Option<u32>,
    /// Give it a terminal.
    pub terminal: bool,
    /// Initial size of the terminal, rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// What it may do.
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// Compiled by [`crate::seccomp`]; `None` is unconfined. Not serialised: it travels beside as bytes.
    #[serde(skip)]
    pub seccomp: Option<std::sync::Arc<[u8]>>,
    /// How the program is installed: `SECCOMP_FILTER_FLAG_*` without those that a listener brings.
    pub seccomp_flags: u32,
    /// Who answers the calls that the program passes on.
    pub seccomp_listener: Option<SeccompListener>,
    /// Resource limits by their `RLIMIT_` names, each at most once.
    pub rlimits: Vec<Rlimit>,
    /// `/proc/self/oom_score_adj`; `None` leaves its maker's. One that the kernel refuses to lower stays.
    pub oom_score_adj: Option<i32>,
    /// How it gets its share of the processors.
    pub scheduler: Option<Scheduler>,
    /// How it gets its share of the disks.
    pub io_priority: Option<IoPriority>,
    /// Which processors run it; for an exec.
    pub cpu_affinity: Option<CpuAffinity>,
    /// What kind of machine it sees.
    pub personality: Option<Personality>,
    /// Where its memory comes from.
    pub memory_policy: Option<MemoryPolicy>,
    /// Name of the session keyring that it gets: that of the container's first process, or a new one; `None` leaves its
    /// maker's.
    pub keyring: Option<String>,
    /// Profile that AppArmor confines the program with; must be loaded. See [`crate::lsm`].
    pub apparmor_profile: Option<String>,
    /// SELinux context of the program.
    pub selinux_label: Option<String>,
}

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// Docker's `USER` string: empty, `user`, `uid`, `user:group`, resolved against the container's own `/etc/passwd`
    /// and `/etc/group`, inside its root, bounded. Groups are those that `su` would give.
    Named(String),
    /// OCI's: exactly these.
    Ids {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Supplementary groups.
        additional_gids: Vec<u32>,
    },
}

impl Default for User {
    fn default() -> Self {
        Self::Named(String::new())
    }
}

impl From<&str> for User {
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

impl From<String> for User {
    fn from(name: String) -> Self {
        Self::Named(name)
    }
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As `RLIMIT_NOFILE`.
    pub name: String,
    /// `u64::MAX` is unlimited.
    pub soft: u64,
    /// `u64::MAX` is unlimited.
    pub hard: u64,
}

impl Process {
    /// Refuses what cannot be, as far as that is seen without the container's files: to be called before the first side
    /// effect.
    pub fn validate(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::Invalid(text));
        if self.args.first().is_none_or(String::is_empty) {
            return invalid("no command specified".into());
        }
        if !self.cwd.is_absolute() {
            return invalid(format!("working directory {:?}: not an absolute path", self.cwd));
        }
        if let User::Ids { uid, gid, additional_gids } = &self.user {
            // The kernel takes it for "leave as it is", which may be root.
            let none = |id: &&u32| **id == u32::MAX && intact("uid-range");
            if let Some(id) = [uid, gid].into_iter().chain(additional_gids).find(none) {
                return invalid(format!("{id}: not a user or group id"));
            }
        }
        if let Some(mask) = self.umask.filter(|mask| *mask > 0o777) {
            return invalid(format!("umask {mask:o}: not permission bits"));
        }
        if let Some(score) = self.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            return invalid(format!("oom score adjustment {score}: not in -1000–1000"));
        }
        if let Some(name) = self.keyring.as_ref().filter(|name| name.is_empty() || name.contains('\0')) {
            return invalid(format!("{name:?}: not a name of a keyring"));
        }
        let words = [&self.apparmor_profile, &self.selinux_label];
        if let Some(word) = words.into_iter().flatten().find(|word| word.is_empty() || word.contains(['\0', '\n'])) {
            return invalid(format!("{word:?}: not an AppArmor profile or SELinux label"));
        }
        self.capabilities.check()?;
        crate::container::check_rlimits(&self.rlimits)?;
        self.scheduler.iter().try_for_each(Scheduler::validate)?;
        self.io_priority.iter().try_for_each(IoPriority::validate)?;
        self.cpu_affinity.iter().try_for_each(CpuAffinity::validate)?;
        self.memory_policy.iter().try_for_each(MemoryPolicy::validate)
    }
}

/// A seccomp program with all that its installation needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seccomp {
    /// An array of `struct sock_filter`.
    pub program: std::sync::Arc<[u8]>,
    /// See [`Process::seccomp_flags`].
    pub flags: u32,
    /// See [`Process::seccomp_listener`].
    pub listener: Option<SeccompListener>,
}

/// An agent that answers system calls which a seccomp program passes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompListener {
    /// Unix stream socket on the host; it is sent the listener's descriptor and the container's state.
    pub path: PathBuf,
    /// For the agent, in the state.
    pub metadata: String,
}
