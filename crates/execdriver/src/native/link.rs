//! The daemon's end of a connection to a supervisor: requests from any thread, answers and exits from one.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use gantry_linux::socket;

use super::protocol::{self, Ask, Done, Message, Refusal, Request, Tell};
use super::record::Record;
use crate::{Error, Exit};

/// A supervisor that does not answer within this time is sick; the request fails and says so.
pub const PATIENCE: Duration = Duration::from_secs(70);

/// Called once with an exit.
pub type OnExit = Box<dyn FnOnce(Exit) + Send>;
type Answer = (Result<Done, Refusal>, Vec<OwnedFd>);

/// A connection to a supervisor.
pub struct Link {
    socket: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
    /// Where the container's exit is noted, once there is a container.
    record: OnceLock<Record>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    answers: HashMap<u64, Option<Answer>>,
    warm: Option<Result<(OwnedFd, OwnedFd), String>>,
    exit: Ending,
    execs: HashMap<String, Ending>,
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
        Ok(Self { socket, state: Mutex::default(), changed: Condvar::new(), record: OnceLock::new() })
    }

    /// The socket, to be polled.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the state is half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, body: Ask, blob: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(Done, Vec<OwnedFd>), Error> {
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
            protocol::encode(&Request { id, body }, blob).and_then(|data| socket::send(&self.socket, &data, fds));
        if let Err(error) = sent {
            self.state().answers.remove(&id);
            let ended = error.errno() == rustix::io::Errno::PIPE.raw_os_error();
            return Err(if ended { gone() } else { system(error) });
        }
        self.await_answer(id)
    }

    fn await_answer(&self, id: u64) -> Result<(Done, Vec<OwnedFd>), Error> {
        let deadline = Instant::now() + PATIENCE;
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
            let message = match socket::try_receive(&self.socket) {
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
                let mut fds = fds.into_iter();
                if let (Some(netns), Some(route)) = (fds.next(), fds.next()) {
                    state.warm = Some(Ok((netns, route)));
                }
            }
            Tell::Cold(why) => state.warm = Some(Err(why)),
            Tell::Reply { id, result } => {
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

    /// What a new supervisor said of itself: its network namespace and route socket, or why it cannot be warm.
    pub fn take_warm(&self) -> Option<Result<(OwnedFd, OwnedFd), String>> {
        self.state().warm.take()
    }

    /// Says where the container's exit will be noted.
    pub fn set_record(&self, record: &Record) {
        // A second container on the same connection is refused by the supervisor.
        let _ = self.record.set(record.clone());
    }

    /// Notes that the connection has ended. A supervisor tells the exit before it leaves, or has noted it; one that was
    /// killed has taken its container with it.
    pub fn close(&self, due: &mut Due) {
        let noted = self.record.get().map(|record| match record.exit() {
            Ok(Some(exit)) => exit,
            Ok(None) | Err(_) => Exit { code: 137, oom_killed: false, finished_at: SystemTime::now() },
        });
        let mut state = self.state();
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
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
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
        match state.exit.exit.clone() {
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
        let whole = state.exit.exit.clone();
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

/// Of a container whose supervisor has left.
pub fn gone() -> Error {
    Error::NotFound("the container is not running".into())
}

/// As the driver's own error.
pub fn system(error: impl std::fmt::Display) -> Error {
    Error::System(error.to_string())
}
