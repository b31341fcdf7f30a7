//! The first process is cloned once, with all its new namespaces. Who has a user namespace is careful about the order: a
//! namespace is owned by the user namespace that its maker is in, and is joined with privileges over it.

use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use crate::config::{Config, Namespace};
use crate::container::become_root;
use crate::error::Result;

/// Namespaces to enter, opened before anything is made.
type Joins = Vec<(CloneFlags, OwnedFd)>;

/// How the process comes into its namespaces.
pub struct Birth {
    /// New ones, made by the clone.
    flags: CloneFlags,
    /// Entered by the process itself.
    join: Joins,
    /// Entered by a helper that clones the process, the user namespace where its owner's privileges allow.
    helper: Joins,
    /// Entered by who clones it: a pid namespace is for children.
    pid: Option<OwnedFd>,
}

impl Birth {
    /// Opens what is to be joined.
    pub fn plan(config: &Config) -> Result<Self> {
        let spaces = &config.namespaces;
        let kinds = [
            (&spaces.user, CloneFlags::NEWUSER),
            (&spaces.net, CloneFlags::NEWNET),
            (&spaces.ipc, CloneFlags::NEWIPC),
            (&spaces.uts, CloneFlags::NEWUTS),
            (&spaces.cgroup, CloneFlags::NEWCGROUP),
            (&spaces.time, CloneFlags::NEWTIME),
            (&spaces.pid, CloneFlags::NEWPID),
            (&spaces.mount, CloneFlags::NEWNS),
        ];
        let mut birth = Self { flags: CloneFlags::NONE, join: Vec::new(), helper: Vec::new(), pid: None };
        let mut joins = Vec::new();
        for (namespace, kind) in kinds {
            match namespace {
                // Made by the process itself, in its cgroup.
                Namespace::New if kind == CloneFlags::NEWCGROUP || kind == CloneFlags::NEWTIME => {}
                Namespace::New => birth.flags = birth.flags.with(kind),
                Namespace::Path(path) => {
                    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                    joins.push((kind, file.during("open namespace", path.display())?));
                }
                Namespace::Host => {}
            }
        }
        if spaces.user != Namespace::Host {
            birth.helper = joins;
            return Ok(birth);
        }
        for (kind, file) in joins {
            match kind {
                CloneFlags::NEWPID => birth.pid = Some(file),
                _ => birth.join.push((kind, file)),
            }
        }
        Ok(birth)
    }

    /// What the process itself has to enter, once.
    pub fn take_joins(&mut self) -> Joins {
        std::mem::take(&mut self.join)
    }

    /// Whether the caller's clone is not the process's own parent in the cgroup: it is put there afterwards.
    pub fn has_helper(&self) -> bool {
        !self.helper.is_empty()
    }

    /// Clones it as the caller's child; born in `cgroup` where that is possible.
    pub fn clone(&self, cgroup: Option<&OwnedFd>) -> Result<Clone> {
        if self.has_helper() {
            return self.clone_by_helper();
        }
        let own = match &self.pid {
            Some(namespace) => {
                let path = "/proc/self/ns/pid";
                let own =
                    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
                process::setns(namespace, CloneFlags::NEWPID, "the configured path")?;
                Some(own)
            }
            None => None,
        };
        let cloned = process::clone_into(self.flags, cgroup.map(AsFd::as_fd));
        if let (Some(own), Ok(Clone::Parent(_)) | Err(_)) = (own, &cloned) {
            process::setns(own, CloneFlags::NEWPID, "the runtime")?;
        }
        Ok(cloned?)
    }

    /// A helper enters what there is to enter, and clones the process as its own sibling.
    fn clone_by_helper(&self) -> Result<Clone> {
        let (answer, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make", "pipe")?;
        let helper = match process::clone(CloneFlags::NONE)? {
            Clone::Parent(helper) => helper,
            Clone::Child => {
                match self.enter().and_then(|()| Ok(process::clone(self.flags.with(CloneFlags::PARENT))?)) {
                    Ok(Clone::Child) => return Ok(Clone::Child),
                    Ok(Clone::Parent(pid)) => tell(&theirs, pid.as_raw_nonzero().get(), ""),
                    Err(error) => tell(&theirs, 0, &error.to_string()),
                }
            }
        };
        drop(theirs);
        Ok(Clone::Parent(hear(&answer, helper, "namespaces of the configuration")?))
    }

    /// First with the caller's privileges, then with those in the user namespace.
    fn enter(&self) -> Result<()> {
        let mut later = Vec::new();
        let mut user = None;
        for (kind, file) in &self.helper {
            if *kind == CloneFlags::NEWUSER {
                user = Some(file);
                continue;
            }
            match process::setns(file, *kind, "the configured path") {
                Ok(()) => {}
                Err(error) if error.errno() == libc::EPERM => later.push((kind, file)),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(user) = user {
            process::setns(user, CloneFlags::NEWUSER, "the configured path")?;
            become_root()?;
        }
        for (kind, file) in later {
            process::setns(file, *kind, "the configured path")?;
        }
        Ok(())
    }
}

/// The helper's last word, in one packet.
pub fn tell(answer: &OwnedFd, pid: i32, why: &str) -> ! {
    let mut message = pid.to_ne_bytes().to_vec();
    message.extend(why.bytes().take(2000));
    let told = rustix::io::write(answer, &message).is_ok();
    process::exit_now(i32::from(!told))
}

/// Reaps the helper; the process that it cloned, or why there is none.
pub fn hear(answer: &OwnedFd, helper: Pid, entered: &str) -> Result<Pid> {
    let mut message = vec![0; 4096];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(answer, &mut message)).during("hear from", "helper");
    process::wait_for(helper)?;
    message.truncate(read?);
    let lost = |why: String| SystemError::new("enter", entered.to_owned(), std::io::Error::other(why));
    let (number, text) = message.split_first_chunk::<4>().ok_or_else(|| lost("the helper ended".into()))?;
    match Pid::from_raw(i32::from_ne_bytes(*number)) {
        Some(pid) => Ok(pid),
        None => Err(lost(String::from_utf8_lossy(text).into_owned()).into()),
    }
}
