//! From a warm supervisor to one with a running container. What fails half-way is undone before it is reported.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use gantry_linux::mount::attach;
use gantry_linux::process::CloneFlags;
use gantry_linux::{Error as SystemError, ResultExt, socket};
use libcontainer::cgroups::{Leaf, Version};
use libcontainer::config::{Config, Namespace, Resources};
use libcontainer::container::{First, Report, open_sources_within, receive_report};
use libcontainer::seed::Seed;
use libcontainer::steps::Steps;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};

use super::client::Client;
use super::log::Log;
use super::serve::Work;
use super::task::{Streams, Task};
use super::{Supervisor, SystemResult};
use crate::native::protocol::{Done, Kind, Refusal, StartOrder};
use crate::native::record::{Record, SOCKET};

/// A container whose mounts take longer is given up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Namespaces to enter, each with its kind.
pub(super) type Joins = Vec<(CloneFlags, OwnedFd)>;

/// What a start has made so far, to be undone when it fails.
#[derive(Default)]
struct Made {
    record: Option<Record>,
    new_directory: bool,
    /// The socket's name is this supervisor's; before, it may be another's.
    listening: bool,
    task: Option<Task>,
}

impl Supervisor {
    /// Starts the container. On failure nothing of it is left; the supervisor itself is given back by the caller.
    pub(super) fn start(
        mut self,
        order: StartOrder,
        blob: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(Work, Done), (Box<Self>, Refusal)> {
        let mut made = Made::default();
        let mut steps = Steps::default();
        match self.try_start(order, blob, fds, &mut made, &mut steps) {
            Ok((listener, warnings, new_pid_namespace)) => {
                let (Some(record), Some(task)) = (made.record, made.task) else {
                    return Err((Box::new(self), Refusal::new(Kind::System, "start ended without a process")));
                };
                let done =
                    Done::Started { pid: task.pid.as_raw_nonzero().get(), leaf: self.leaf.path().to_owned(), warnings };
                Ok((Work::new(self, record, listener, task, new_pid_namespace), done))
            }
            Err(refusal) => {
                self.undo(made);
                Err((Box::new(self), refusal))
            }
        }
    }

    fn undo(&self, made: Made) {
        if let Some(task) = made.task {
            // It may have ended by itself; then the signal has nobody to go to.
            let _ = task.signal(rustix::process::Signal::KILL.as_raw());
            super::reap_within(task.pid, super::REMOVAL);
        }
        // Without a pid namespace of its own others may be left.
        let _ = self.leaf.kill_all(Instant::now() + super::REMOVAL);
        if let Some(record) = made.record {
            let _ = match (made.new_directory, made.listening) {
                (true, true) => record.remove(),
                (false, true) => record.remove_socket(),
                // Refused while it is in use.
                (true, false) => record.remove_if_empty(),
                (false, false) => Ok(()),
            };
        }
    }

    fn try_start(
        &mut self,
        order: StartOrder,
        blob: &[u8],
        fds: Vec<OwnedFd>,
        made: &mut Made,
        steps: &mut Steps,
    ) -> Result<(OwnedFd, Vec<String>, bool), Refusal> {
        let StartOrder { mut config, seccomp, log, open_stdin, stdin_once, clients, lxc } = order;
        let (program, mut early) = split(blob, seccomp.unwrap_or(0))?;
        config.process.seccomp = seccomp.map(|_| program.into());

        enter(steps, "directory")?;
        let record =
            Record::new(&self.exec_root, &config.id).map_err(|error| Refusal::new(Kind::Invalid, error.to_string()))?;
        made.new_directory = record.make()?;
        made.record = Some(record.clone());
        let directory: OwnedFd = record.open()?.into();
        enter(steps, "socket")?;
        let listener = listen(&record, &directory, &config.id)?;
        made.listening = true;

        enter(steps, "cgroup")?;
        let limited = match &lxc {
            None => self.name_leaf(&record, &config)?,
            Some(_) => self.leave_leaf_to_lxc(&record, &config).map(|()| Vec::new())?,
        };

        enter(steps, "sources")?;
        let terminal = config.process.terminal;
        let users = self.users_of(&config)?;
        let (sources, unmapped) = open_sources_within(&config, users.map(|users| &users.namespace))?;
        let root = match users {
            Some(users) => Some(users.attach_root(&config)?),
            // Not by the first process: its cgroup keeps it from devices.
            None if config.root.is_device() => Some(attach(&config.root)?),
            None => None,
        };
        let inside = users.map(|users| users.inside(&config)).transpose()?;
        let owner = users.map(|users| users.root);
        let (join, pid_namespace) = self.namespaces(&config)?;
        enter(steps, "log")?;
        let log = log.map(Log::open).transpose()?;
        enter(steps, "streams")?;
        let mut streams = Streams::open(terminal, open_stdin, owner)?;
        let new_pid_namespace = config.namespaces.pid == Namespace::New;

        // Before there is anything that could end.
        record.clear_exit()?;
        enter(steps, "clone")?;
        let (reports, report) = socket::pair()?;
        let stdio = streams.theirs.take();
        let stage = record.path().to_owned();
        let cgroups = Vec::new();
        let mut first = First { config, stage, stdio, join, sources, cgroups, root, inside, report, staged: None };
        let pid = match lxc {
            None => {
                first.cgroups = self.cgroup_views();
                let cloned = self.seed()?.first(&first, pid_namespace.as_ref().map(AsFd::as_fd));
                cloned.map_err(|error| said_why(&reports).unwrap_or_else(|| error.into()))?
            }
            Some(tools) => self.first_by_lxc(&tools, &mut first, pid_namespace)?,
        };
        drop(first);
        let mut task = Task::new(None, pid, streams, terminal)?;
        task.stdin_once = stdin_once;
        task.log = log;
        let task = made.task.insert(task);
        let mut warnings = await_program(task, &reports, open_stdin)?;
        warnings.extend(limited.into_iter().chain(unmapped));
        // Nothing of the output has been read yet: no client misses a byte.
        for (client, stream) in clients.iter().zip(fds) {
            let (input, rest) = split(early, client.early_input)?;
            early = rest;
            task.attach(Client::new(client, stream), input);
        }
        Ok((listener, warnings, new_pid_namespace))
    }

    /// Gives the leaf the container's name and limits; warnings. cgroup2 cannot rename: there the name is noted.
    fn name_leaf(&mut self, record: &Record, config: &Config) -> Result<Vec<String>, Refusal> {
        match self.hierarchies.version() {
            Version::V1 => self.rename_leaf(&config.id)?,
            Version::V2 => record.set_leaf(self.leaf.path())?,
        }
        let resources = with_seed(&config.resources);
        self.leaf.apply(&resources).map_err(|error| Refusal::new(Kind::Invalid, error.to_string()))
    }

    /// LXC makes the container's leaf; where the path of an earlier one may have been noted, its own is noted.
    fn leave_leaf_to_lxc(&self, record: &Record, config: &Config) -> Result<(), Refusal> {
        self.clear_old(&config.id)?;
        if self.hierarchies.version() == Version::V2 {
            record.set_leaf(&format!("{}/{}", self.cgroup_parent(), config.id))?;
        }
        Ok(())
    }

    fn rename_leaf(&mut self, id: &str) -> SystemResult<()> {
        match self.leaf.rename(id) {
            Err(error) if is_taken(&error) => {}
            other => return other,
        }
        // The container's last run has ended a moment ago, or its supervisor was killed.
        self.clear_old(id)?;
        self.leaf.rename(id)
    }

    /// Removes what an earlier run has left of the container's cgroup.
    fn clear_old(&self, id: &str) -> SystemResult<()> {
        let old = Leaf::open(&self.hierarchies, &format!("{}/{id}", self.cgroup_parent()))?;
        old.kill_all(Instant::now() + super::REMOVAL)?;
        old.remove(Instant::now() + super::REMOVAL).map_err(first_of)
    }

    /// The cgroup above those of all containers.
    pub(super) fn cgroup_parent(&self) -> &str {
        self.leaf.path().rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// The seed, planted anew where the OOM killer took it.
    pub(super) fn seed(&mut self) -> Result<&Seed, libcontainer::Error> {
        match self.seed.take() {
            Some(seed) => Ok(self.seed.insert(seed)),
            None => {
                let seed = Seed::plant(&self.leaf, None)?;
                Ok(self.seed.insert(seed))
            }
        }
    }

    fn namespaces(&self, config: &Config) -> Result<(Joins, Option<OwnedFd>), Refusal> {
        let spaces = &config.namespaces;
        let mut join = Vec::new();
        match &spaces.net {
            Namespace::New => {}
            Namespace::Host => {
                join.push((CloneFlags::NEWNET, self.host_netns.try_clone().during("duplicate", "network namespace")?));
            }
            Namespace::Path(path) => join.push((CloneFlags::NEWNET, open_namespace(path)?)),
        }
        let others = [
            (&spaces.uts, CloneFlags::NEWUTS),
            (&spaces.ipc, CloneFlags::NEWIPC),
            (&spaces.cgroup, CloneFlags::NEWCGROUP),
        ];
        for (space, flag) in others {
            if let Namespace::Path(path) = space {
                join.push((flag, open_namespace(path)?));
            }
        }
        let pid = match &spaces.pid {
            Namespace::Path(path) => Some(open_namespace(path)?),
            Namespace::New | Namespace::Host => None,
        };
        Ok((join, pid))
    }

    pub(super) fn cgroup_views(&self) -> Vec<(Vec<String>, std::path::PathBuf)> {
        let names = |name: &str, controllers: &str| -> Vec<String> {
            if name.is_empty() {
                return Vec::new();
            }
            let links = controllers.split(',').filter(|controller| *controller != name && !controller.contains('='));
            std::iter::once(name).chain(links).map(str::to_owned).collect()
        };
        self.leaf.paths().into_iter().map(|path| (names(&path.name, &path.controllers), path.directory)).collect()
    }
}

/// What a process that was to clone the container's has said of its failure.
fn said_why(reports: &OwnedFd) -> Option<Refusal> {
    match receive_report(reports) {
        Ok(Some((Report::Failed(failure), _))) => Some(failure.into()),
        _ => None,
    }
}

fn is_taken(error: &SystemError) -> bool {
    [rustix::io::Errno::EXIST, rustix::io::Errno::NOTEMPTY].iter().any(|errno| errno.raw_os_error() == error.errno())
}

pub(super) fn first_of(errors: Vec<SystemError>) -> SystemError {
    let unknown = || SystemError::new("remove", "cgroup", rustix::io::Errno::BUSY);
    errors.into_iter().next().unwrap_or_else(unknown)
}

fn enter(steps: &mut Steps, step: &'static str) -> Result<(), Refusal> {
    steps.enter(step).map_err(|error| steps.failure(&error).into())
}

/// The seed is a member of the container's cgroup, and counts.
pub fn with_seed(resources: &Resources) -> Resources {
    let pids = resources.pids.map(|most| if most > 0 { most.saturating_add(1) } else { most });
    Resources { pids, ..resources.clone() }
}

/// Splits raw bytes of a message at a length that came with it.
pub fn split(blob: &[u8], length: usize) -> Result<(&[u8], &[u8]), Refusal> {
    blob.split_at_checked(length).ok_or_else(|| Refusal::new(Kind::System, "message: bytes are missing"))
}

fn listen(record: &Record, directory: &OwnedFd, id: &str) -> Result<OwnedFd, Refusal> {
    match socket::connect(directory, SOCKET) {
        Ok(_) => return Err(Refusal::new(Kind::Invalid, format!("container {id} is running already"))),
        Err(error) if error.is_not_found() => {}
        // A socket that nobody listens on was left by a supervisor that was killed.
        Err(error) if error.errno() == rustix::io::Errno::CONNREFUSED.raw_os_error() => record.remove_socket()?,
        Err(error) => return Err(error.into()),
    }
    Ok(socket::listen(directory, SOCKET)?)
}

pub(super) fn open_namespace(path: &std::path::Path) -> Result<OwnedFd, Refusal> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during("open namespace", path.display());
    file.map_err(|error| Refusal::new(Kind::Invalid, error.to_string()))
}

/// Waits until the program runs; returns the warnings.
fn await_program(task: &mut Task, reports: &OwnedFd, open_stdin: bool) -> Result<Vec<String>, Refusal> {
    let deadline = Instant::now() + DEADLINE;
    let mut warnings = Vec::new();
    loop {
        wait_readable(reports, deadline)?;
        match receive_report(reports) {
            Ok(None) => return Ok(warnings),
            Ok(Some((Report::Warning(warning), _))) => warnings.push(warning),
            Ok(Some((Report::Terminal, fds))) => {
                for master in fds {
                    task.set_terminal(master, open_stdin)?;
                }
            }
            // Only of processes that are made in stages, and of a listener that the engine never asks for.
            Ok(Some((Report::Mounted | Report::Created | Report::SeccompListener, _))) => {}
            Ok(Some((Report::Failed(failure), _))) => return Err(failure.into()),
            Err(libcontainer::Error::System(error)) if error.errno() == rustix::io::Errno::AGAIN.raw_os_error() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_readable(fd: &OwnedFd, deadline: Instant) -> SystemResult<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = rustix::event::Timespec::try_from(left).unwrap_or_default();
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
        Ok(0) => Err(SystemError::new("wait for", "the container's program", rustix::io::Errno::TIMEDOUT)),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(SystemError::new("wait for", "the container's program", error)),
    }
}
