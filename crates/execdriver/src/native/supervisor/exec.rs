//! Further processes in the container: started by the seed, served beside the container's own.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use gantry_linux::mount::bind_fd;
use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::{Error as SystemError, ResultExt, socket};
use libcontainer::cgroups::Leaf;
use libcontainer::container::{EVERY_KIND_BUT_USER, Further, Report, receive_report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::client::Client;
use super::serve::Work;
use super::start::split;
use super::task::{Streams, Task};
use crate::Exit;
use crate::native::protocol::{Done, ExecOrder, Kind, Refusal, Tell};

/// An exec whose program does not run within this time is given up.
const DEADLINE: Duration = Duration::from_secs(10);

/// An exec whose program does not run yet.
pub struct Starting {
    pub(super) reports: OwnedFd,
    pub(super) pid: Pid,
    /// Whom the reply goes to; `None` when that daemon is gone.
    pub(super) connection: Option<usize>,
    /// It runs, or never will.
    pub(super) done: bool,
    /// When it is given up.
    pub(super) deadline: Instant,
    request: u64,
    open_stdin: bool,
    /// Attached when the program runs: what the client sends meanwhile waits in its connection.
    client: Option<(Client, Vec<u8>)>,
    warnings: Vec<String>,
}

impl Work {
    /// Has the seed clone the process; the reply follows when its program runs.
    pub(super) fn start_exec(
        &mut self,
        order: ExecOrder,
        blob: &[u8],
        fds: Vec<OwnedFd>,
        connection: usize,
        request: u64,
    ) -> Result<(), Refusal> {
        let ExecOrder { id, mut process, seccomp, open_stdin, client } = order;
        if self.tasks.iter().any(|task| task.exec.as_deref() == Some(&id)) {
            return Err(Refusal::new(Kind::Invalid, format!("exec {id} is running already")));
        }
        if !is_thawed(&self.supervisor.leaf)? {
            return Err(Refusal::new(Kind::Invalid, "the container is paused; unpause it before exec"));
        }
        let (program, early) = split(blob, seccomp.unwrap_or(0))?;
        process.seccomp = seccomp.map(|_| program.into());
        let terminal = process.terminal;
        let users = self.supervisor.users.as_ref();
        let namespaces = users.map_or(EVERY_KIND_BUT_USER, |_| EVERY_KIND_BUT_USER.with(CloneFlags::NEWUSER));
        let mut streams = Streams::open(terminal, open_stdin, users.map(|users| users.root))?;
        let (reports, report) = socket::pair()?;
        let target = self.task(None)?.pidfd.try_clone().during("duplicate", "pidfd")?;
        let further = Further {
            process,
            target,
            stdio: streams.theirs.take(),
            report,
            supervised: true,
            passed: 0,
            namespaces,
            root: None,
        };
        let pid = self.clone_further(&further)?;
        drop(further);
        let mut task = Task::new(Some(id), pid, streams, terminal)?;
        task.held = true;
        let client = client.zip(fds.into_iter().next()).map(|(order, stream)| {
            let early = early.get(..order.early_input).unwrap_or(early);
            (Client::new(&order, stream), early.to_vec())
        });
        self.tasks.push(task);
        self.starting.push(Starting {
            reports,
            pid,
            connection: Some(connection),
            done: false,
            deadline: Instant::now() + DEADLINE,
            request,
            open_stdin,
            client,
            warnings: Vec::new(),
        });
        Ok(())
    }

    /// Clones by the seed. One that has ended is planted anew, in the container's pid namespace. A clone that the kernel
    /// refuses (the limit of processes is reached) is refused; only a seed that does not answer is given up: its answer
    /// could come later, and be taken for another one.
    fn clone_further(&mut self, further: &Further) -> Result<Pid, Refusal> {
        if self.supervisor.seed.as_ref().is_some_and(|seed| has_ended(seed.pid)) {
            self.supervisor.uproot_seed();
        }
        let seed = match self.supervisor.seed.take() {
            Some(seed) => seed,
            None => libcontainer::seed::Seed::plant(&self.supervisor.leaf, Some(further.target.as_fd()))?,
        };
        let cloned = seed.further(further);
        self.supervisor.seed = Some(seed);
        match cloned {
            Ok(pid) => Ok(pid),
            Err(libcontainer::Error::System(error)) if error.errno() != 0 => Err(error.into()),
            Err(error) => {
                self.supervisor.uproot_seed();
                Err(error.into())
            }
        }
    }

    /// Takes the reports of an exec that starts. Its process may have ended before they do: the seed's helper that cloned
    /// it holds them open for a moment.
    pub(super) fn hear_from_exec(&mut self, index: usize) {
        let Some(starting) = self.starting.get_mut(index).filter(|starting| !starting.done) else { return };
        let Some(task) = self.tasks.iter_mut().find(|task| task.pid == starting.pid && task.held) else {
            starting.done = true;
            if let Some((client, _)) = starting.client.take() {
                client.finish();
            }
            let refusal = Refusal::new(Kind::System, "the exec's process ended before its program ran");
            if let Some(connection) = starting.connection.and_then(|at| self.connections.get_mut(at)) {
                connection.reply(starting.request, Err(refusal), &[]);
            }
            return;
        };
        while !starting.done {
            let result = match receive_report(&starting.reports) {
                Ok(Some((Report::Warning(warning), _))) => {
                    starting.warnings.push(warning);
                    continue;
                }
                Ok(Some((Report::Terminal, masters))) => {
                    let open_stdin = starting.open_stdin;
                    match masters.into_iter().try_for_each(|master| task.set_terminal(master, open_stdin)) {
                        Ok(()) => continue,
                        Err(error) => Err(error.into()),
                    }
                }
                Ok(None) => {
                    task.held = false;
                    if let Some((client, early_input)) = starting.client.take() {
                        task.attach(client, &early_input);
                    }
                    let warnings = std::mem::take(&mut starting.warnings);
                    Ok(Done::Exec { pid: starting.pid.as_raw_nonzero().get(), warnings })
                }
                // Only of processes that are made in stages, and of a listener that the engine never asks for.
                Ok(Some((Report::Mounted | Report::Created | Report::SeccompListener, _))) => continue,
                Ok(Some((Report::Failed(failure), _))) => Err(failure.into()),
                Err(libcontainer::Error::System(error)) if error.errno() == rustix::io::Errno::AGAIN.raw_os_error() => {
                    return;
                }
                Err(error) => Err(error.into()),
            };
            starting.done = true;
            if result.is_err() {
                // What failed has no exit that anybody waits for.
                task.reported = false;
                task.held = false;
                if let Some((client, _)) = starting.client.take() {
                    client.finish();
                }
                let _ = task.signal(rustix::process::Signal::KILL.as_raw());
            }
            if let Some(connection) = starting.connection.and_then(|at| self.connections.get_mut(at)) {
                connection.reply(starting.request, result, &[]);
            }
        }
    }

    /// Gives up the execs whose programs do not run in time.
    pub(super) fn give_up_execs(&mut self, now: Instant) {
        for starting in self.starting.iter_mut().filter(|starting| !starting.done && now >= starting.deadline) {
            starting.done = true;
            if let Some(task) = self.tasks.iter_mut().find(|task| task.pid == starting.pid && task.held) {
                task.reported = false;
                task.held = false;
                // It may have ended by itself.
                let _ = task.signal(rustix::process::Signal::KILL.as_raw());
            }
            if let Some((client, _)) = starting.client.take() {
                client.finish();
            }
            let refusal = Refusal::new(Kind::System, "the exec's program did not start in time");
            if let Some(connection) = starting.connection.and_then(|at| self.connections.get_mut(at)) {
                connection.reply(starting.request, Err(refusal), &[]);
            }
        }
    }

    /// Tells of the execs that have ended, and forgets them.
    pub(super) fn finish_execs(&mut self) {
        let connections = &mut self.connections;
        self.tasks.retain_mut(|task| {
            let Some(exec) = task.exec.clone().filter(|_| task.is_finished()) else { return true };
            task.finish();
            if let (true, Some((code, finished_at))) = (task.reported, task.ended) {
                let exit = Exit { code, oom_killed: false, finished_at };
                for connection in connections.iter_mut() {
                    connection.tell(&Tell::ExecExited { exec: exec.clone(), exit: exit.clone() }, &[]);
                }
            }
            false
        });
    }

    /// A clone of the container's mount tree, made by a process that goes into its mount namespace for that.
    pub(super) fn root(&mut self) -> Result<OwnedFd, Refusal> {
        let target = self.task(None)?.pidfd.try_clone().during("duplicate", "pidfd")?;
        let (ours, theirs) = socket::pair()?;
        match process::clone(CloneFlags::NONE)? {
            Clone::Child => {
                let sent = clone_root(&target).and_then(|root| socket::send(&theirs, &[], &[root.as_fd()]));
                if let Err(error) = &sent {
                    // Then the supervisor sees the end of the stream.
                    let _ = socket::send(&theirs, error.to_string().as_bytes(), &[]);
                }
                process::exit_now(i32::from(sent.is_err()))
            }
            Clone::Parent(pid) => {
                drop(theirs);
                let packet = socket::receive(&ours)?;
                process::wait_for(pid)?;
                let packet = packet.unwrap_or_default();
                packet.fds.into_iter().next().ok_or_else(|| {
                    let why = String::from_utf8_lossy(&packet.data);
                    Refusal::new(Kind::System, format!("clone the container's mounts: {why}"))
                })
            }
        }
    }
}

/// Whether a process is gone, or waits to be reaped.
fn has_ended(pid: Pid) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .and_then(|pidfd| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)))
        .map_or(true, |ready| ready > 0)
}

/// Whether the processes run; neither stopped nor being stopped.
fn is_thawed(leaf: &Leaf) -> Result<bool, SystemError> {
    for path in leaf.paths() {
        // cgroup v1, then v2: what was ordered, for what is reached comes later.
        for (file, running) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            match gantry_linux::fs::read_to_string(path.directory.join(file)) {
                Ok(state) if state.trim() != running => return Ok(false),
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(true)
}

fn clone_root(target: &OwnedFd) -> Result<OwnedFd, SystemError> {
    process::setns(target, CloneFlags::NEWNS, "the container")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).during("open", "/")?;
    bind_fd(&root, true, "the container's root")
}
