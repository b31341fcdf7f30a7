//! The daemon's end of a connection to a supervisor: requests from any thread, answers and exits from one.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use gantry_linux::socket;

use super::protocol::{self, Ask, Done, Kind, Message, Refusal, Request, Tell};
use super::record::{Record, SOCKET};
use crate::{Error, Exit, NameDoors};

/// A supervisor that does not answer within this time is sick; the request fails and says so.
/// A start that is given up after a minute takes some time more to be undone.
pub const PATIENCE: Duration = Duration::from_secs(110);
/// A supervisor that goes on says at once who it is.
const GREETING: Duration = Duration::from_secs(2);

const MOMENT: Duration = Duration::from_secs(1);

/// A supervisor's network namespace.
pub struct Inside {
    /// The namespace.
    pub netns: OwnedFd,
    /// A `NETLINK_ROUTE` socket in there.
    pub route: OwnedFd,
    /// Where questions for names arrive.
    pub names: Option<NameDoors>,
}

impl Inside {
    /// From the descriptors in this order.
    pub fn of(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let (netns, route) = (fds.next()?, fds.next()?);
        Some(Self { netns, route, names: doors(fds) })
    }
}

/// The sockets for names, from the descriptors in their order.
pub fn doors(mut fds: impl Iterator<Item = OwnedFd>) -> Option<NameDoors> {
    Some(NameDoors { datagrams: fds.next()?, connections: fds.next()?, life: fds.next()? })
}

/// Called once with an exit.
pub type OnExit = Box<dyn FnOnce(Exit) + Send>;
type Answer = (Result<Done, Refusal>, Vec<OwnedFd>);

/// A connection to a supervisor.
pub struct Link {
    /// Replaced when the supervisor has cut this side off, which it does where nothing is taken of what it says.
    socket: Mutex<Arc<OwnedFd>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next_id: u64,
    answers: HashMap<u64, Option<Answer>>,
    warm: Option<Result<Inside, String>>,
    exit: Ending,
    execs: HashMap<String, Ending>,
    /// Questions whether an exec still runs, by their ids: asked after the connection was made anew.
    probes: HashMap<u64, String>,
    /// Where the container's exit is noted.
    record: Option<Record>,
    /// The supervisor has said that it has the container.
    adopted: bool,
    closed: bool,
}

/// An exit, or who waits for it.
#[derive(Default)]
struct Ending {
    exit: Option<Exit>,
    then: Vec<OnExit>,
}

/// Callbacks that are due; run without any lock held.
#[derive(Default)]
pub struct Due(Vec<(OnExit, Exit)>);

impl Due {
    /// Calls them.
    pub fn run(self) {
        for (then, exit) in self.0 {
            then(exit);
        }
    }
}

impl Ending {
    fn settle(&mut self, exit: &Exit, due: &mut Due) {
        if self.exit.is_none() {
            self.exit = Some(exit.clone());
        }
        due.0.extend(self.then.drain(..).map(|then| (then, exit.clone())));
    }
}

impl Link {
    /// Over a connected socket.
    pub fn new(socket: OwnedFd) -> Result<Self, Error> {
        socket::set_timeouts(&socket, Some(PATIENCE), None).map_err(system)?;
        Ok(Self { socket: Mutex::new(Arc::new(socket)), state: Mutex::default(), changed: Condvar::new() })
    }

    /// The socket, to be polled.
    pub fn socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the state is half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, body: Ask, blob: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(Done, Vec<OwnedFd>), Error> {
        self.ask_within(PATIENCE, body, blob, fds)
    }

    /// Asks who is there, and does not wait for long: a daemon that starts waits for it. A connection that nobody answers on
    /// is ended.
    pub fn greet(&self) -> Result<Done, Error> {
        let answer = self.ask_within(GREETING, Ask::Hello { version: protocol::VERSION }, &[], &[]);
        if answer.is_err() {
            // It may have ended already.
            let _ = rustix::net::shutdown(self.socket(), rustix::net::Shutdown::Both);
        }
        Ok(answer?.0)
    }

    fn ask_within(
        &self,
        patience: Duration,
        body: Ask,
        blob: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Done, Vec<OwnedFd>), Error> {
        let id = {
            let mut state = self.state();
            if state.closed {
                return Err(gone());
            }
            state.next_id += 1;
            let id = state.next_id;
            state.answers.insert(id, None);
            id
        };
        let sent =
            protocol::encode(&Request { id, body }, blob).and_then(|data| socket::send(self.socket(), &data, fds));
        if let Err(error) = sent {
            self.state().answers.remove(&id);
            let ended = error.errno() == rustix::io::Errno::PIPE.raw_os_error();
            // Whether it is gone or has only ended the connection shows in a moment.
            return Err(if ended && self.await_end(Instant::now() + MOMENT) { gone() } else { system(error) });
        }
        self.await_answer(id, patience)
    }

    fn await_answer(&self, id: u64, patience: Duration) -> Result<(Done, Vec<OwnedFd>), Error> {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        loop {
            if let Some(Some(_)) = state.answers.get(&id) {
                let (result, fds) = state.answers.remove(&id).flatten().ok_or_else(gone)?;
                return result.map(|done| (done, fds)).map_err(Error::from);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                state.answers.remove(&id);
                return Err(if state.closed { gone() } else { Error::System("the supervisor does not answer".into()) });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes what has arrived. `false`: the connection has ended.
    pub fn receive(&self, due: &mut Due) -> bool {
        loop {
            let message = match socket::try_receive(self.socket()) {
                Ok(Some(packet)) => protocol::decode::<Tell>(packet),
                Err(error) if error.errno() == rustix::io::Errno::AGAIN.raw_os_error() => return true,
                Ok(None) | Err(_) => return false,
            };
            match message {
                Ok(message) => self.take(message, due),
                Err(error) => {
                    tracing::warn!(%error, "a supervisor says something that is not understood");
                    return false;
                }
            }
        }
    }

    fn take(&self, message: Message<Tell>, due: &mut Due) {
        let Message { head, fds, .. } = message;
        let mut state = self.state();
        match head {
            Tell::Warm => {
                if let Some(inside) = Inside::of(fds) {
                    state.warm = Some(Ok(inside));
                }
            }
            Tell::Cold(why) => state.warm = Some(Err(why)),
            Tell::Reply { id, result } => {
                state.adopted |= matches!(result, Ok(Done::Started { .. } | Done::Hello { .. }));
                if let Some(exec) = state.probes.remove(&id) {
                    if matches!(&result, Err(refusal) if refusal.kind == Kind::NotFound)
                        && let Some(ending) = state.execs.get_mut(&exec)
                    {
                        ending.settle(&killed(), due);
                    }
                    return;
                }
                // Nobody waits for it any more when it took too long.
                if let Some(answer) = state.answers.get_mut(&id) {
                    *answer = Some((result, fds));
                }
            }
            Tell::Exited(exit) => state.exit.settle(&exit, due),
            Tell::ExecExited { exec, exit } => state.execs.entry(exec).or_default().settle(&exit, due),
        }
        self.changed.notify_all();
    }

    /// What a new supervisor said of itself: its network namespace, or why it cannot be warm.
    pub fn take_warm(&self) -> Option<Result<Inside, String>> {
        self.state().warm.take()
    }

    /// Says where the container's exit will be noted; before the supervisor is asked for the container.
    pub fn set_record(&self, record: &Record) {
        self.state().record = Some(record.clone());
    }

    /// After the connection has ended: makes it anew when the supervisor is alive and its container has not ended.
    /// What waits for an answer is told that none comes.
    pub fn reconnect(&self) -> bool {
        let record = {
            let state = self.state();
            state.record.clone().filter(|_| state.adopted && state.exit.exit.is_none())
        };
        let Some(record) = record.filter(|record| matches!(record.exit(), Ok(None))) else { return false };
        let connected = record.open().and_then(|directory| socket::connect(&directory, SOCKET)).and_then(|new| {
            socket::set_timeouts(&new, Some(PATIENCE), None)?;
            Ok(new)
        });
        let Ok(new) = connected else { return false };
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        let mut state = self.state();
        for answer in state.answers.values_mut().filter(|answer| answer.is_none()) {
            let why = "the connection to the supervisor was lost; try again";
            *answer = Some((Err(Refusal::new(Kind::System, why)), Vec::new()));
        }
        self.changed.notify_all();
        self.probe(&mut state)
    }

    /// Asks which execs still run: the end of one may have been told to nobody.
    fn probe(&self, state: &mut State) -> bool {
        state.probes.clear();
        let open: Vec<String> =
            state.execs.iter().filter(|(_, ending)| ending.exit.is_none()).map(|(exec, _)| exec.clone()).collect();
        for exec in open {
            state.next_id += 1;
            let id = state.next_id;
            let request = Request { id, body: Ask::Signal { exec: Some(exec.clone()), signal: 0 } };
            let sent = protocol::encode(&request, &[]).and_then(|data| socket::try_send(self.socket(), &data, &[]));
            if sent.is_err() {
                return false;
            }
            state.probes.insert(id, exec);
        }
        true
    }

    /// Notes that the supervisor is gone. It tells the exit before it leaves, or has noted it; one that was killed has
    /// taken its container with it.
    pub fn close(&self, due: &mut Due) {
        let mut state = self.state();
        let noted = state.record.as_ref().filter(|_| state.adopted).map(|record| match record.exit() {
            Ok(Some(exit)) => exit,
            Ok(None) | Err(_) => killed(),
        });
        state.closed = true;
        if let Some(exit) = state.exit.exit.clone().or(noted) {
            state.exit.settle(&exit, due);
            for exec in state.execs.values_mut() {
                exec.settle(&exit, due);
            }
        }
        self.changed.notify_all();
    }

    /// Ends the connection: a supervisor without a container leaves then.
    pub fn hang_up(&self) {
        // It may have ended already.
        let _ = rustix::net::shutdown(self.socket(), rustix::net::Shutdown::Write);
    }

    /// Waits until the supervisor has left, or the deadline; whether it has.
    pub fn await_end(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        while !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Blocks until the container has ended.
    pub fn wait(&self) -> Result<Exit, Error> {
        let mut state = self.state();
        loop {
            if let Some(exit) = &state.exit.exit {
                return Ok(exit.clone());
            }
            if state.closed {
                return Err(gone());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calls `then` when the container has ended.
    pub fn on_exit(&self, then: OnExit) {
        let mut state = self.state();
        match state.exit.exit.clone().or_else(|| state.closed.then(killed)) {
            Some(exit) => {
                drop(state);
                then(exit);
            }
            None => state.exit.then.push(then),
        }
    }

    /// Prepares for an exec's end.
    pub fn expect_exec(&self, exec: &str) {
        self.state().execs.insert(exec.to_owned(), Ending::default());
    }

    /// Calls `then` when the exec has ended.
    pub fn on_exec_exit(&self, exec: &str, then: OnExit) {
        let mut state = self.state();
        let whole = state.exit.exit.clone().or_else(|| state.closed.then(killed));
        let ending = state.execs.entry(exec.to_owned()).or_default();
        match ending.exit.clone().or(whole) {
            Some(exit) => {
                drop(state);
                then(exit);
            }
            None => ending.then.push(then),
        }
    }

    /// Forgets an exec that nobody asks about any more, unless somebody waits for its end.
    pub fn forget_exec(&self, exec: &str) {
        let mut state = self.state();
        if state.execs.get(exec).is_some_and(|ending| ending.then.is_empty()) {
            state.execs.remove(exec);
        }
    }
}

/// The exit of what nobody could note the exit of.
fn killed() -> Exit {
    Exit { code: 137, oom_killed: false, finished_at: SystemTime::now() }
}

/// Of a container whose supervisor has left.
pub fn gone() -> Error {
    Error::NotFound("the container is not running".into())
}

/// As the driver's own error.
pub fn system(error: impl std::fmt::Display) -> Error {
    Error::System(error.to_string())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests use the standard library plainly")]
mod tests {
    use std::sync::mpsc::channel;

    use super::super::dispatch::Dispatch;
    use super::*;

    /// A link whose supervisor is the test.
    fn linked(record: &Record) -> (Arc<Dispatch>, Arc<Link>, OwnedFd) {
        let (ours, theirs) = socket::pair().unwrap();
        let link = Arc::new(Link::new(ours).unwrap());
        let dispatch = Dispatch::start().unwrap();
        dispatch.add(&link, None).unwrap();
        link.set_record(record);
        let id = 1;
        let hello = Done::Hello { version: protocol::VERSION, pid: 1, leaf: "/leaf".into() };
        let peer = std::thread::spawn(move || {
            socket::receive(&theirs).unwrap().unwrap();
            protocol::send(&theirs, &Tell::Reply { id, result: Ok(hello) }, &[]).unwrap();
            theirs
        });
        link.ask(Ask::Hello { version: protocol::VERSION }, &[], &[]).unwrap();
        (dispatch, link, peer.join().unwrap())
    }

    fn record(dir: &tempfile::TempDir) -> Record {
        std::fs::create_dir(dir.path().join("c")).unwrap();
        let record = Record::new(dir.path(), "one").unwrap();
        record.make().unwrap();
        record
    }

    #[test]
    fn a_connection_that_ends_is_made_anew_while_the_supervisor_lives() {
        let dir = tempfile::tempdir().unwrap();
        let record = record(&dir);
        let directory = record.open().unwrap();
        let listener = socket::listen(&directory, SOCKET).unwrap();
        let (dispatch, link, theirs) = linked(&record);
        link.expect_exec("e");
        let (send, receive) = channel();
        link.on_exec_exit("e", Box::new(move |exit| send.send(exit.code).unwrap()));
        drop(theirs);
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)],
            Some(&rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 }),
        )
        .unwrap();
        let theirs = socket::accept(&listener).unwrap().unwrap();
        let asked = protocol::decode::<Request>(socket::receive(&theirs).unwrap().unwrap()).unwrap().head;
        assert!(matches!(&asked.body, Ask::Signal { exec: Some(exec), signal: 0 } if exec == "e"));
        let result = Err(Refusal::new(Kind::NotFound, "exec e is not running"));
        protocol::send(&theirs, &Tell::Reply { id: asked.id, result }, &[]).unwrap();
        assert_eq!(receive.recv_timeout(Duration::from_secs(10)).unwrap(), 137, "its end was told to nobody");
        let exit = Exit { code: 5, oom_killed: false, finished_at: SystemTime::now() };
        protocol::send(&theirs, &Tell::Exited(exit), &[]).unwrap();
        assert_eq!(link.wait().unwrap().code, 5);
        dispatch.stop();
    }

    #[test]
    fn an_end_with_nobody_listening_is_death() {
        let dir = tempfile::tempdir().unwrap();
        let (dispatch, link, theirs) = linked(&record(&dir));
        drop(theirs);
        assert_eq!(link.wait().unwrap().code, 137);
        let (send, receive) = channel();
        link.on_exit(Box::new(move |exit| send.send(exit.code).unwrap()));
        assert_eq!(receive.recv_timeout(Duration::from_secs(10)).unwrap(), 137);
        dispatch.stop();
    }
}
