//! One container: what can be asked of it and done with it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use gantry_linux::lock::Lock;
use gantry_linux::{ResultExt, fs, process, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::directory::Directory;
use super::options::{ExecOptions, Executed};
use super::record::{CONFIG, Record, SOCKET};
use super::{delete, exec, notify};
use crate::cgroups::{Leaf, OomWatch, Stats};
use crate::container::{Report, hooks, receive_report_blocking};
use crate::error::{Error, Result};
use crate::oci::{self, Hooks, Spec, State, Status};
use crate::seccomp;

/// So long a cgroup has to stop or to go on.
const FREEZING: Duration = Duration::from_secs(10);

/// A container of a [`super::Runtime`]. Whoever opens it can use it, not its creator alone.
///
/// ```no_run
/// use libcontainer::oci::{Process, Status};
/// use libcontainer::runtime::{ExecOptions, Runtime};
///
/// # fn main() -> libcontainer::Result<()> {
/// let container = Runtime::new("/run/mine").open("web")?;
/// assert_eq!(container.state()?.status, Status::Running);
///
/// let process = Process { args: vec!["/bin/date".into()], cwd: "/".into(), ..Process::default() };
/// let executed = container.exec(&process, &ExecOptions::default())?;
/// println!("date runs as process {}", executed.pid);
///
/// println!("{} bytes of memory", container.stats()?.memory_usage);
/// container.kill(15, false)?;
/// container.wait()?;
/// container.delete(false)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Container {
    directory: Directory,
    record: Record,
}

impl Container {
    pub(super) fn new(directory: Directory, record: Record) -> Self {
        Self { directory, record }
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Alone with the container, as it is now: when it was opened it may have been in the making.
    pub(super) fn lock(&self) -> Result<(Lock, Self)> {
        let lock = self.directory.lock()?;
        let record = match self.record.complete {
            true => None,
            false => Record::read(self.directory.path())?,
        };
        let record = record.unwrap_or_else(|| self.record.clone());
        Ok((lock, Self { directory: self.directory.clone(), record }))
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// When it was created, as RFC 3339 in UTC.
    #[must_use]
    pub fn created(&self) -> &str {
        &self.record.created
    }

    /// The uid of who created it.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.record.owner
    }

    /// The absolute path of its root directory on the host.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.record.rootfs
    }

    /// Its configuration, as it was when it was created.
    pub fn spec(&self) -> Result<Spec> {
        Spec::parse(&fs::read(self.directory.path().join(CONFIG))?)
    }

    /// Its state now; takes no lock.
    pub fn state(&self) -> Result<State> {
        Ok(self.state_with(self.status()?))
    }

    pub(super) fn state_with(&self, status: Status) -> State {
        State {
            oci_version: self.record.oci_version.clone(),
            id: self.record.id.clone(),
            pid: if status == Status::Stopped { 0 } else { self.record.pid },
            status,
            bundle: self.record.bundle.display().to_string(),
            annotations: self.record.annotations.clone(),
        }
    }

    pub(super) fn status(&self) -> Result<Status> {
        if !self.record.complete {
            let at_work = self.directory.is_locked()?;
            return Ok(if at_work { Status::Creating } else { Status::Stopped });
        }
        if !self.record.is_alive() {
            return Ok(Status::Stopped);
        }
        if self.is_frozen()? {
            return Ok(Status::Paused);
        }
        Ok(if self.directory.path().join(SOCKET).exists() { Status::Created } else { Status::Running })
    }

    fn is_frozen(&self) -> Result<bool> {
        match self.leaf() {
            Some(leaf) => match leaf.is_frozen() {
                // Removed this moment, or a machine without a freezer.
                Err(error) if error.is_not_found() || error.errno() == 0 => Ok(false),
                other => Ok(other?),
            },
            None => Ok(false),
        }
    }

    pub(super) fn leaf(&self) -> Option<&Leaf> {
        self.record.cgroup.as_ref()
    }

    fn need_leaf(&self) -> Result<&Leaf> {
        let why = || Error::Invalid(format!("container {} has no cgroup: its creator had no right to one", self.id()));
        self.leaf().filter(|leaf| !leaf.hierarchies().all().is_empty()).ok_or_else(why)
    }

    pub(super) fn hooks(&self) -> Result<Hooks> {
        match &self.record.hooks {
            Some(hooks) => Ok(hooks.clone()),
            None => Ok(self.spec()?.hooks.unwrap_or_default()),
        }
    }

    /// The socket by which the program will tell that it is ready, to be bound before it is started and read by the caller;
    /// `None` where the container was created without [`super::CreateOptions::notify_socket`].
    pub fn bind_notify_socket(&self) -> Result<Option<OwnedFd>> {
        notify::bind(self.directory.path())
    }

    /// Starts the program of a created container; returns when it runs. Warnings are failed poststart hooks.
    pub fn start(&self) -> Result<Vec<String>> {
        let (lock, now) = self.lock()?;
        let warnings = now.start_program(&lock)?;
        // Hooks may take their time, and use the container.
        drop(lock);
        now.run_poststart(warnings)
    }

    fn start_program(&self, lock: &Lock) -> Result<Vec<String>> {
        match self.status()? {
            Status::Created => {}
            Status::Stopped | Status::Creating => {
                return Err(Error::Conflict("cannot start a container that has stopped".into()));
            }
            _ => return Err(Error::Conflict("cannot start an already running container".into())),
        }
        let connection = socket::connect(lock.as_fd(), SOCKET)?;
        // From here on it is started, whatever becomes of this process.
        fs::remove_file(self.directory.path().join(SOCKET))?;
        let mut warnings = Vec::new();
        while let Some((report, descriptors)) = receive_report_blocking(&connection)? {
            match report {
                Report::Failed(failure) => return Err(Error::Failed(failure)),
                Report::Warning(warning) => warnings.push(warning),
                Report::SeccompListener => self.hand_over_listener(&descriptors)?,
                Report::Terminal | Report::Mounted | Report::Created => {}
            }
        }
        Ok(warnings)
    }

    fn run_poststart(&self, mut warnings: Vec<String>) -> Result<Vec<String>> {
        let hooks = match self.hooks() {
            // Deleted in this moment.
            Err(Error::System(error)) if error.is_not_found() => return Ok(warnings),
            other => other?,
        };
        let state = self.state_with(Status::Running);
        warnings.extend(hooks::run_all(&hooks.poststart, "poststart", &state, Some(&self.record.bundle)));
        Ok(warnings)
    }

    /// Gives the first process's seccomp listener to its agent; the process is ended when that cannot be.
    fn hand_over_listener(&self, descriptors: &[OwnedFd]) -> Result<()> {
        let profile = self.spec()?.linux.and_then(|linux| linux.seccomp).map(|seccomp| seccomp.profile());
        let profile = profile.transpose().map_err(|error| Error::Invalid(error.to_string()))?;
        let listener = profile.and_then(|profile| profile.listener);
        let (Some(listener), Some(descriptor)) = (listener, descriptors.first()) else { return Ok(()) };
        let state = self.state_with(Status::Running);
        let handed = seccomp::hand_over(&listener, descriptor, self.record.pid, &state);
        if handed.is_err()
            && let Some(process) = self.record.process()
        {
            // It may have ended by itself; the failure to hand over is what is told.
            let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
        }
        handed
    }

    /// Sends a signal to the first process, or with `all` to every process.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::Invalid(format!("signal {signal}: there is no such signal")));
        }
        let not_running = || Error::Conflict("container not running".into());
        // Without a pid namespace of its own the others do not end with the first.
        let everyone = all || (signal == libc::SIGKILL && !self.record.own_pids);
        if let Some(leaf) = self.leaf().filter(|_| everyone) {
            return match self.signal_all(leaf, signal)? {
                0 => Err(not_running()),
                _ => Ok(()),
            };
        }
        let first = self.record.process().ok_or_else(not_running)?;
        match process::pidfd_kill(&first, signal) {
            Err(error) if error.errno() == libc::ESRCH => return Err(not_running()),
            other => other?,
        }
        if signal == libc::SIGKILL && self.is_frozen()? {
            // On cgroup v1 a frozen process cannot even die.
            self.need_leaf()?.thaw(Instant::now() + FREEZING)?;
        }
        Ok(())
    }

    /// Returns how many there were.
    fn signal_all(&self, leaf: &Leaf, signal: i32) -> Result<usize> {
        let pids = leaf.procs()?;
        if signal == libc::SIGKILL && !pids.is_empty() {
            leaf.kill_all(Instant::now() + FREEZING)?;
            return Ok(pids.len());
        }
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
            let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            match process::pidfd_kill(&handle, signal) {
                Err(error) if error.errno() == libc::ESRCH => {}
                other => other?,
            }
        }
        Ok(pids.len())
    }

    /// Removes a container that is not running, with `force` any. Warnings are failed poststop hooks.
    pub fn delete(self, force: bool) -> Result<Vec<String>> {
        delete::delete(&self, force)
    }

    /// Starts a further process; returns when its program runs.
    pub fn exec(&self, process: &oci::Process, options: &ExecOptions) -> Result<Executed> {
        exec::exec(self, process, options)
    }

    /// Freezes every process.
    pub fn pause(&self) -> Result<()> {
        let (_lock, now) = self.lock()?;
        match now.status()? {
            Status::Running | Status::Created => Ok(now.need_leaf()?.freeze(Instant::now() + FREEZING)?),
            Status::Paused => Err(Error::Conflict("container already paused".into())),
            _ => Err(Error::Conflict("container not running".into())),
        }
    }

    /// Lets them run again.
    pub fn resume(&self) -> Result<()> {
        let (_lock, now) = self.lock()?;
        match now.status()? {
            Status::Paused => Ok(now.need_leaf()?.thaw(Instant::now() + FREEZING)?),
            _ => Err(Error::Conflict("container not paused".into())),
        }
    }

    /// Changes limits; what is not given stays. Returns what this machine could not do, for people.
    pub fn update(&self, resources: &oci::Resources) -> Result<Vec<String>> {
        let new = resources.limits()?;
        let (_lock, now) = self.lock()?;
        if now.status()? == Status::Stopped {
            return Err(Error::Conflict("container not running".into()));
        }
        Ok(now.need_leaf()?.update(&new)?)
    }

    /// What it has used.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.need_leaf()?.stats()?)
    }

    /// News of its processes that are killed for want of memory; `None` where nothing counts its memory.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        Ok(self.need_leaf()?.watch_oom()?)
    }

    /// The ids of its processes on the host.
    pub fn processes(&self) -> Result<Vec<u32>> {
        Ok(self.need_leaf()?.procs()?)
    }

    /// The id of its first process on the host, of one that has ended too; 0 before there is one.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// A pidfd of its first process while that runs: readable when it has ended. For whoever waits for several things.
    #[must_use]
    pub fn process(&self) -> Option<OwnedFd> {
        self.record.process()
    }

    /// Waits until the first process has ended. Its exit code (128 + n for signal n) is known to its parent only, and
    /// taken by this call.
    pub fn wait(&self) -> Result<Option<i32>> {
        let pid = Pid::from_raw(self.record.pid);
        if let Some(handle) = self.record.process() {
            let mut watched = [PollFd::new(&handle, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut watched, None)).during("wait for", self.id())?;
        }
        let Some(pid) = pid else { return Ok(None) };
        // It is somebody else's child, or was reaped already.
        Ok(process::reap_child(pid).map(|ended| ended.code))
    }
}
