//! Warm supervisors, kept ahead of need; and the template that they are forked from.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use gantry_linux::{ResultExt, fs, socket};
use libcontainer::protection::intact;
use rustix::fs::{MemfdFlags, SealFlags};

use super::dispatch::{Dispatch, Listener};
use super::link::{Inside, Link, system};
use super::protocol::{self, Fork, Spawn};
use super::template::{FAIL_AT, TEMPLATE_ROLE};
use crate::Error;

/// A supervisor takes some 20 ms to become warm; on a machine under load more.
const PATIENCE: Duration = Duration::from_secs(20);
/// Warm supervisors take a moment to leave.
const FAREWELL: Duration = Duration::from_secs(3);
/// After the last start, the pool is filled up when this long no other has followed; but it never waits longer than
/// [`LONGEST_QUIET`].
const QUIET: Duration = Duration::from_millis(40);
const LONGEST_QUIET: Duration = Duration::from_millis(200);

/// A warm supervisor.
pub struct Warm {
    /// The connection.
    pub link: Arc<Link>,
    /// Its network namespace.
    pub inside: Inside,
    /// It has a container, and stays when this is dropped.
    pub used: bool,
}

impl Drop for Warm {
    fn drop(&mut self) {
        if !self.used {
            self.link.hang_up();
        }
    }
}

/// How the pool makes supervisors.
pub struct Plan {
    /// Where containers' directories are.
    pub exec_root: PathBuf,
    /// The cgroup above all leaves.
    pub cgroup_parent: String,
    /// How many are kept warm.
    pub warm: usize,
    /// The binary, in a sealed memfd.
    pub program: OwnedFd,
}

/// The pool.
pub struct Pool {
    plan: Plan,
    dispatch: Arc<Dispatch>,
    state: Mutex<State>,
    changed: Condvar,
    me: Weak<Self>,
}

#[derive(Default)]
struct State {
    template: Option<(Child, OwnedFd)>,
    ready: VecDeque<Warm>,
    /// Asked for and not warm yet.
    expected: Vec<Arc<Link>>,
    /// Why the last one did not become warm.
    failure: Option<String>,
    /// When the pool is filled up, and since when that waits.
    refill_at: Option<Instant>,
    refill_since: Option<Instant>,
    closed: bool,
}

impl Pool {
    /// Starts the template and the first supervisors.
    pub fn start(plan: Plan, dispatch: Arc<Dispatch>) -> Result<Arc<Self>, Error> {
        let pool = Arc::new_cyclic(|me| Self {
            plan,
            dispatch,
            state: Mutex::default(),
            changed: Condvar::new(),
            me: Weak::clone(me),
        });
        let mut state = pool.state();
        state.template = Some(pool.start_template()?);
        pool.refill(&mut state)?;
        drop(state);
        let filler = Arc::clone(&pool);
        let spawned = std::thread::Builder::new().name("warm-up".into()).spawn(move || filler.fill_up());
        spawned.map_err(|error| Error::System(format!("start thread: {error}")))?;
        Ok(pool)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_template(&self) -> Result<(Child, OwnedFd), Error> {
        use std::os::fd::AsRawFd;
        let (ours, theirs) = socket::pair().map_err(system)?;
        // Without a function to run before exec this is a posix_spawn: the daemon is not copied.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.plan.program.as_raw_fd()));
        command
            .arg0(TEMPLATE_ROLE)
            .env_clear()
            .envs(libcontainer::protection::passed_on())
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(step) = std::env::var_os(FAIL_AT) {
            command.env(FAIL_AT, step);
        }
        let child =
            command.spawn().map_err(|error| Error::System(format!("start the supervisor template: {error}")))?;
        socket::set_timeouts(&ours, Some(PATIENCE), None).map_err(system)?;
        Ok((child, ours))
    }

    /// Asks for as many as are missing.
    fn refill(&self, state: &mut State) -> Result<(), Error> {
        while !state.closed && state.ready.len() + state.expected.len() < self.plan.warm.max(1) {
            self.spawn(state)?;
        }
        Ok(())
    }

    fn spawn(&self, state: &mut State) -> Result<(), Error> {
        let spawn = Spawn {
            exec_root: self.plan.exec_root.clone(),
            cgroup_parent: self.plan.cgroup_parent.clone(),
            name: warm_name()?,
        };
        let link = Arc::new(Link::new(self.fork(state, &Fork::Supervisor(spawn))?)?);
        let me: Weak<dyn Listener> = Weak::clone(&self.me) as Weak<dyn Listener>;
        state.expected.push(Arc::clone(&link));
        self.dispatch.add(&link, Some(me)).map_err(system)?;
        Ok(())
    }

    /// Starts a process of another role; the connection to it.
    pub fn start_role(&self, name: &str) -> Result<OwnedFd, Error> {
        let role = Fork::Role { name: name.into(), exec_root: self.plan.exec_root.clone() };
        self.fork(&mut self.state(), &role)
    }

    /// Has the template fork; our end of the connection to the new process.
    fn fork(&self, state: &mut State, fork: &Fork) -> Result<OwnedFd, Error> {
        let (ours, theirs) = socket::pair().map_err(system)?;
        let told = match &state.template {
            Some((_, template)) => protocol::send(template, fork, &[theirs.as_fd()]).is_ok(),
            None => false,
        };
        if !told {
            // Somebody killed the template. Another one does as well.
            if let Some((child, socket)) = state.template.take() {
                drop(socket);
                // Elsewhere: whoever waits here has the pool locked.
                std::thread::Builder::new()
                    .name("template-end".into())
                    .spawn(move || end_template(child))
                    .map_err(|error| Error::System(format!("start thread: {error}")))?;
            }
            let template = state.template.insert(self.start_template()?);
            protocol::send(&template.1, fork, &[theirs.as_fd()]).map_err(system)?;
        }
        Ok(ours)
    }

    /// Takes a warm supervisor; waits where none is ready.
    pub fn take(&self) -> Result<Warm, Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        // What failed before this request says nothing of what is made for it.
        state.failure = None;
        let mut tried_again = false;
        loop {
            if let Some(warm) = state.ready.pop_front() {
                if state.ready.is_empty() {
                    // The next request should not wait for this one.
                    self.refill(&mut state)?;
                }
                return Ok(warm);
            }
            if let Some(why) = state.failure.take()
                && std::mem::replace(&mut tried_again, true)
            {
                return Err(Error::System(format!("prepare a supervisor: {why}")));
            }
            self.refill(&mut state)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::System("no supervisor became ready; the machine may be overloaded".into()));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Fills up again soon. A new supervisor joins its cgroups, for which the kernel holds up every clone and every exit of
    /// the machine for some milliseconds: that is done when no start and no short-lived container is in its way.
    pub fn replenish(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let latest = state.refill_since.get_or_insert(now).checked_add(LONGEST_QUIET);
        state.refill_at = Some(latest.map_or(now, |latest| latest.min(now + QUIET)));
        self.changed.notify_all();
    }

    /// The thread that fills up when it is quiet, until the pool is closed.
    fn fill_up(&self) {
        let mut state = self.state();
        while !state.closed {
            let now = Instant::now();
            state = match state.refill_at {
                Some(at) if at <= now => {
                    state.refill_at = None;
                    state.refill_since = None;
                    if let Err(error) = self.refill(&mut state) {
                        // The next request tries again, and is told.
                        tracing::warn!(%error, "cannot prepare supervisors");
                    }
                    continue;
                }
                Some(at) => self.changed.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Lets the template and the warm supervisors go, and waits until they have given back what they hold.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.changed.notify_all();
        let template = state.template.take();
        let mut links: Vec<Arc<Link>> = state.ready.drain(..).map(|warm| Arc::clone(&warm.link)).collect();
        links.append(&mut state.expected);
        drop(state);
        if let Some((child, socket)) = template {
            drop(socket);
            end_template(child);
        }
        let deadline = Instant::now() + FAREWELL;
        for link in links {
            link.hang_up();
            if !link.await_end(deadline) {
                tracing::warn!("a warm supervisor does not leave");
            }
        }
    }
}

/// Ends a template, one that hangs too: it holds nothing that must be given back.
fn end_template(mut child: Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::warn!(%error, "cannot end the supervisor template");
    }
}

/// A leaf's name until it has a container: no other one's, not even one of an earlier daemon with the same process id.
fn warm_name() -> Result<String, Error> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::System(format!("read random bytes: {error}")))?;
    Ok(format!("warm-{}-{:016x}", fs::unique(), u64::from_ne_bytes(random)))
}

impl Listener for Pool {
    fn changed(&self, link: &Arc<Link>) {
        let warm = link.take_warm();
        let mut state = self.state();
        let closed = link.is_closed();
        let expected = state.expected.iter().position(|other| Arc::ptr_eq(other, link));
        match (warm, expected) {
            (Some(Ok(inside)), Some(at)) => {
                state.expected.swap_remove(at);
                state.failure = None;
                if !closed && !state.closed {
                    state.ready.push_back(Warm { link: Arc::clone(link), inside, used: false });
                }
            }
            (Some(Err(why)), Some(at)) => {
                state.expected.swap_remove(at);
                state.failure = Some(why);
            }
            (None, Some(at)) if closed => {
                state.expected.swap_remove(at);
                state.failure = Some("the new supervisor has ended".into());
            }
            // Reserved, at work, or not yet there.
            _ if closed => state.ready.retain(|warm| !Arc::ptr_eq(&warm.link, link)),
            _ => return,
        }
        self.changed.notify_all();
    }
}

/// The binary in memory that nobody can change: what supervisors and their containers see as `/proc/self/exe`.
pub fn seal(executable: &std::path::Path) -> Result<OwnedFd, gantry_linux::Error> {
    let source = fs::open(executable)?;
    if !intact("exe-protected") {
        return Ok(source.into());
    }
    let size = fs::metadata(executable)?.len();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC says that it is to be executed where the administrator wants that said; older kernels do not know it.
    let memfd = rustix::fs::memfd_create("gantry", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("gantry", flags))
        .during("make memory file", "gantry")?;
    let mut left = size;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(&memfd, &source, None, piece).during("copy", executable.display())? {
            0 => break,
            copied => left -= copied as u64,
        }
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // Its being executable cannot be changed either, where the kernel knows that seal (6.3).
    match gantry_linux::socket::add_seals(&memfd, seals | SealFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => gantry_linux::socket::add_seals(&memfd, seals),
        other => other,
    }
    .during("seal memory file", "gantry")?;
    Ok(memfd)
}
