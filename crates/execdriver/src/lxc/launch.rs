//! In the supervisor: `lxc-start` is run, makes the container's first process, and is ended when that says hello.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gantry_linux::fs::{self, Durability};
use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::{Error as SystemError, ResultExt, socket};
use libcontainer::cgroups::{Hierarchies, Leaf, Version};
use libcontainer::config::Config;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal};

use super::configuration::{Places, reason, text};
use super::stage::STAGE_ROLE;
use super::tools::Tools;

/// LXC takes some 20 ms; on a machine under load more.
const DEADLINE: Duration = Duration::from_secs(60);
/// What LXC leaves is gone within this time.
const REMOVAL: Duration = Duration::from_secs(10);
/// LXC's locks are below it; a private one keeps them from staying.
const RUNTIME: &str = "/run/lxc";
const CONFIGURATION: &str = "lxc.conf";
const LOG: &str = "lxc.log";
/// LXC's cgroup for leaving its own.
const PIVOT: &str = "lxc.pivot";

type SystemResult<T> = Result<T, SystemError>;

/// What LXC is to make.
pub struct Launch<'a> {
    /// LXC.
    pub tools: &'a Tools,
    /// The container.
    pub config: &'a Config,
    /// Its directory: LXC's configuration file stays there for people to read.
    pub directory: &'a Path,
    /// The cgroup above the container's.
    pub parent: &'a str,
    /// The cgroup hierarchies.
    pub hierarchies: &'a Hierarchies,
    /// Namespaces that are not new, by LXC's names.
    pub shared: Vec<(&'static str, OwnedFd)>,
    /// A step at which the container's process fails, for tests.
    pub fail_at: Option<&'static str>,
}

/// A first process that waits for its order, and is a child of the caller's.
pub struct Launched {
    /// Where the order goes.
    pub socket: OwnedFd,
    /// Its process.
    pub pid: Pid,
    /// Its cgroup.
    pub leaf: Leaf,
}

/// Removes what LXC has left in the cgroup2 tree beside v1 hierarchies, where no container stays: below the containers'
/// parent that of starts which were killed half-way, and that parent itself unless somebody is being started.
pub fn tidy(hierarchies: &Hierarchies, parent: &str) {
    let (Version::V1, Some(unified)) = (hierarchies.version(), hierarchies.unified()) else { return };
    let parent = unified.join(&parent[1..]);
    for name in fs::list(&parent).unwrap_or_default() {
        // Files are refused, and what is in use.
        let _ = fs::remove_dir(parent.join(&name).join(PIVOT));
        let _ = fs::remove_dir(parent.join(name));
    }
    let _ = fs::remove_dir(parent);
}

/// The cgroup of LXC's own process while a container starts. No container's id begins so.
fn monitor_leaf(parent: &str, id: &str) -> String {
    format!("{parent}/@lxc-{id}")
}

impl Launch<'_> {
    /// Has LXC make the process. On failure nothing of it is left. The caller has one thread.
    pub fn run(&self) -> SystemResult<Launched> {
        let leaf = Leaf::open(self.hierarchies, &format!("{}/{}", self.parent, self.config.id))?;
        self.prepare_parent()?;
        let made = self.make(&leaf);
        let (socket, pid) = match made {
            Ok(made) => made,
            Err(error) => {
                // The first error is the one that matters; what is left is removed by name later.
                let _ = leaf.kill_all(Instant::now() + REMOVAL);
                let _ = leaf.remove(Instant::now() + REMOVAL);
                let _ = self.remove_traces(None);
                for file in [LOG, CONFIGURATION] {
                    let _ = fs::remove_file(self.directory.join(file));
                }
                return Err(error);
            }
        };
        if let Err(error) = self.remove_traces(Some(pid)) {
            let _ = leaf.kill_all(Instant::now() + REMOVAL);
            let _ = process::wait_for(pid);
            let _ = leaf.remove(Instant::now() + REMOVAL);
            return Err(error);
        }
        Ok(Launched { socket, pid, leaf })
    }

    /// LXC makes cpusets without CPUs unless the one above passes its own on.
    fn prepare_parent(&self) -> SystemResult<()> {
        match self.hierarchies.controller("cpuset").filter(|_| self.hierarchies.version() == Version::V1) {
            Some(cpuset) => fs::write(cpuset.mount.join(&self.parent[1..]).join("cgroup.clone_children"), "1"),
            None => Ok(()),
        }
    }

    fn make(&self, leaf: &Leaf) -> SystemResult<(OwnedFd, Pid)> {
        let me = rustix::process::getpid().as_raw_nonzero();
        let shared: Vec<(&'static str, String)> =
            self.shared.iter().map(|(name, fd)| (*name, format!("/proc/{me}/fd/{}", fd.as_raw_fd()))).collect();
        let monitor = monitor_leaf(self.parent, &self.config.id);
        let file = text(self.config, &Places { cgroup: leaf.path(), monitor: &monitor, shared: &shared });
        fs::write_atomic(self.directory.join(CONFIGURATION), file.as_bytes(), 0o600, Durability::Process)?;
        let (ours, theirs) = socket::pair()?;
        // The container's process must come to us when LXC's ends.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).during("become", "reaper of orphans")?;
        let made = self.spawn(theirs).and_then(|lxc| {
            let hello = self.await_hello(&ours);
            // The process is complete, and LXC has nothing more to do for it; or it hangs.
            let _ = process::kill(lxc, Signal::KILL.as_raw());
            process::wait_for(lxc)?;
            hello
        });
        rustix::process::set_child_subreaper(None).during("stop being", "reaper of orphans")?;
        Ok((ours, pid_of(&made?)?))
    }

    fn spawn(&self, theirs: OwnedFd) -> SystemResult<Pid> {
        match process::clone(CloneFlags::NONE)? {
            Clone::Parent(pid) => Ok(pid),
            Clone::Child => {
                let error = match self.become_lxc(&theirs) {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                // When this fails too the other side sees the end of the connection.
                let _ = socket::send(&theirs, error.to_string().as_bytes(), &[]);
                process::exit_now(1)
            }
        }
    }

    /// In a process of its own: surroundings in which LXC leaves nothing on the host, then LXC.
    fn become_lxc(&self, theirs: &OwnedFd) -> SystemResult<std::convert::Infallible> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).during("set", "parent death signal")?;
        rustix::process::setsid().during("begin", "session")?;
        // Its command socket is an abstract one, open to a network namespace: to one that no container is ever in.
        process::unshare(CloneFlags::NEWNS.with(CloneFlags::NEWNET))?;
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", flags).during("change propagation of", "/")?;
        fs::create_dir_all(RUNTIME)?;
        mount("tmpfs", RUNTIME, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
            .during("mount tmpfs on", RUNTIME)?;
        let program = open("/proc/self/exe", OFlags::RDONLY)?;
        let null = open("/dev/null", OFlags::RDWR)?;
        process::set_stdio([theirs.as_fd(), null.as_fd(), null.as_fd()])?;
        drop(null);
        // What else is open belongs to the supervisor's values, which are never dropped here.
        process::close_all_but(&[theirs.as_fd(), program.as_fd()])?;
        rustix::io::fcntl_setfd(&program, FdFlags::empty()).during("keep open", "program")?;
        process::reset_signals();
        let mut command = Command::new(&self.tools.start);
        command
            .args(["--foreground", "--quiet", "--logpriority=ERROR"])
            .arg(format!("--name={}", self.config.id))
            .args([argument("--lxcpath=", self.directory), argument("--rcfile=", &self.directory.join(CONFIGURATION))])
            .args([argument("--logfile=", &self.directory.join(LOG)), "--".into()])
            .args([format!("/proc/self/fd/{}", program.as_raw_fd()).as_str(), STAGE_ROLE])
            .args(self.fail_at)
            .env_clear()
            .envs(libcontainer::protection::passed_on())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::inherit());
        let error = command.exec();
        Err(SystemError::new("execute", self.tools.start.display().to_string(), error))
    }

    /// Waits until the container's process says that it is there: it sends a handle on itself.
    fn await_hello(&self, ours: &OwnedFd) -> SystemResult<OwnedFd> {
        let failed =
            |why: String| SystemError::new("have LXC make", "the container's process", std::io::Error::other(why));
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
            match poll(&mut [PollFd::new(ours, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(failed("it takes too long".into())),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SystemError::new("wait for", "LXC", error)),
            }
        }
        match socket::try_receive(ours)? {
            Some(packet) => match packet.fds.into_iter().next() {
                Some(pidfd) => Ok(pidfd),
                None => Err(failed(String::from_utf8_lossy(&packet.data).into_owned())),
            },
            None => {
                let log = fs::read_to_string(self.directory.join(LOG)).unwrap_or_default();
                Err(failed(reason(&log)))
            }
        }
    }

    /// Removes what LXC needed while it started. In the cgroup2 tree beside v1 hierarchies, which containers do not use,
    /// the process goes back to where the supervisor is.
    fn remove_traces(&self, pid: Option<Pid>) -> SystemResult<()> {
        let deadline = Instant::now() + REMOVAL;
        let monitor = Leaf::open(self.hierarchies, &monitor_leaf(self.parent, &self.config.id))?;
        monitor.remove(deadline).map_err(first_of)?;
        if let (Version::V1, Some(unified)) = (self.hierarchies.version(), self.hierarchies.unified()) {
            let parent = unified.join(&self.parent[1..]);
            if let Some(pid) = pid {
                fs::write(own_unified(unified)?.join("cgroup.procs"), pid.as_raw_nonzero().to_string())?;
            }
            let monitor = format!("@lxc-{}", self.config.id);
            for name in [self.config.id.clone(), format!("{monitor}/{PIVOT}"), monitor] {
                match fs::remove_dir(parent.join(name)) {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        match fs::remove_file(self.directory.join(LOG)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn argument(option: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(option);
    argument.push(path);
    argument
}

fn open(path: &str, flags: OFlags) -> SystemResult<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).during("open", path)
}

fn first_of(errors: Vec<SystemError>) -> SystemError {
    let unknown = || SystemError::new("remove", "cgroup", rustix::io::Errno::BUSY);
    errors.into_iter().next().unwrap_or_else(unknown)
}

/// Where the calling process is in the cgroup2 tree.
fn own_unified(unified: &Path) -> SystemResult<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Ok(unified.join(own))
}

/// The pid, here, of the process that a pidfd is of. It stays that one's until we have reaped it.
fn pid_of(pidfd: &OwnedFd) -> SystemResult<Pid> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    let gone = || SystemError::new("find", "the container's process", rustix::io::Errno::SRCH);
    pid.filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or_else(gone)
}
