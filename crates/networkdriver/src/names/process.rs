//! The resolver: one thread, one epoll over the daemon's connections, the containers' sockets, and what was asked outside.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use gantry_linux::{ResultExt, fs, process, socket};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::confine::confine;
use super::door::{Client, Door};
use super::order::{self, ADDRESS, Order, Reply, SOCKET, VERSION};
use super::query::Query;
use super::servers::Servers;
use super::world::World;

/// Events that are taken at once.
const EVENTS: usize = 64;
/// The longest packet of all.
const LONGEST: usize = 1 << 16;

/// The name of the role of [`main`].
pub const ROLE: &str = "names";

/// Where the resolver is and what it reads.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its socket is in `names/` below it.
    pub exec_root: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Where systemd-resolved notes the servers behind it.
    pub behind_stub: PathBuf,
}

impl Options {
    /// For the host's own servers.
    #[must_use]
    pub fn new(exec_root: &Path) -> Self {
        Self {
            exec_root: exec_root.into(),
            resolv_conf: "/etc/resolv.conf".into(),
            behind_stub: crate::files::BEHIND_STUB.into(),
        }
    }
}

/// The life of a process that was forked to be the resolver, with the daemon's connection. Returns its exit code.
#[must_use]
pub fn main(exec_root: &Path, daemon: OwnedFd) -> i32 {
    let prepared = || {
        rustix::thread::set_name(c"gantry-names").during("name", "resolver")?;
        process::close_all_but(&[daemon.as_fd()])?;
        // A session of its own: nothing that is sent to the daemon's group arrives here.
        rustix::process::setsid().during("begin", "session")?;
        use rustix::process::Signal;
        let ignored = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::PIPE];
        process::ignore_signals(&ignored.map(Signal::as_raw));
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .during("make undumpable", "resolver")
    };
    // Nobody reads its streams: the daemon sees the connection end.
    i32::from(prepared().and_then(|()| serve(&Options::new(exec_root), daemon)).is_err())
}

/// Answers until a daemon lets it go, or no container and no daemon is left.
///
/// # Errors
/// When it cannot begin: its place is taken, or the kernel refuses. Later on nothing ends it.
pub fn serve(options: &Options, daemon: OwnedFd) -> gantry_linux::Result<()> {
    let directory = options.exec_root.join(ADDRESS);
    fs::create_dir_mode(&directory, 0o700)?;
    let directory = fs::open(&directory)?;
    let listener = listen(&directory)?;
    let servers = Servers::open(&options.resolv_conf, &options.behind_stub);
    let mut resolver = Process::new(servers)?;
    resolver.watch(Source::Listener(listener), epoll::EventFlags::IN)?;
    resolver.watch(Source::Daemon(daemon), epoll::EventFlags::IN)?;
    confine(&options.resolv_conf)?;
    resolver.run()
}

/// There are sockets of many containers: as many descriptors as may be had.
fn raise_limit() -> gantry_linux::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .during("raise the limit of", "open files")?;
    Ok(limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)))
}

fn listen(directory: impl AsFd + Copy) -> gantry_linux::Result<OwnedFd> {
    match socket::connect(directory, SOCKET) {
        Ok(_) => return Err(gantry_linux::Error::new("listen on", SOCKET, Errno::ADDRINUSE)),
        Err(error) if error.is_not_found() => {}
        // A socket that nobody listens on was left by one that has ended.
        Err(error) if error.errno() == Errno::CONNREFUSED.raw_os_error() => {
            rustix::fs::unlinkat(directory, SOCKET, rustix::fs::AtFlags::empty()).during("remove", SOCKET)?;
        }
        Err(error) => return Err(error),
    }
    socket::listen(directory, SOCKET)
}

/// Something that is watched.
pub(super) enum Source {
    Listener(OwnedFd),
    Daemon(OwnedFd),
    /// The file of the host's servers.
    Servers,
    /// A container's datagrams, its connections, and what tells that its supervisor has ended.
    Datagrams(Rc<Door>),
    Connections(Rc<Door>),
    Life(OwnedFd, Rc<Door>),
    /// A connection of a container's.
    Client(Client),
    /// A question that servers outside were asked.
    Query(Box<Query>),
}

/// The resolver's state.
pub(super) struct Process {
    epoll: OwnedFd,
    pub(super) sources: HashMap<u64, Source>,
    next: u64,
    /// The tokens of the daemons' connections: of one, and of the next one while it takes over.
    daemons: Vec<u64>,
    timers: BTreeSet<(Instant, u64)>,
    pub(super) world: World,
    doors: HashMap<Rc<str>, Rc<Door>>,
    pub(super) servers: Servers,
    /// Shared by all that is read.
    pub(super) buffer: Vec<u8>,
    /// Which of several addresses comes first.
    pub(super) turn: usize,
    /// Questions that servers outside were asked.
    pub(super) queries: usize,
    /// So many descriptors may be open.
    most_open: usize,
    own_user: u32,
    leaving: bool,
}

impl Process {
    fn new(servers: Servers) -> gantry_linux::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during("make", "epoll")?;
        let mut process = Self {
            epoll,
            sources: HashMap::new(),
            next: 0,
            daemons: Vec::new(),
            timers: BTreeSet::new(),
            world: World::default(),
            doors: HashMap::new(),
            servers,
            buffer: vec![0; LONGEST],
            turn: 0,
            queries: 0,
            most_open: raise_limit()?,
            own_user: rustix::process::getuid().as_raw(),
            leaving: false,
        };
        if process.servers.changes().is_some() {
            process.watch(Source::Servers, epoll::EventFlags::IN)?;
        }
        Ok(process)
    }

    fn run(mut self) -> gantry_linux::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.leaving && !self.is_deserted() {
            let left = self.timers.first().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(gantry_linux::Error::new("wait for", "questions", error)),
            }
            for event in events.drain(..) {
                let event: epoll::Event = event;
                self.act(event.data.u64(), event.flags);
            }
            self.expire();
        }
        // Its place is free before a daemon hears that it has left.
        self.sources.retain(|_, source| !matches!(source, Source::Listener(_)));
        Ok(())
    }

    /// Nobody is there to be answered, and nobody to say who is.
    fn is_deserted(&self) -> bool {
        self.doors.is_empty() && self.daemons.is_empty()
    }

    fn act(&mut self, token: u64, events: epoll::EventFlags) {
        // It may have gone by what was done just before.
        let Some(source) = self.sources.get(&token) else { return };
        match source {
            Source::Listener(listener) => {
                let accepted = socket::accept(listener);
                self.accept(accepted);
            }
            Source::Daemon(_) => self.obey(),
            Source::Servers => self.servers.follow(),
            Source::Datagrams(door) => {
                let door = Rc::clone(door);
                self.take_datagrams(&door);
            }
            Source::Connections(door) => {
                let door = Rc::clone(door);
                self.take_connections(&door);
            }
            Source::Life(_, door) => {
                let container = Rc::clone(&door.container);
                self.forget(&container);
            }
            Source::Client(_) => self.hear_client(token, events),
            Source::Query(_) => self.hear_server(token),
        }
    }

    /// So few descriptors are left that they are kept for containers to come.
    pub(super) fn is_crowded(&self) -> bool {
        self.sources.len() > self.most_open / 4 * 3
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((at, token)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            match self.sources.get(&token) {
                Some(Source::Query(_)) => self.give_server_up(token),
                // It has been silent for too long.
                Some(Source::Client(_)) => drop(self.unwatch(token)),
                _ => {}
            }
        }
    }

    /// Watches; the token by which it is found.
    pub(super) fn watch(&mut self, source: Source, events: epoll::EventFlags) -> gantry_linux::Result<u64> {
        let token = self.next;
        let nothing = || gantry_linux::Error::new("watch", "nothing", Errno::BADF);
        let fd = source.fd().or_else(|| self.servers.changes()).ok_or_else(nothing)?;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), events).during("watch", "socket")?;
        self.next += 1;
        if let Some(door) = source.door() {
            door.sources.borrow_mut().insert(token);
        }
        self.timers.extend(source.deadline().map(|at| (at, token)));
        if let Source::Daemon(_) = source {
            self.daemons.push(token);
        }
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Watches for something else, or until another time, as the source says by now.
    pub(super) fn watch_again(&mut self, token: u64, earlier: Option<Instant>, events: epoll::EventFlags) {
        let Some(source) = self.sources.get(&token) else { return };
        if let Some(fd) = source.fd() {
            // It is watched: nothing can be refused.
            let _ = epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), events);
        }
        let deadline = source.deadline();
        if deadline != earlier {
            self.timers.extend(deadline.map(|at| (at, token)));
            if let Some(earlier) = earlier {
                self.timers.remove(&(earlier, token));
            }
        }
    }

    /// Lets go. Supervisors have the same sockets open, so that closing alone does not end the watching.
    pub(super) fn unwatch(&mut self, token: u64) -> Option<Source> {
        let source = self.sources.remove(&token)?;
        if let Some(fd) = source.fd() {
            let _ = epoll::delete(&self.epoll, fd);
        }
        if let Some(at) = source.deadline() {
            self.timers.remove(&(at, token));
        }
        if let Some(door) = source.door() {
            door.sources.borrow_mut().remove(&token);
        }
        match &source {
            Source::Query(query) => {
                self.queries -= 1;
                query.door.queries.set(query.door.queries.get() - 1);
            }
            Source::Daemon(_) => self.daemons.retain(|daemon| *daemon != token),
            _ => {}
        }
        Some(source)
    }

    fn accept(&mut self, accepted: gantry_linux::Result<Option<OwnedFd>>) {
        let Ok(Some(daemon)) = accepted else { return };
        // The directory is closed to others; this is the second lock.
        if socket::peer_uid(&daemon).is_ok_and(|uid| uid == self.own_user) {
            // One that cannot be watched sees the connection end.
            let _ = self.watch(Source::Daemon(daemon), epoll::EventFlags::IN);
        }
    }

    /// Does everything that daemons have said. Between receiving a question and answering it, so that what was said
    /// before the question was asked holds for it.
    pub(super) fn obey(&mut self) {
        for at in (0..self.daemons.len()).rev() {
            let token = self.daemons[at];
            while let Some(Source::Daemon(daemon)) = self.sources.get(&token) {
                match socket::try_receive(daemon) {
                    Ok(Some(packet)) => self.follow_order(token, packet),
                    Err(error) if error.errno() == Errno::AGAIN.raw_os_error() => break,
                    Ok(None) | Err(_) => drop(self.unwatch(token)),
                }
            }
        }
    }

    fn follow_order(&mut self, token: u64, packet: socket::Packet) {
        let Ok(order) = order::understand(&packet) else { return drop(self.unwatch(token)) };
        let reply = match order {
            Order::Hello { .. } => Some(Reply::Hello { version: VERSION, containers: self.doors.len() }),
            Order::Sync { id } => Some(Reply::Synced { id }),
            Order::Put(resident) => {
                let container: Rc<str> = resident.container.as_str().into();
                self.world.put(*resident);
                self.open(container, packet.fds)
            }
            Order::Remove { container } => {
                self.forget(&container);
                None
            }
            Order::Keep { containers } => {
                let kept: HashSet<&str> = containers.iter().map(String::as_str).collect();
                let gone = self.world.containers().filter(|id| !kept.contains(id));
                let gone: Vec<String> = gone.map(str::to_owned).collect();
                gone.iter().for_each(|container| self.forget(container));
                None
            }
            Order::Leave => {
                self.leaving = true;
                None
            }
        };
        if let (Some(reply), Some(Source::Daemon(daemon))) = (reply, self.sources.get(&token))
            && order::try_send(daemon, &reply).is_err()
        {
            // A daemon that takes no answers is cut off: it finds us again.
            self.unwatch(token);
        }
    }

    /// Takes a container's sockets, in place of those that it had; it keeps those where none came.
    fn open(&mut self, container: Rc<str>, fds: Vec<OwnedFd>) -> Option<Reply> {
        let descriptors = fds.len();
        let Ok([datagrams, connections, life]) = <[OwnedFd; 3]>::try_from(fds) else {
            let incomplete = || Reply::Incomplete { container: container.to_string(), descriptors };
            return (descriptors > 0).then(incomplete);
        };
        self.close(&container);
        let door = Rc::new(Door::new(Rc::clone(&container), datagrams, connections));
        let sources = [
            Source::Datagrams(Rc::clone(&door)),
            Source::Connections(Rc::clone(&door)),
            Source::Life(life, Rc::clone(&door)),
        ];
        self.doors.insert(container, door);
        for source in sources {
            // Out of memory: then this container's names are not answered, and all others' are.
            let _ = self.watch(source, epoll::EventFlags::IN);
        }
        None
    }

    fn close(&mut self, container: &str) {
        let Some(door) = self.doors.remove(container) else { return };
        let tokens: Vec<u64> = door.sources.borrow().iter().copied().collect();
        for token in tokens {
            self.unwatch(token);
        }
    }

    fn forget(&mut self, container: &str) {
        self.close(container);
        self.world.remove(container);
    }
}

impl Source {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Listener(fd) | Self::Daemon(fd) | Self::Life(fd, _) => Some(fd.as_fd()),
            Self::Servers => None,
            Self::Datagrams(door) => Some(door.datagrams.as_fd()),
            Self::Connections(door) => Some(door.connections.as_fd()),
            Self::Client(client) => Some(client.stream.as_fd()),
            Self::Query(query) => Some(query.fd()),
        }
    }

    fn door(&self) -> Option<&Rc<Door>> {
        match self {
            Self::Listener(_) | Self::Daemon(_) | Self::Servers => None,
            Self::Datagrams(door) | Self::Connections(door) | Self::Life(_, door) => Some(door),
            Self::Client(client) => Some(&client.door),
            Self::Query(query) => Some(&query.door),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Client(client) => Some(client.deadline),
            Self::Query(query) => Some(query.deadline),
            _ => None,
        }
    }
}
