//! The seed: a parked process in the container's cgroups from which its processes are cloned.
//!
//! Joining cgroups costs a write for each hierarchy on cgroup v1, so the seed does it ahead of need; what it clones is born
//! in them. The clones are children of the seed's parent (`CLONE_PARENT`), which reaps them. The seed is never in any
//! namespace of the container. A further process is made in two steps, so that no process inside the container's pid
//! namespace, which the container may trace, ever has anything of the host's: a helper outside of it enters the
//! container's other namespaces, lets go of everything else, clones the process, and ends. It is a child of the seed's
//! parent too, which reaps it without knowing it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::{Error as SystemError, ResultExt, socket};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroups::Leaf;
use crate::config::{Config, Namespace, Process};
use crate::container::{
    First, Further, Inside, enter_container, enter_user_namespace, give_up, run_first, run_further,
};
use crate::error::{Error, Failure, Result};

/// A seed that does not answer within this time is frozen or dead.
const DEADLINE: Duration = Duration::from_secs(10);
const HEADER: usize = 32;

/// A parked process.
#[derive(Debug)]
pub struct Seed {
    /// Its pid; a child of the process that planted it.
    pub pid: Pid,
    socket: OwnedFd,
}

/// What the seed does with an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    First = 1,
    Further = 2,
    /// A first one in a user namespace.
    Inside = 3,
}

#[derive(Serialize, Deserialize)]
struct FirstPlan {
    config: Config,
    stage: PathBuf,
    stdio: bool,
    join: Vec<u64>,
    sources: Vec<usize>,
    root: bool,
    /// Whether it has a user namespace, and with it a network namespace.
    inside: Option<bool>,
    cgroups: Vec<(Vec<String>, PathBuf)>,
}

#[derive(Serialize, Deserialize)]
struct FurtherPlan {
    process: Process,
    stdio: bool,
    namespaces: u64,
}

impl Seed {
    /// Plants a seed in the leaf, and waits until it is there. The calling process must have a single thread. A target is
    /// not needed to plant: each order of a further process has its own.
    pub fn plant(leaf: &Leaf, _target: Option<BorrowedFd<'_>>) -> Result<Self> {
        let (ours, theirs) = socket::pair()?;
        match process::clone(CloneFlags::NONE)? {
            Clone::Child => {
                let end = match prepare(leaf, &theirs) {
                    Ok(()) => grow(&theirs),
                    Err(error) => {
                        // When this fails too the other side sees the end of the stream.
                        let _ = socket::send(&theirs, error.to_string().as_bytes(), &[]);
                        1
                    }
                };
                process::exit_now(end)
            }
            Clone::Parent(pid) => {
                drop(theirs);
                socket::set_timeouts(&ours, Some(DEADLINE), Some(DEADLINE))?;
                let seed = Self { pid, socket: ours };
                match socket::receive(&seed.socket) {
                    Ok(Some(packet)) if packet.data.is_empty() => Ok(seed),
                    Ok(Some(packet)) => Err(seed.lost(&String::from_utf8_lossy(&packet.data))),
                    Ok(None) => Err(seed.lost("it ended")),
                    Err(error) => Err(seed.lost(&error.to_string())),
                }
            }
        }
    }

    fn lost(&self, why: &str) -> Error {
        let error = std::io::Error::other(why.to_owned());
        SystemError::new("use the container's seed process", self.pid.as_raw_nonzero().to_string(), error).into()
    }

    /// Ends the seed. The parent still reaps it.
    pub fn uproot(self) {
        // It may have ended already.
        let _ = process::kill(self.pid, libc::SIGKILL);
    }

    /// Has the first process cloned; its reports come on the other end of `first.report`, also why it could not be. `pid_namespace`
    /// is one to be born in that is neither new nor the seed's.
    pub fn first(&self, first: &First, pid_namespace: Option<BorrowedFd<'_>>) -> Result<Pid> {
        let (data, fds) = first_order(first, clone_flags(&first.config), pid_namespace)?;
        self.send(&data, &fds)
    }

    /// Has a further process cloned; its reports come on the other end of `further.report`.
    pub fn further(&self, further: &Further) -> Result<Pid> {
        let plan = FurtherPlan {
            process: further.process.clone(),
            stdio: further.stdio.is_some(),
            namespaces: further.namespaces.bits(),
        };
        let mut fds = vec![further.report.as_fd(), further.target.as_fd()];
        fds.extend(further.stdio.iter().flatten().map(AsFd::as_fd));
        let seccomp = further.process.seccomp.as_deref().unwrap_or_default();
        let data = order(Kind::Further, CloneFlags::NONE, false, &encode(&plan)?, seccomp);
        self.send(&data, &fds)
    }

    fn send(&self, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Pid> {
        socket::send(&self.socket, data, fds).map_err(|error| self.lost(&error.to_string()))?;
        let reply = socket::receive(&self.socket).map_err(|error| self.lost(&error.to_string()))?;
        let Some(reply) = reply else { return Err(self.lost("it ended")) };
        let Ok(number) = <[u8; 4]>::try_from(reply.data.as_slice()) else {
            return Err(self.lost("its answer is not understood"));
        };
        let number = i32::from_ne_bytes(number);
        match Pid::from_raw(number.max(0)) {
            Some(pid) => Ok(pid),
            None => {
                let error = std::io::Error::from_raw_os_error(-number);
                Err(SystemError::new("clone", "process of the container", error).into())
            }
        }
    }
}

/// Has a process that was made by others become the first one: it does [`take_over`] on the other end of `socket`, in the
/// namespaces that it was born in and, of its own, those of `unshare`.
pub fn hand_over(socket: impl AsFd, first: &First, unshare: CloneFlags) -> Result<()> {
    let (data, fds) = first_order(first, unshare, None)?;
    Ok(socket::send(socket, &data, &fds)?)
}

/// Becomes the first process of a container as [`hand_over`] orders it; ends when there comes no order.
pub fn take_over(socket: &OwnedFd) -> ! {
    let Ok(Some(packet)) = socket::receive(socket) else { process::exit_now(1) };
    let Some(order) = Order::parse(packet).filter(|order| order.kind == Kind::First) else { process::exit_now(1) };
    if order.flags != CloneFlags::NONE
        && let Err(error) = process::unshare(order.flags)
    {
        match order.fds.first() {
            Some(report) => give_up(report, &Failure::new("namespaces", &error.into())),
            None => process::exit_now(1),
        }
    }
    become_first(order)
}

/// The order of a first process, and what goes with it.
fn first_order<'a>(
    first: &'a First,
    flags: CloneFlags,
    pid_namespace: Option<BorrowedFd<'a>>,
) -> Result<(Vec<u8>, Vec<BorrowedFd<'a>>)> {
    let plan = FirstPlan {
        config: first.config.clone(),
        stage: first.stage.clone(),
        stdio: first.stdio.is_some(),
        join: first.join.iter().map(|(flags, _)| flags.bits()).collect(),
        sources: first.sources.iter().enumerate().filter(|(_, fd)| fd.is_some()).map(|(n, _)| n).collect(),
        root: first.root.is_some(),
        inside: first.inside.as_ref().map(|inside| inside.net.is_some()),
        cgroups: first.cgroups.clone(),
    };
    let mut fds: Vec<BorrowedFd<'_>> = pid_namespace.into_iter().collect();
    fds.push(first.report.as_fd());
    fds.extend(first.stdio.iter().flatten().map(AsFd::as_fd));
    fds.extend(first.join.iter().map(|(_, fd)| fd.as_fd()));
    fds.extend(first.sources.iter().flatten().map(AsFd::as_fd));
    fds.extend(first.root.iter().map(AsFd::as_fd));
    fds.extend(
        first.inside.iter().flat_map(|inside| [Some(&inside.user), inside.net.as_ref()]).flatten().map(AsFd::as_fd),
    );
    if fds.len() > socket::MOST_FDS {
        let most = socket::MOST_FDS - 8;
        return Err(Error::Invalid(format!("{} binds: at most {most} are possible", plan.sources.len())));
    }
    let seccomp = first.config.process.seccomp.as_deref().unwrap_or_default();
    let kind = if first.inside.is_some() { Kind::Inside } else { Kind::First };
    Ok((order(kind, flags, pid_namespace.is_some(), &encode(&plan)?, seccomp), fds))
}

fn encode(plan: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(plan).map_err(|error| Error::Invalid(format!("configuration cannot be encoded: {error}")))
}

/// The order's layout: four numbers (kind, clone flags, whether a pid namespace comes with it, length of the plan), the
/// plan, the seccomp program. The seed reads the numbers only; the plan is read by the clone, whose memory it burdens.
fn order(kind: Kind, flags: CloneFlags, pid_namespace: bool, plan: &[u8], seccomp: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(HEADER + plan.len() + seccomp.len());
    for number in [kind as u64, flags.bits(), u64::from(pid_namespace), plan.len() as u64] {
        data.extend(number.to_ne_bytes());
    }
    data.extend(plan);
    data.extend(seccomp);
    data
}

/// The namespaces that a container's first process is cloned with.
fn clone_flags(config: &Config) -> CloneFlags {
    let namespaces = &config.namespaces;
    let wanted = [
        (&namespaces.pid, CloneFlags::NEWPID),
        (&namespaces.uts, CloneFlags::NEWUTS),
        (&namespaces.ipc, CloneFlags::NEWIPC),
        (&namespaces.cgroup, CloneFlags::NEWCGROUP),
    ];
    // The network namespace is the planter's own, made beforehand, or joined.
    wanted
        .iter()
        .filter(|(namespace, _)| **namespace == Namespace::New)
        .fold(CloneFlags::NEWNS, |flags, (_, flag)| flags.with(*flag))
}

fn prepare(leaf: &Leaf, socket: &OwnedFd) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .during("set", "parent death signal")?;
    leaf.join_self()?;
    process::close_all_but(&[socket.as_fd()])?;
    // The kernel's OOM killer should take the container's own processes. Refused without CAP_SYS_RESOURCE: then a new
    // seed is planted when it is needed.
    let _ = gantry_linux::fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::thread::set_name(c"gantry-seed");
    socket::send(socket, &[], &[])?;
    Ok(())
}

/// Clones as ordered until the planter is gone; returns the exit code.
fn grow(socket: &OwnedFd) -> i32 {
    loop {
        let Ok(Some(packet)) = socket::receive(socket) else { return 0 };
        let Some(order) = Order::parse(packet) else { return 1 };
        match clone_for(order, socket) {
            Ok(true) => {}
            Ok(false) => return 0,
            Err(errno) => {
                if socket::send(socket, &(-errno).to_ne_bytes(), &[]).is_err() {
                    return 1;
                }
            }
        }
    }
}

struct Order {
    kind: Kind,
    flags: CloneFlags,
    pid_namespace: Option<OwnedFd>,
    plan_length: usize,
    data: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Order {
    fn parse(packet: socket::Packet) -> Option<Self> {
        let number = |index: usize| -> Option<u64> {
            Some(u64::from_ne_bytes(packet.data.get(index * 8..index * 8 + 8)?.try_into().ok()?))
        };
        let kind = match number(0)? {
            1 => Kind::First,
            3 => Kind::Inside,
            _ => Kind::Further,
        };
        let (flags, with_pid) = (CloneFlags::from_bits(number(1)?), number(2)? != 0);
        let plan_length = usize::try_from(number(3)?).ok()?;
        let mut fds = packet.fds;
        let pid_namespace = (with_pid && !fds.is_empty()).then(|| fds.remove(0));
        Some(Self { kind, flags, pid_namespace, plan_length, data: packet.data, fds })
    }
}

/// One clone. `Ok(false)`: this seed is of no further use and ends; its planter plants another one on demand.
fn clone_for(order: Order, socket: &OwnedFd) -> std::result::Result<bool, i32> {
    let pid = match order.kind {
        Kind::First => return clone_first(order, socket),
        Kind::Further => by_helper(order, help)?,
        Kind::Inside => by_helper(order, help_inside)?,
    };
    Ok(socket::send(socket, &pid.to_ne_bytes(), &[]).is_ok())
}

fn clone_first(order: Order, socket: &OwnedFd) -> std::result::Result<bool, i32> {
    let own = match &order.pid_namespace {
        Some(namespace) => Some(enter_pid_namespace(namespace).map_err(|error| error.errno())?),
        None => None,
    };
    let cloned = process::clone(order.flags.with(CloneFlags::PARENT));
    if matches!(cloned, Ok(Clone::Child)) {
        become_first(order);
    }
    // The clones to come are the seed's like again.
    let back = own.is_none_or(|own| process::setns(own, CloneFlags::NEWPID, "the seed").is_ok());
    match cloned.map_err(|error| error.errno())? {
        Clone::Parent(pid) => {
            let sent = socket::send(socket, &pid.as_raw_nonzero().get().to_ne_bytes(), &[]);
            Ok(back && sent.is_ok())
        }
        Clone::Child => process::exit_now(1),
    }
}

/// For the next clone; returns the namespace that the seed itself is in.
fn enter_pid_namespace(namespace: &OwnedFd) -> std::result::Result<OwnedFd, SystemError> {
    let own = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during("open", "/proc/self/ns/pid")?;
    process::setns(namespace, CloneFlags::NEWPID, "the configured path")?;
    Ok(own)
}

/// Has a helper clone the process; its pid comes through a pipe, whose end means that the helper ended without one.
fn by_helper(order: Order, help: fn(Order, OwnedFd) -> !) -> std::result::Result<i32, i32> {
    let (answer, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Errno::raw_os_error)?;
    if process::clone(CloneFlags::PARENT).map_err(|error| error.errno())? == Clone::Child {
        help(order, theirs);
    }
    drop((order, theirs));
    let mut number = [0; 4];
    loop {
        match rustix::io::read(&answer, &mut number) {
            Ok(4) => break,
            Err(Errno::INTR) => {}
            Ok(_) => return Err(libc::ECHILD),
            Err(error) => return Err(error.raw_os_error()),
        }
    }
    match i32::from_ne_bytes(number) {
        pid @ 1.. => Ok(pid),
        negative => Err(-negative),
    }
}

/// The helper's answer: a pid, or an error number below 0.
fn tell(answer: &OwnedFd, number: i32) -> ! {
    match rustix::io::write(answer, &number.to_ne_bytes()) {
        Ok(4) => process::exit_now(0),
        _ => process::exit_now(1),
    }
}

/// The helper for a first process in a user namespace.
fn help_inside(order: Order, answer: OwnedFd) -> ! {
    let Order { flags, pid_namespace, plan_length, data, fds, .. } = order;
    let (plan, seccomp) = split_plan(&data, plan_length);
    let Some(first) = first_from(plan, seccomp, fds) else { tell(&answer, -libc::EBADMSG) };
    let Some(inside) = &first.inside else { tell(&answer, -libc::EBADMSG) };
    let entered = enter_user_namespace(inside, &first, pid_namespace.as_ref().map(AsFd::as_fd));
    let cloned = entered.and_then(|()| Ok(process::clone(flags.with(CloneFlags::PARENT))?));
    match cloned {
        Ok(Clone::Child) => {
            drop((pid_namespace, answer));
            run_first(&first)
        }
        Ok(Clone::Parent(pid)) => tell(&answer, pid.as_raw_nonzero().get()),
        // In words; without an answer there is no process.
        Err(error) => give_up(&first.report, &Failure::new("user namespace", &error)),
    }
}

/// The helper for a further process.
fn help(order: Order, answer: OwnedFd) -> ! {
    let tell = |number: i32| tell(&answer, number);
    let Order { plan_length, data, fds, .. } = order;
    let (plan, seccomp) = split_plan(&data, plan_length);
    let Some(further) = further_from(plan, seccomp, fds) else { tell(-libc::EBADMSG) };
    let cloned = enter_container(&further, &answer).and_then(|()| Ok(process::clone(CloneFlags::PARENT)?));
    match cloned {
        // The answer's end closes with the program's start.
        Ok(Clone::Child) => run_further(&further),
        Ok(Clone::Parent(pid)) => tell(pid.as_raw_nonzero().get()),
        Err(Error::System(error)) => tell(-error.errno()),
        Err(_) => tell(-libc::EINVAL),
    }
}

fn split_plan(data: &[u8], plan_length: usize) -> (&[u8], Option<Arc<[u8]>>) {
    let (plan, seccomp) = data[HEADER..].split_at(plan_length.min(data.len() - HEADER));
    (plan, (!seccomp.is_empty()).then(|| seccomp.into()))
}

fn become_first(order: Order) -> ! {
    let Order { plan_length, data, fds, .. } = order;
    let (plan, seccomp) = split_plan(&data, plan_length);
    let report = fds.first().and_then(|report| report.try_clone().ok());
    if let Some(first) = first_from(plan, seccomp, fds) {
        run_first(&first);
    }
    if let Some(report) = report {
        give_up(&report, &Failure::new("order", &Error::Invalid("the order of a start is not understood".into())));
    }
    process::exit_now(1)
}

fn first_from(plan: &[u8], seccomp: Option<Arc<[u8]>>, fds: Vec<OwnedFd>) -> Option<First> {
    let FirstPlan { mut config, stage, stdio, join, sources: places, root, inside, cgroups } =
        serde_json::from_slice(plan).ok()?;
    config.process.seccomp = seccomp;
    let mut fds = fds.into_iter();
    let report = fds.next()?;
    let stdio = if stdio { Some([fds.next()?, fds.next()?, fds.next()?]) } else { None };
    let join = join.into_iter().map(|bits| Some((CloneFlags::from_bits(bits), fds.next()?))).collect::<Option<_>>()?;
    let mut sources: Vec<Option<OwnedFd>> = config.mounts.iter().map(|_| None).collect();
    for place in places {
        *sources.get_mut(place)? = Some(fds.next()?);
    }
    let root = if root { Some(fds.next()?) } else { None };
    let inside = match inside {
        Some(with_net) => Some(Inside { user: fds.next()?, net: if with_net { Some(fds.next()?) } else { None } }),
        None => None,
    };
    Some(First { config, stage, stdio, join, sources, cgroups, root, inside, report, staged: None })
}

fn further_from(plan: &[u8], seccomp: Option<Arc<[u8]>>, fds: Vec<OwnedFd>) -> Option<Further> {
    let FurtherPlan { mut process, stdio, namespaces } = serde_json::from_slice(plan).ok()?;
    process.seccomp = seccomp;
    let mut fds = fds.into_iter();
    let (report, target) = (fds.next()?, fds.next()?);
    let stdio = if stdio { Some([fds.next()?, fds.next()?, fds.next()?]) } else { None };
    let namespaces = CloneFlags::from_bits(namespaces);
    Some(Further { process, target, stdio, report, supervised: true, passed: 0, namespaces, root: None })
}
