//! The supervisor's loop: one poll over signals, connections, the container's streams and its clients.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use gantry_linux::{ResultExt as _, process, socket};
use libcontainer::protection::intact;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Supervisor;
use super::client::Client;
use super::exec::Starting;
use super::start::split;
use super::task::{Interest, Task};
use crate::native::protocol::{self, Ask, Done, Kind, Message, Refusal, Request, Tell, VERSION};
use crate::native::record::Record;

/// Output and input are moved in pieces of this size.
const BUFFER: usize = 64 * 1024;

/// A supervisor with a running container.
pub struct Work {
    pub(super) supervisor: Supervisor,
    pub(super) record: Record,
    pub(super) connections: Vec<Connection>,
    /// The container, then the execs that run or start.
    pub(super) tasks: Vec<Task>,
    pub(super) starting: Vec<Starting>,
    pub(super) new_pid_namespace: bool,
    listener: OwnedFd,
}

/// A daemon that talks to this supervisor.
pub struct Connection {
    socket: OwnedFd,
    dead: bool,
}

impl Connection {
    /// Over a connected socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, dead: false }
    }

    /// Answers a request. A daemon that takes no answers is cut off: it finds us again.
    pub fn reply(&mut self, id: u64, result: Result<Done, Refusal>, fds: &[BorrowedFd<'_>]) {
        self.tell(&Tell::Reply { id, result }, fds);
    }

    /// Says something unasked.
    pub fn tell(&mut self, tell: &Tell, fds: &[BorrowedFd<'_>]) {
        let sent = protocol::encode(tell, &[]).and_then(|data| socket::try_send(&self.socket, &data, fds));
        self.dead |= sent.is_err();
    }
}

/// Something that poll watches.
#[derive(Debug, Clone, Copy)]
enum Watched {
    Signals,
    Listener,
    Connection(usize),
    Starting(usize),
    Task(usize, Interest),
}

/// The supervisor lives in the container's network namespace, unless that is the host's or another container's: those are
/// not asked for.
fn network() -> Result<[OwnedFd; 2], Refusal> {
    Ok([super::open_own_netns()?, super::route_socket()?])
}

fn datagrams() -> Result<OwnedFd, Refusal> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    Ok(socket.during("open", "datagram socket")?)
}

impl Work {
    pub(super) fn new(
        supervisor: Supervisor,
        record: Record,
        listener: OwnedFd,
        container: Task,
        new_pid_namespace: bool,
    ) -> Self {
        Self {
            supervisor,
            record,
            connections: Vec::new(),
            tasks: vec![container],
            starting: Vec::new(),
            new_pid_namespace,
            listener,
        }
    }

    /// Serves until the container has ended and everybody knows. Returns the exit code.
    pub(super) fn serve(mut self) -> i32 {
        let mut buffer = vec![0; BUFFER];
        loop {
            for (watched, events) in self.wait() {
                match watched {
                    Watched::Signals => self.reap(),
                    Watched::Listener => self.accept(),
                    Watched::Connection(index) => self.receive(index),
                    Watched::Starting(index) => self.hear_from_exec(index),
                    Watched::Task(index, interest) => {
                        if let Some(task) = self.tasks.get_mut(index) {
                            task.act(interest, events, &mut buffer);
                        }
                    }
                }
            }
            self.sweep();
            if self.tasks.iter().all(Task::is_finished) {
                return self.end();
            }
        }
    }

    fn wait(&self) -> Vec<(Watched, PollFlags)> {
        let mut watched = vec![(Watched::Signals, self.supervisor.signals.as_fd(), PollFlags::IN)];
        watched.push((Watched::Listener, self.listener.as_fd(), PollFlags::IN));
        for (index, connection) in self.connections.iter().enumerate() {
            watched.push((Watched::Connection(index), connection.socket.as_fd(), PollFlags::IN));
        }
        for (index, starting) in self.starting.iter().enumerate() {
            watched.push((Watched::Starting(index), starting.reports.as_fd(), PollFlags::IN));
        }
        let mut interests = Vec::new();
        for (index, task) in self.tasks.iter().enumerate() {
            task.interests(&mut interests);
            watched.extend(interests.drain(..).map(|(what, fd, events)| (Watched::Task(index, what), fd, events)));
        }
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd, events)| PollFd::from_borrowed_fd(*fd, *events)).collect();
        let execs = self.starting.iter().map(|starting| starting.deadline);
        let deadline = self.tasks.iter().filter_map(Task::deadline).chain(execs).min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = watched.iter().zip(&fds).map(|((what, _, _), fd)| (*what, fd.revents()));
        ready.filter(|(_, events)| !events.is_empty()).collect()
    }

    fn reap(&mut self) {
        while process::next_signal(&self.supervisor.signals).is_some() {}
        while let Some(ended) = process::reap() {
            if self.supervisor.seed.as_ref().is_some_and(|seed| seed.pid == ended.pid) {
                self.supervisor.seed = None;
                continue;
            }
            // What an exec said before it ended must be heard before its end is noted.
            for index in 0..self.starting.len() {
                self.hear_from_exec(index);
            }
            if let Some(task) = self.tasks.iter_mut().find(|task| task.pid == ended.pid && task.ended.is_none()) {
                task.end(ended.code);
            }
            if self.tasks.first().is_some_and(|container| container.pid == ended.pid) {
                self.clear_cgroup();
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(Some(socket)) = socket::accept(&self.listener) {
            // The directory is closed to others; this is the second lock.
            let own = rustix::process::getuid().as_raw();
            if !intact("peer-credentials") || socket::peer_uid(&socket).is_ok_and(|uid| uid == own) {
                self.connections.push(Connection::new(socket));
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let message = match socket::try_receive(&connection.socket) {
            Ok(Some(packet)) => protocol::decode_request(packet),
            Err(error) if error.errno() == rustix::io::Errno::AGAIN.raw_os_error() => return,
            Ok(None) | Err(_) => {
                connection.dead = true;
                return;
            }
        };
        match message {
            Ok(message) => self.answer(index, message),
            // A newer daemon may ask what is not known here. Where even the id is not, it could wait for ever.
            Err((error, Some(id))) => connection.reply(id, Err(Refusal::new(Kind::Invalid, error.to_string())), &[]),
            Err((_, None)) => connection.dead = true,
        }
    }

    fn answer(&mut self, index: usize, message: Message<Request>) {
        let Message { head: Request { id, body }, blob, fds } = message;
        let mut with = Vec::new();
        let result = match body {
            Ask::Hello { .. } => Ok(self.hello()),
            Ask::Start(_) => Err(Refusal::new(Kind::Invalid, "this supervisor has a container already")),
            Ask::Attach(order) => self.attach(&order, &blob, fds),
            Ask::Signal { exec, signal } => self.signal(exec.as_deref(), signal),
            Ask::Resize { exec, rows, columns } => self.resize(exec.as_deref(), rows, columns),
            Ask::Exec(order) => match self.start_exec(*order, &blob, fds, index, id) {
                // The reply follows when its program runs.
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Ask::Root => self.root().map(|root| {
                with.push(root);
                Done::Ok
            }),
            Ask::Names => self.supervisor.names().map(|names| {
                with.extend(names);
                Done::Ok
            }),
            Ask::Network => network().map(|network| {
                with.extend(network);
                Done::Ok
            }),
            Ask::Datagrams => datagrams().map(|socket| {
                with.push(socket);
                Done::Ok
            }),
            Ask::Pids => self.pids(),
            Ask::MapUsers(_) => Err(Refusal::new(Kind::Invalid, "a container that runs keeps its users")),
        };
        if let Some(connection) = self.connections.get_mut(index) {
            let fds: Vec<BorrowedFd<'_>> = with.iter().map(AsFd::as_fd).collect();
            connection.reply(id, result, &fds);
        }
    }

    fn hello(&self) -> Done {
        let pid = self.tasks.first().map_or(0, |container| container.pid.as_raw_nonzero().get());
        Done::Hello { version: VERSION, pid, leaf: self.supervisor.leaf.path().to_owned() }
    }

    /// The container's task, or that of an exec; one that has ended is not found.
    pub(super) fn task(&mut self, exec: Option<&str>) -> Result<&mut Task, Refusal> {
        let found =
            self.tasks.iter_mut().find(|task| task.exec.as_deref() == exec && task.reported && task.ended.is_none());
        found.ok_or_else(|| match exec {
            Some(exec) => Refusal::new(Kind::NotFound, format!("exec {exec} is not running")),
            None => Refusal::new(Kind::NotFound, "the container is not running"),
        })
    }

    fn attach(&mut self, order: &protocol::ClientOrder, blob: &[u8], fds: Vec<OwnedFd>) -> Result<Done, Refusal> {
        let (early, _) = split(blob, order.early_input)?;
        let stream = fds.into_iter().next().ok_or_else(|| Refusal::new(Kind::System, "attach: no stream came"))?;
        self.task(None)?.attach(Client::new(order, stream), early);
        Ok(Done::Ok)
    }

    fn signal(&mut self, exec: Option<&str>, signal: i32) -> Result<Done, Refusal> {
        self.task(exec)?.signal(signal)?;
        Ok(Done::Ok)
    }

    fn resize(&mut self, exec: Option<&str>, rows: u16, columns: u16) -> Result<Done, Refusal> {
        self.task(exec)?.resize(rows, columns)?;
        Ok(Done::Ok)
    }

    fn pids(&self) -> Result<Done, Refusal> {
        let seed = self.supervisor.seed.as_ref().map(|seed| seed.pid.as_raw_nonzero().get());
        let members = self.supervisor.leaf.procs()?;
        let pids = members.into_iter().filter_map(|pid| i32::try_from(pid).ok());
        Ok(Done::Pids(pids.filter(|pid| Some(*pid) != seed).collect()))
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        for task in &mut self.tasks {
            task.sweep(now);
        }
        self.give_up_execs(now);
        self.starting.retain(|starting| !starting.done);
        self.finish_execs();
        if self.connections.iter().any(|connection| connection.dead) {
            let mut kept = 0;
            for (index, connection) in self.connections.iter().enumerate() {
                for starting in self.starting.iter_mut().filter(|starting| starting.connection == Some(index)) {
                    starting.connection = (!connection.dead).then_some(kept);
                }
                kept += usize::from(!connection.dead);
            }
            self.connections.retain(|connection| !connection.dead);
        }
    }
}
