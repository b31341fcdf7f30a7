//! The supervisor: one process per container, forked from the template ahead of need. It makes the container's first
//! process and is its parent; it holds its streams, writes its log, serves its clients, reaps, and records the exit.
//! It has one thread and outlives the daemon; without a container it leaves with the daemon.

mod client;
mod end;
mod exec;
mod launch;
mod lines;
mod log;
mod serve;
mod start;
mod task;
mod users;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gantry_linux::process::{self, CloneFlags};
use gantry_linux::{ResultExt, socket};
use libcontainer::cgroups::{Hierarchies, Leaf};
use libcontainer::network::names::NameSockets;
use libcontainer::seed::Seed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::protocol::{self, Ask, Kind, Message, Refusal, Request, Spawn, Tell};
use serve::Connection;
pub use start::with_seed;
use users::Users;

type SystemResult<T> = Result<T, gantry_linux::Error>;

/// Members of a dying cgroup are waited for this long before its removal is given up.
const REMOVAL: Duration = Duration::from_secs(10);

/// A killed seed is gone within this time.
const SEED: Duration = Duration::from_secs(2);

/// Reaps a child that was killed, unless it takes longer: then it is reaped when it ends.
fn reap_within(pid: Pid, patience: Duration) {
    let timeout = Timespec::try_from(patience).ok();
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .and_then(|pidfd| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timeout.as_ref()));
    if ended.is_ok_and(|ready| ready > 0) {
        // Nobody else waits for it.
        let _ = process::wait_for(pid);
    }
}

/// A supervisor, warm or at work.
struct Supervisor {
    exec_root: PathBuf,
    leaf: Leaf,
    hierarchies: Hierarchies,
    seed: Option<Seed>,
    signals: OwnedFd,
    /// For containers that share the host's network.
    host_netns: OwnedFd,
    /// Of the container, where its user namespace is its own.
    users: Option<Users>,
    /// Where its questions for names arrive, or why they do not.
    names: Result<NameSockets, String>,
}

/// Lives a supervisor's whole life, in a process that the template has just forked.
pub fn run(spawn: &Spawn, daemon: OwnedFd, hierarchies: Hierarchies) -> ! {
    let code = match warm_up(spawn, &daemon, &hierarchies) {
        Ok(supervisor) => wait_for_work(supervisor, daemon),
        Err(error) => {
            // A daemon that cannot be told sees the connection end.
            let _ = protocol::send(&daemon, &Tell::Cold(error.to_string()), &[]);
            1
        }
    };
    process::exit_now(code)
}

/// Everything that takes time and does not depend on the container.
fn warm_up(spawn: &Spawn, daemon: &OwnedFd, hierarchies: &Hierarchies) -> Result<Supervisor, libcontainer::Error> {
    rustix::thread::set_name(c"gantry-sup").during("name", "supervisor")?;
    process::close_all_but(&[daemon.as_fd()])?;
    // A session of its own: nothing that is sent to the daemon's or the template's group arrives here.
    rustix::process::setsid().during("begin", "session")?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .during("make undumpable", "supervisor")?;
    use rustix::process::Signal;
    let ignored = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::PIPE];
    process::ignore_signals(&ignored.map(Signal::as_raw));
    let signals = process::signal_fd(&[Signal::CHILD.as_raw()])?;
    let host_netns = open_own_netns()?;
    process::unshare(CloneFlags::NEWNET)?;
    let leaf = Leaf::create(hierarchies, &format!("{}/{}", spawn.cgroup_parent, spawn.name))?;
    let mut supervisor = Supervisor {
        exec_root: spawn.exec_root.clone(),
        leaf,
        hierarchies: hierarchies.clone(),
        seed: None,
        signals,
        host_netns,
        users: None,
        names: open_names(),
    };
    match supervisor.announce(daemon) {
        Ok(()) => Ok(supervisor),
        Err(error) => {
            supervisor.give_back();
            Err(error)
        }
    }
}

fn open_own_netns() -> SystemResult<OwnedFd> {
    let path = "/proc/self/ns/net";
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)
}

/// A kernel without nf_tables runs containers all the same.
fn open_names() -> Result<NameSockets, String> {
    NameSockets::open().map_err(|error| error.to_string())
}

fn route_socket() -> SystemResult<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    // The protocol NETLINK_ROUTE is number 0, which is the default one.
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).during("open", "route socket")
}

impl Supervisor {
    /// Plants the seed and tells the daemon that everything is there.
    fn announce(&mut self, daemon: &OwnedFd) -> Result<(), libcontainer::Error> {
        self.seed = Some(Seed::plant(&self.leaf, None)?);
        Ok(self.tell_inside(daemon, &Tell::Warm)?)
    }

    /// Says something, with what the daemon needs of the network namespace.
    fn tell_inside(&self, daemon: &OwnedFd, tell: &Tell) -> SystemResult<()> {
        let mut fds = vec![open_own_netns()?, route_socket()?];
        // Without them the daemon knows that there are none.
        fds.extend(self.names().into_iter().flatten());
        protocol::send(daemon, tell, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())
    }

    /// Where questions for names arrive, to be given to the resolver.
    fn names(&self) -> Result<[OwnedFd; 3], Refusal> {
        let names = self.names.as_ref().map_err(|why| Refusal::new(Kind::Invalid, why.as_str()))?;
        let copy = |fd: &OwnedFd| fd.try_clone().during("duplicate", "socket for names");
        let own = rustix::process::getpid();
        let life = rustix::process::pidfd_open(own, PidfdFlags::empty()).during("open", "own process")?;
        Ok([copy(&names.datagrams)?, copy(&names.connections)?, life])
    }

    /// Ends the seed. It is let run first: a frozen process does not die.
    fn uproot_seed(&mut self) {
        if let Some(seed) = self.seed.take() {
            let pid = seed.pid;
            let _ = self.leaf.thaw(Instant::now() + SEED);
            seed.uproot();
            reap_within(pid, SEED);
        }
    }

    /// Removes what was made to be warm. Errors have nobody to go to; the next daemon sweeps what is left.
    fn give_back(&mut self) {
        self.uproot_seed();
        let _ = self.leaf.remove(Instant::now() + REMOVAL);
    }
}

/// Waits for the one order that makes a warm supervisor one at work. Returns the exit code.
fn wait_for_work(mut supervisor: Supervisor, daemon: OwnedFd) -> i32 {
    loop {
        let mut watched = [PollFd::new(&daemon, PollFlags::IN), PollFd::new(&supervisor.signals, PollFlags::IN)];
        if poll(&mut watched, None).is_err_and(|error| error != rustix::io::Errno::INTR) {
            break;
        }
        let (has_message, has_signal) = (!watched[0].revents().is_empty(), !watched[1].revents().is_empty());
        if has_signal {
            while process::next_signal(&supervisor.signals).is_some() {}
            while let Some(ended) = process::reap() {
                if supervisor.seed.as_ref().is_some_and(|seed| seed.pid == ended.pid) {
                    supervisor.seed = None;
                }
            }
        }
        if !has_message {
            continue;
        }
        let message = match socket::try_receive(&daemon) {
            Ok(Some(packet)) => protocol::decode::<Request>(packet),
            Err(error) if error.errno() == rustix::io::Errno::AGAIN.raw_os_error() => continue,
            Ok(None) | Err(_) => break,
        };
        let Ok(Message { head: Request { id, body }, blob, fds }) = message else { break };
        if let Ask::MapUsers(users) = &body {
            if supervisor.answer_map_users(id, users, &daemon).is_err() {
                break;
            }
            continue;
        }
        let mut connection = Connection::new(daemon);
        let Ask::Start(order) = body else {
            break_off(&mut connection, id);
            break;
        };
        return match supervisor.start(*order, &blob, fds) {
            Ok((mut work, done)) => {
                connection.reply(id, Ok(done), &[]);
                work.connections.push(connection);
                work.serve()
            }
            Err((mut supervisor, refusal)) => {
                supervisor.give_back();
                connection.reply(id, Err(refusal), &[]);
                1
            }
        };
    }
    supervisor.give_back();
    0
}

fn break_off(connection: &mut Connection, id: u64) {
    let refusal = protocol::Refusal::new(protocol::Kind::NotFound, "this supervisor has no container yet");
    connection.reply(id, Err(refusal), &[]);
}
