//! The daemon's end: it starts the resolver or takes up the one that is there, says who is called what, and starts it
//! again when it has ended.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gantry_linux::{Error as SystemError, ResultExt, fs, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::order::{self, ADDRESS, Order, Reply, SOCKET, VERSION};
use super::world::Resident;

/// The resolver answers within microseconds; one that takes longer than this is sick.
const PATIENCE: Duration = Duration::from_secs(5);
/// A start waits no longer for one whose queue is full: it is let go, and another one hears everything.
const STALL: Duration = Duration::from_millis(500);
/// One that ends again and again is not started more often than this.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a resolver that ends while it is spoken to is followed by another try.
const ATTEMPTS: usize = 5;

/// A container's sockets, as its supervisor opened them.
#[derive(Debug)]
pub struct Doors {
    /// Datagrams arrive there.
    pub datagrams: OwnedFd,
    /// Connections arrive there.
    pub connections: OwnedFd,
    /// A pidfd of the supervisor: the sockets keep the container's network namespace, and are given back with it.
    pub life: OwnedFd,
}

/// Starts a process that becomes the resolver ([`super::main`]); the connection to it.
pub type StartProcess = Box<dyn Fn() -> Result<OwnedFd, String> + Send + Sync>;
/// The sockets of a container that runs.
pub type DoorsOf = Box<dyn Fn(&str) -> Option<Doors> + Send + Sync>;

/// The resolver as the daemon holds it.
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    start: StartProcess,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    link: Option<Arc<OwnedFd>>,
    residents: HashMap<String, Resident>,
    /// Containers whose sockets were told since the resolver was asked to be told of all.
    told: HashSet<String>,
    doors_of: Option<Arc<DoorsOf>>,
    /// Of the last [`Order::Sync`], and of the last answer.
    asked: u64,
    synced: u64,
    closed: bool,
}

impl Resolver {
    /// Takes up the resolver of this exec root, or starts it. Where that fails it is told, and tried again.
    ///
    /// # Errors
    /// When its directory cannot be made, or no thread be started.
    pub fn open(exec_root: &Path, start: StartProcess) -> gantry_linux::Result<Self> {
        let directory = exec_root.join(ADDRESS);
        fs::create_dir_mode(&directory, 0o700)?;
        let shared = Arc::new(Shared { directory, start, state: Mutex::default(), changed: Condvar::new() });
        let link = match shared.connect() {
            Ok(link) => Some(Arc::new(link)),
            Err(error) => {
                tracing::error!(%error, "names of containers are not answered");
                None
            }
        };
        shared.state().link.clone_from(&link);
        let watcher = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("names".into())
            .spawn(move || watcher.watch(link))
            .during("start", "thread")?;
        Ok(Self { shared })
    }

    /// From whom the sockets of a container come when the resolver had to be started again.
    pub fn set_doors(&self, doors_of: DoorsOf) {
        self.shared.state().doors_of = Some(Arc::new(doors_of));
    }

    /// Takes a container in, or what is new about it; with its sockets when they are new. When this returns, whoever asks
    /// is answered accordingly. While there is no resolver it is noted, for the next one.
    pub fn put(&self, resident: Resident, doors: Option<&Doors>) {
        let mut state = self.shared.state();
        state.residents.insert(resident.container.clone(), resident.clone());
        if doors.is_some() {
            state.told.insert(resident.container.clone());
        }
        let fds: Vec<BorrowedFd<'_>> = doors.iter().flat_map(|doors| doors.fds()).collect();
        state.tell(&Order::Put(Box::new(resident)), &fds);
    }

    /// What was put last of a container.
    #[must_use]
    pub fn resident(&self, container: &str) -> Option<Resident> {
        self.shared.state().residents.get(container).cloned()
    }

    /// Forgets a container; its sockets are given back.
    pub fn remove(&self, container: &str) {
        let mut state = self.shared.state();
        state.told.remove(container);
        if state.residents.remove(container).is_some() {
            state.tell(&Order::Remove { container: container.into() }, &[]);
        }
    }

    /// After an earlier daemon's containers were taken up: forgets all that are not among them.
    pub fn forget_others(&self) {
        let mut state = self.shared.state();
        let containers = state.residents.keys().cloned().collect();
        state.tell(&Order::Keep { containers }, &[]);
    }

    /// Waits until the resolver has done everything before this, for tests and measurements.
    ///
    /// # Errors
    /// `ETIMEDOUT` when it does not answer.
    pub fn sync(&self) -> gantry_linux::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state();
        let (mut id, mut link) = (0, None);
        loop {
            if id > 0 && state.synced >= id {
                return Ok(());
            }
            // A resolver that was started meanwhile is asked again.
            let same = |old: &Arc<OwnedFd>| state.link.as_ref().is_some_and(|new| Arc::ptr_eq(old, new));
            if state.link.is_some() && !link.as_ref().is_some_and(same) {
                state.asked += 1;
                id = state.asked;
                link.clone_from(&state.link);
                state.tell(&Order::Sync { id }, &[]);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SystemError::new("wait for", "the resolver", Errno::TIMEDOUT));
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.hang_up();
        self.shared.changed.notify_all();
    }
}

impl Doors {
    /// From the descriptors in this order: datagrams, connections, life.
    #[must_use]
    pub fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let [datagrams, connections, life] = <[OwnedFd; 3]>::try_from(fds).ok()?;
        Some(Self { datagrams, connections, life })
    }

    fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.datagrams.as_fd(), self.connections.as_fd(), self.life.as_fd()]
    }
}

impl State {
    fn tell(&mut self, order: &Order, fds: &[BorrowedFd<'_>]) {
        let Some(link) = &self.link else { return };
        if let Err(error) = order::send(link, order, fds) {
            tracing::warn!(%error, "the resolver does not listen");
            // The watching thread sees the end, and says everything to another one.
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            // It may have ended already.
            let _ = rustix::net::shutdown(&link, rustix::net::Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To the resolver that is there, or to a new one.
    fn connect(&self) -> gantry_linux::Result<OwnedFd> {
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            let link = match socket::connect(fs::open(&self.directory)?, SOCKET) {
                Ok(link) => link,
                Err(error) if error.is_not_found() || error.errno() == Errno::CONNREFUSED.raw_os_error() => {
                    let failed = |why| SystemError::new("start", "the resolver", std::io::Error::other(why));
                    let link = (self.start)().map_err(failed)?;
                    match greet(&link) {
                        Ok(_) => return Ok(link),
                        // An earlier one that is about to end may have kept it from its place.
                        Err(error) => failure = Some(error),
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            match greet(&link) {
                Ok(VERSION) => return Ok(link),
                Ok(_) => let_go(&link)?,
                Err(error) if error.errno() == Errno::AGAIN.raw_os_error() => {
                    tracing::warn!("the resolver does not answer, and is ended");
                    end(&link)?;
                }
                // It was about to end.
                Err(error) => {
                    await_end(&link)?;
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| SystemError::new("speak to", "the resolver", Errno::PIPE)))
    }

    /// Listens to the resolver, and starts another one when it ends, until the daemon leaves.
    fn watch(&self, mut link: Option<Arc<OwnedFd>>) {
        loop {
            if let Some(link) = link {
                self.listen(&link);
                self.state().hang_up();
            }
            let Some(new) = self.connect_again() else { return };
            tracing::warn!("another resolver of names was started: the one before has ended");
            self.say_everything(&new);
            link = Some(new);
        }
    }

    fn listen(&self, link: &OwnedFd) {
        loop {
            match socket::receive(link) {
                Ok(Some(packet)) => match order::understand(&packet) {
                    Ok(Reply::Synced { id }) => {
                        self.state().synced = id;
                        self.changed.notify_all();
                    }
                    Ok(Reply::Incomplete { container, descriptors }) => {
                        tracing::warn!(
                            container,
                            descriptors,
                            "names may not be answered: its sockets did not all arrive"
                        );
                    }
                    // What a newer one says beyond that is not for us.
                    Ok(Reply::Hello { .. }) | Err(_) => {}
                },
                Err(error) if error.errno() == Errno::AGAIN.raw_os_error() => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn connect_again(&self) -> Option<Arc<OwnedFd>> {
        loop {
            if self.state().closed {
                return None;
            }
            match self.connect() {
                Ok(link) => return Some(Arc::new(link)),
                Err(error) => tracing::error!(%error, "names of containers are not answered"),
            }
            let state = self.state();
            let waited = self.changed.wait_timeout_while(state, PAUSE, |state| !state.closed);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// A new resolver knows nobody. What changes meanwhile is told by who changes it.
    fn say_everything(&self, link: &Arc<OwnedFd>) {
        let (containers, doors_of) = {
            let mut state = self.state();
            if state.closed {
                state.link = Some(Arc::clone(link));
                return state.hang_up();
            }
            state.link = Some(Arc::clone(link));
            state.told.clear();
            (state.residents.keys().cloned().collect::<Vec<_>>(), state.doors_of.clone())
        };
        self.changed.notify_all();
        for container in containers {
            // Without a lock: a supervisor is asked.
            let doors = doors_of.as_ref().and_then(|doors_of| doors_of(&container));
            let mut state = self.state();
            // It has been told of meanwhile, by whoever started it anew; these sockets are of an earlier run.
            if state.told.contains(&container) {
                continue;
            }
            let Some(resident) = state.residents.get(&container).cloned() else { continue };
            let fds: Vec<BorrowedFd<'_>> = doors.iter().flat_map(Doors::fds).collect();
            state.tell(&Order::Put(Box::new(resident)), &fds);
        }
    }
}

/// Lets go of a resolver that speaks another version.
fn let_go(link: &OwnedFd) -> gantry_linux::Result<()> {
    socket::set_timeouts(link, Some(PATIENCE), Some(PATIENCE))?;
    order::send(link, &Order::Leave, &[])?;
    // Its end of the connection closes when it has left.
    while socket::receive(link)?.is_some() {}
    Ok(())
}

/// Ends a resolver that does not answer.
fn end(link: &OwnedFd) -> gantry_linux::Result<()> {
    let process = process_of(link)?;
    gantry_linux::process::pidfd_kill(&process, rustix::process::Signal::KILL.as_raw())?;
    await_end(link)
}

/// Waits until a process that ends has ended: only then is its place free.
fn await_end(link: &OwnedFd) -> gantry_linux::Result<()> {
    let Ok(process) = process_of(link) else { return Ok(()) };
    let patience = rustix::event::Timespec::try_from(PAUSE).unwrap_or_default();
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).during("wait for", "the resolver").map(drop)
}

fn process_of(link: &OwnedFd) -> gantry_linux::Result<OwnedFd> {
    let peer = rustix::net::sockopt::socket_peercred(link).during("read credentials of", "the resolver")?;
    pidfd_open(peer.pid, PidfdFlags::empty()).during("open", "the resolver's process")
}

/// Asks for the version.
fn greet(link: &OwnedFd) -> gantry_linux::Result<u32> {
    socket::set_timeouts(link, Some(PATIENCE), Some(PATIENCE))?;
    order::send(link, &Order::Hello { version: VERSION }, &[])?;
    let ended = || SystemError::new("speak to", "the resolver", Errno::PIPE);
    let packet = socket::receive(link)?.ok_or_else(ended)?;
    match order::understand(&packet)? {
        Reply::Hello { version, .. } => {
            // From now on it speaks when it has something to say.
            socket::set_timeouts(link, Some(STALL), None)?;
            Ok(version)
        }
        Reply::Synced { .. } | Reply::Incomplete { .. } => {
            Err(SystemError::new("speak to", "the resolver", Errno::PROTO))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::Upstream;
    use super::*;

    #[test]
    fn nothing_is_kept_of_a_container_that_went() {
        let root = tempfile::tempdir().unwrap();
        let resolver = Resolver::open(root.path(), Box::new(|| Err("there is none".to_owned()))).unwrap();
        let fds = (0..3).map(|_| OwnedFd::from(fs::open("/dev/null").unwrap()));
        let doors = Doors::from_fds(fds.collect()).unwrap();
        let (places, links) = (Vec::new(), Vec::new());
        let resident = Resident { container: "web".into(), places, links, upstream: Upstream::Nowhere };
        resolver.put(resident, Some(&doors));
        assert!(resolver.shared.state().told.contains("web"));
        resolver.remove("web");
        assert!(resolver.resident("web").is_none());
        assert!(resolver.shared.state().told.is_empty());
    }
}
