//! A running container as the daemon holds it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libcontainer::cgroups::{Leaf, Stats};
use libcontainer::config::Resources;

use super::Maker;
use super::dispatch::Dispatch;
use super::link::{Inside, Link, OnExit, doors, system};
use super::pool::{Pool, Warm};
use super::protocol::{Ask, ClientOrder, Done, ExecOrder, StartOrder};
use super::record::Record;
use super::supervisor::with_seed;
use crate::{Attach, Error, Exec, Exit, NameDoors, Network, Running, RunningExec, Sandbox, Start, Users};

/// Freezing and killing take a moment of the kernel's.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every container of a driver shares.
#[derive(Clone)]
pub struct Shared {
    /// Listens to supervisors.
    pub dispatch: Arc<Dispatch>,
    /// Makes supervisors.
    pub pool: Arc<Pool>,
    /// The cgroup hierarchies.
    pub hierarchies: libcontainer::cgroups::Hierarchies,
    /// Where the records are.
    pub exec_root: std::path::PathBuf,
    /// Who makes the containers' processes.
    pub maker: Maker,
}

/// A warm supervisor, reserved.
pub struct NativeSandbox {
    warm: Warm,
    shared: Shared,
}

/// A running container.
pub struct NativeContainer {
    link: Arc<Link>,
    pid: i32,
    leaf: Leaf,
}

/// A running exec.
struct NativeExec {
    link: Arc<Link>,
    id: String,
    pid: i32,
}

impl NativeSandbox {
    /// Of a warm supervisor.
    pub fn new(warm: Warm, shared: Shared) -> Self {
        Self { warm, shared }
    }
}

impl Drop for NativeSandbox {
    fn drop(&mut self) {
        self.shared.pool.replenish();
    }
}

impl Sandbox for NativeSandbox {
    fn netns(&self) -> BorrowedFd<'_> {
        self.warm.inside.netns.as_fd()
    }

    fn route_socket(&self) -> BorrowedFd<'_> {
        self.warm.inside.route.as_fd()
    }

    fn take_names(&mut self) -> Option<NameDoors> {
        self.warm.inside.names.take()
    }

    fn map_users(&mut self, users: &Users) -> Result<(), Error> {
        if let Maker::Lxc(_) = self.shared.maker {
            return Err(crate::lxc::no_user_namespace());
        }
        let (_, fds) = self.warm.link.ask(Ask::MapUsers(users.clone()), &[], &[])?;
        let none = || Error::System("the supervisor sent no network namespace".into());
        self.warm.inside = Inside::of(fds).ok_or_else(none)?;
        Ok(())
    }

    fn start(mut self: Box<Self>, start: Start) -> Result<Arc<dyn Running>, Error> {
        let record = Record::new(&self.shared.exec_root, &start.config.id)?;
        let lxc = match &self.shared.maker {
            Maker::Native => None,
            Maker::Lxc(tools) => {
                crate::lxc::validate(&start.config)?;
                Some(tools.clone())
            }
        };
        let program = start.config.process.seccomp.clone();
        let mut blob: Vec<&[u8]> = vec![program.as_deref().unwrap_or_default()];
        blob.extend(start.attached.iter().map(|client| client.early_input.as_slice()));
        let fds: Vec<BorrowedFd<'_>> = start.attached.iter().map(|client| client.stream.as_fd()).collect();
        let order = StartOrder {
            config: start.config,
            seccomp: program.as_ref().map(|program| program.len()),
            log: start.log,
            open_stdin: start.open_stdin,
            stdin_once: start.stdin_once,
            clients: start.attached.iter().map(order_of).collect(),
            lxc,
        };
        let link = Arc::clone(&self.warm.link);
        let container = order.config.id.clone();
        link.set_record(&record);
        let (done, _) = link.ask(Ask::Start(Box::new(order)), &blob, &fds)?;
        let Done::Started { pid, leaf, warnings } = done else { return Err(unexpected(&done)) };
        self.warm.used = true;
        for warning in warnings {
            tracing::warn!(%container, "{warning}");
        }
        Ok(NativeContainer::new(link, pid, &leaf, &self.shared)?)
    }
}

fn order_of(client: &Attach) -> ClientOrder {
    ClientOrder {
        early_input: client.early_input.len(),
        stdin: client.stdin,
        stdout: client.stdout,
        stderr: client.stderr,
    }
}

fn is_gone(error: &gantry_linux::Error) -> bool {
    error.is_not_found() || error.errno() == rustix::io::Errno::NODEV.raw_os_error()
}

fn unexpected(done: &Done) -> Error {
    Error::System(format!("the supervisor answers something else than was asked: {done:?}"))
}

impl NativeContainer {
    /// Takes the container up behind a connection.
    fn new(link: Arc<Link>, pid: i32, leaf: &str, shared: &Shared) -> Result<Arc<Self>, Error> {
        let leaf = Leaf::open(&shared.hierarchies, leaf).map_err(system)?;
        Ok(Arc::new(Self { link, pid, leaf }))
    }

    /// Connects to the supervisor that serves the container.
    pub fn restore(id: &str, shared: &Shared) -> Result<Arc<Self>, Error> {
        let record = Record::new(&shared.exec_root, id)?;
        let not_found =
            |error: gantry_linux::Error| Error::NotFound(format!("container {id} has no supervisor: {error}"));
        let directory = record.open().map_err(not_found)?;
        let connected = gantry_linux::socket::connect(&directory, super::record::SOCKET);
        // One that takes nobody from its queue is there, and silent.
        let is_silent = |error: &gantry_linux::Error| error.errno() == rustix::io::Errno::AGAIN.raw_os_error();
        let socket = connected.map_err(|error| if is_silent(&error) { system(error) } else { not_found(error) })?;
        let link = Arc::new(Link::new(socket)?);
        link.set_record(&record);
        shared.dispatch.add(&link, None).map_err(system)?;
        let done = link.greet()?;
        let Done::Hello { pid, leaf, .. } = done else { return Err(unexpected(&done)) };
        Self::new(link, pid, &leaf, shared)
    }

    fn ask(&self, body: Ask) -> Result<Done, Error> {
        Ok(self.link.ask(body, &[], &[])?.0)
    }
}

impl Running for NativeContainer {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn wait(&self) -> Result<Exit, Error> {
        self.link.wait()
    }

    fn on_exit(&self, then: OnExit) {
        self.link.on_exit(then);
    }

    fn attach(&self, attach: Attach) -> Result<(), Error> {
        let order = order_of(&attach);
        self.link.ask(Ask::Attach(order), &[&attach.early_input], &[attach.stream.as_fd()])?;
        Ok(())
    }

    fn signal(&self, signal: i32) -> Result<(), Error> {
        self.ask(Ask::Signal { exec: None, signal }).map(drop)
    }

    fn kill_all(&self) -> Result<(), Error> {
        match self.leaf.kill_all(Instant::now() + PATIENCE) {
            // Its supervisor has removed the cgroup: everything in it has ended.
            Err(error) if is_gone(&error) => Ok(()),
            other => other.map_err(system),
        }
    }

    fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.ask(Ask::Resize { exec: None, rows, columns }).map(drop)
    }

    fn exec(&self, exec: Exec) -> Result<Arc<dyn RunningExec>, Error> {
        let program = exec.process.seccomp.clone();
        let early = exec.attached.as_ref().map(|client| client.early_input.as_slice()).unwrap_or_default();
        let blob = [program.as_deref().unwrap_or_default(), early];
        let fds: Vec<BorrowedFd<'_>> = exec.attached.iter().map(|client| client.stream.as_fd()).collect();
        let order = ExecOrder {
            id: exec.id.clone(),
            process: exec.process,
            seccomp: program.as_ref().map(|program| program.len()),
            open_stdin: exec.open_stdin,
            client: exec.attached.as_ref().map(order_of),
        };
        self.link.expect_exec(&exec.id);
        let answer = self.link.ask(Ask::Exec(Box::new(order)), &blob, &fds).inspect_err(|_| {
            self.link.forget_exec(&exec.id);
        });
        let Done::Exec { pid, warnings } = answer?.0 else {
            return Err(Error::System("the supervisor answers something else than was asked".into()));
        };
        for warning in warnings {
            tracing::warn!(exec = %exec.id, "{warning}");
        }
        Ok(Arc::new(NativeExec { link: Arc::clone(&self.link), id: exec.id, pid }))
    }

    fn pause(&self) -> Result<(), Error> {
        self.leaf.freeze(Instant::now() + PATIENCE).map_err(system)
    }

    fn unpause(&self) -> Result<(), Error> {
        self.leaf.thaw(Instant::now() + PATIENCE).map_err(system)
    }

    fn update(&self, resources: &Resources) -> Result<(), Error> {
        // What a version of cgroups does not have was said when the container started.
        self.leaf.update(&with_seed(resources)).map(drop).map_err(|error| Error::Invalid(error.to_string()))
    }

    fn stats(&self) -> Result<Stats, Error> {
        let mut stats = self.leaf.stats().map_err(system)?;
        // The seed is no process of the container's.
        stats.pids_current = stats.pids_current.saturating_sub(1);
        stats.pids_limit = stats.pids_limit.saturating_sub(1);
        Ok(stats)
    }

    fn pids(&self) -> Result<Vec<i32>, Error> {
        match self.ask(Ask::Pids)? {
            Done::Pids(pids) => Ok(pids),
            done => Err(unexpected(&done)),
        }
    }

    fn root(&self) -> Result<OwnedFd, Error> {
        let (_, fds) = self.link.ask(Ask::Root, &[], &[])?;
        fds.into_iter().next().ok_or_else(|| Error::System("the supervisor sent no mounts".into()))
    }

    fn network(&self) -> Result<Network, Error> {
        let (_, fds) = self.link.ask(Ask::Network, &[], &[])?;
        let mut fds = fds.into_iter();
        match (fds.next(), fds.next()) {
            (Some(netns), Some(route_socket)) => Ok(Network { netns, route_socket }),
            _ => Err(Error::System("the supervisor sent no network namespace".into())),
        }
    }

    fn datagrams(&self) -> Result<OwnedFd, Error> {
        let (_, fds) = self.link.ask(Ask::Datagrams, &[], &[])?;
        fds.into_iter().next().ok_or_else(|| Error::System("the supervisor sent no socket".into()))
    }

    fn names(&self) -> Result<NameDoors, Error> {
        let (_, fds) = self.link.ask(Ask::Names, &[], &[])?;
        doors(fds.into_iter()).ok_or_else(|| Error::System("the supervisor sent no sockets for names".into()))
    }
}

impl RunningExec for NativeExec {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn on_exit(&self, then: OnExit) {
        self.link.on_exec_exit(&self.id, then);
    }

    fn signal(&self, signal: i32) -> Result<(), Error> {
        self.link.ask(Ask::Signal { exec: Some(self.id.clone()), signal }, &[], &[]).map(drop)
    }

    fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        self.link.ask(Ask::Resize { exec: Some(self.id.clone()), rows, columns }, &[], &[]).map(drop)
    }
}

impl Drop for NativeExec {
    fn drop(&mut self) {
        self.link.forget_exec(&self.id);
    }
}
