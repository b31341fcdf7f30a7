//! What runs in a cloned process until it is the program: the container's first one, or a further one.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use gantry_linux::process::{self, CloneFlags};
use gantry_linux::socket;
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::credentials::{become_user, confine};
use super::inside::Inside;
use super::mounts::{CgroupView, Sources};
use super::rlimits::set_rlimits;
use super::sources::open_shared;
use super::staged::Staged;
use super::user::User;
use super::{
    console, devices, environment, masks, mounts, program, reaper, rootfs, scheduling, staged, streams, sysctl, user,
};
use crate::config::{Config, Namespace, Process};
use crate::error::{Error, Failure, Result};
use crate::lsm;
use crate::paths::{self, Missing};
use crate::protection::intact;
use crate::steps::Steps;

/// What a new process tells whoever asked for it. The end of the stream after no failure means: the program runs.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// It could not be started; the process has ended.
    Failed(Failure),
    /// Something was left out that a container can live without.
    Warning(String),
    /// The terminal's master end comes with this packet.
    Terminal,
    /// The descriptor that comes with this packet receives the system calls that the seccomp program passes on: for
    /// [`crate::seccomp::hand_over`].
    SeccompListener,
    /// A process that is made in stages has everything mounted, and waits for the word to go on.
    Mounted,
    /// A process that is made in stages is complete, and waits to be started by whoever connects to its socket.
    Created,
}

/// Receives the next report; `None` when the program runs. Fails with `EAGAIN` when there is none yet.
pub fn receive_report(socket: impl AsFd) -> Result<Option<(Report, Vec<OwnedFd>)>> {
    read_report(socket::try_receive(socket)?)
}

/// As [`receive_report`], and waits for it.
pub(crate) fn receive_report_blocking(socket: impl AsFd) -> Result<Option<(Report, Vec<OwnedFd>)>> {
    read_report(socket::receive(socket)?)
}

fn read_report(packet: Option<socket::Packet>) -> Result<Option<(Report, Vec<OwnedFd>)>> {
    let Some(packet) = packet else { return Ok(None) };
    let report = serde_json::from_slice(&packet.data)
        .map_err(|error| Error::Invalid(format!("report of the new process is not understood: {error}")))?;
    Ok(Some((report, packet.fds)))
}

/// Everything that the first process of a container is made from.
#[derive(Debug)]
pub struct First {
    /// The container; its binds' sources are opened already.
    pub config: Config,
    /// A directory on the host to mount the root on, in the new mount namespace only.
    pub stage: PathBuf,
    /// Standard input, output and error; `None` with a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// Namespaces to enter: those that are neither new nor the cloner's.
    pub join: Vec<(CloneFlags, OwnedFd)>,
    /// Sources of the binds, in the places of `config.mounts`: detached clones, made where the host's mounts are seen.
    pub sources: Vec<Option<OwnedFd>>,
    /// The container's cgroup in each hierarchy.
    pub cgroups: Vec<(Vec<String>, PathBuf)>,
    /// The root, attached nowhere; `None` is mounted from the configuration.
    pub root: Option<OwnedFd>,
    /// The user namespace that the process is born in, where that is not its cloner's.
    pub inside: Option<Inside>,
    /// Where [`Report`]s go.
    pub report: OwnedFd,
    /// What a process has that is made in stages; `None` goes on to the program without a stop and ends with its parent.
    pub staged: Option<Staged>,
}

/// The namespaces of a container without a user namespace.
pub const EVERY_KIND_BUT_USER: CloneFlags = CloneFlags::NEWNS
    .with(CloneFlags::NEWUTS)
    .with(CloneFlags::NEWIPC)
    .with(CloneFlags::NEWNET)
    .with(CloneFlags::NEWCGROUP)
    .with(CloneFlags::NEWPID);

/// Everything that a further process of a running container is made from.
#[derive(Debug)]
pub struct Further {
    /// The process.
    pub process: Process,
    /// The container's first process, whose namespaces are entered.
    pub target: OwnedFd,
    /// Standard input, output and error; `None` with a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// Where [`Report`]s go.
    pub report: OwnedFd,
    /// It ends with its parent.
    pub supervised: bool,
    /// Descriptors 3, 4 … of this number are the program's.
    pub passed: u32,
    /// Of the container's namespaces those that are not the caller's; `NONE` is [`EVERY_KIND_BUT_USER`], where there is no
    /// `root`.
    pub namespaces: CloneFlags,
    /// The container's `/`, when its mount namespace is the caller's.
    pub root: Option<OwnedFd>,
}

/// Becomes the first process, in a process that was just cloned with the new namespaces.
pub fn run_first(first: &First) -> ! {
    let mut steps = Steps::default();
    let error = match prepare_first(first, &mut steps) {
        Ok(ready) => finish(ready, &first.report, &mut steps),
        Err(error) => error,
    };
    give_up(&first.report, &steps.failure(&error))
}

/// Enters every namespace of the container, in a process that is seen by nobody inside: it stays outside of the pid
/// namespace, and what it clones is born in it, as a process of [`run_further`]. Nothing stays open but the streams, the
/// report and `answer`: of `further` nothing else may be used or dropped after it.
pub fn enter_container(further: &Further, answer: &OwnedFd) -> Result<()> {
    rustix::process::umask(Mode::empty());
    set_oom_score(further.process.oom_score_adj, further.supervised)?;
    if let Some(affinity) = &further.process.cpu_affinity {
        scheduling::run_on(&affinity.initial)?;
    }
    if further.joins_keyring_outside() {
        join_keyring(&further.process, &further.report)?;
    }
    let every_kind = further.namespaces.is_empty() && further.root.is_none();
    let wanted = if every_kind { EVERY_KIND_BUT_USER } else { further.namespaces };
    if !wanted.is_empty() {
        process::setns(&further.target, wanted, "the container")?;
    }
    if let Some(root) = &further.root {
        staged::change_root(root)?;
    }
    if wanted.contains(CloneFlags::NEWUSER) {
        staged::become_root()?;
    }
    let root = open_root()?;
    match &further.stdio {
        Some(given) => streams::set(root.as_fd(), given)?,
        None => streams::clear(root.as_fd())?,
    }
    drop(root);
    if intact("close-descriptors") {
        process::close_all_but_passed(further.passed, &[further.report.as_fd(), answer.as_fd()])?;
    }
    Ok(())
}

fn open_root() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, "/", flags, Mode::empty()).during("open", "/")?)
}

/// Becomes a further process, in a process that was just cloned by one that did `enter_container`: a container that may
/// trace looks into it from its first moment, and must find nothing of the host's.
pub fn run_further(further: &Further) -> ! {
    let mut steps = Steps::default();
    let error = match prepare_further(further, &mut steps) {
        Ok(ready) => finish(ready, &further.report, &mut steps),
        Err(error) => error,
    };
    give_up(&further.report, &steps.failure(&error))
}

/// Reports why there will be no program, and ends the process.
pub fn give_up(report: &OwnedFd, failure: &Failure) -> ! {
    // When the report cannot be sent the supervisor is gone, and nobody is left to tell.
    let _ = send(report, &Report::Failed(failure.clone()), &[]);
    process::exit_now(1)
}

pub(super) fn send(socket: &OwnedFd, report: &Report, fds: &[BorrowedFd<'_>]) -> std::result::Result<(), SystemError> {
    let bytes = serde_json::to_vec(report).unwrap_or_default();
    socket::send(socket, &bytes, fds)
}

/// A process whose surroundings are complete.
struct Ready<'a> {
    process: &'a Process,
    user: User,
    terminal: Option<OwnedFd>,
    staged: Option<&'a Staged>,
    supervised: bool,
    passed: u32,
    init: bool,
}

fn prepare_first<'a>(first: &'a First, steps: &mut Steps) -> Result<Ready<'a>> {
    let config = &first.config;
    steps.enter("namespaces")?;
    if !first.staged.as_ref().is_some_and(|staged| staged.idle) {
        config.process.validate()?;
    }
    rustix::process::umask(Mode::empty());
    if let Some(staged) = &first.staged {
        staged.begin(&first.report)?;
    }
    for (kind, fd) in &first.join {
        process::setns(fd, *kind, "the configured path")?;
    }
    begin_session()?;
    set_oom_score(config.process.oom_score_adj, first.staged.is_none())?;
    if let Some(staged) = &first.staged {
        staged.enter_own(config)?;
    }
    if first.inside.is_none() {
        join_keyring(&config.process, &first.report)?;
    }
    let early = match &first.staged {
        Some(staged) if staged.opens_sources => open_shared(config)?,
        _ => Vec::new(),
    };
    if !first.staged.as_ref().is_some_and(|staged| staged.shares_mounts) {
        rootfs::separate()?;
    }

    steps.enter("root")?;
    let root = match (&first.staged, &first.root) {
        (Some(staged), _) => staged.root(config, &first.stage)?,
        (None, Some(tree)) => staged::mount_root(tree, &first.stage)?,
        (None, None) => rootfs::mount(&config.root, &first.stage)?,
    };

    steps.enter("mounts")?;
    for mark in &config.marks {
        paths::open_or_make(root.as_fd(), mark, Missing::File)?;
    }
    let views: Vec<CgroupView> =
        first.cgroups.iter().map(|(names, path)| CgroupView { names: names.clone(), path: path.clone() }).collect();
    let sources = Sources { given: &first.sources, early: &early };
    for warning in mounts::mount_all(root.as_fd(), config, &sources, &views)? {
        send(&first.report, &Report::Warning(warning), &[])?;
    }

    steps.enter("devices")?;
    devices::make_all(root.as_fd(), &config.devices)?;
    devices::make_links(root.as_fd())?;

    steps.enter("console")?;
    let terminal = open_terminal(root.as_fd(), &config.process, &first.report)?;
    match (&terminal, &first.stdio) {
        (Some(slave), _) => console::bind_to_dev_console(root.as_fd(), slave)?,
        (None, Some(given)) => streams::set(root.as_fd(), given)?,
        (None, None) => return Err(Error::Invalid("a process needs a terminal or three standard streams".into())),
    }

    steps.enter("masks")?;
    masks::make_read_only(root.as_fd(), &config.readonly_paths)?;
    masks::mask(root.as_fd(), &config.masked_paths)?;

    if let Some(staged) = &first.staged {
        steps.enter("hooks")?;
        staged.mounted(&first.report)?;
    }

    steps.enter("pivot")?;
    paths::open_or_make(root.as_fd(), &config.process.cwd, Missing::Directory).or_else(keep_for_later)?;
    match &first.staged {
        Some(staged) => staged.pivot(&root)?,
        None => rootfs::pivot(&root)?,
    }
    if let Some(propagation) = config.root_propagation {
        staged::propagate_root(propagation)?;
    }

    steps.enter("hostname")?;
    if config.namespaces.uts == Namespace::New {
        set_names(config)?;
    }

    steps.enter("sysctls")?;
    sysctl::write_all(&config.sysctls, &config.namespaces)?;

    steps.enter("read-only root")?;
    if config.readonly_root {
        rootfs::make_read_only(&root)?;
    }

    steps.enter("user")?;
    let user = user::resolve(root.as_fd(), &config.process)?;
    Ok(Ready {
        process: &config.process,
        user,
        terminal,
        staged: first.staged.as_ref(),
        supervised: first.staged.is_none(),
        passed: first.staged.as_ref().map_or(0, |staged| staged.passed),
        init: config.init,
    })
}

/// A working directory that cannot be made is complained about where it is entered, with the better message; on a
/// read-only root or below `/proc` it may well be there.
fn keep_for_later(error: Error) -> Result<OwnedFd> {
    match error {
        Error::System(_) => {
            Ok(rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open", "/")?)
        }
        other => Err(other),
    }
}

fn prepare_further<'a>(further: &'a Further, steps: &mut Steps) -> Result<Ready<'a>> {
    steps.enter("exec namespaces")?;
    further.process.validate()?;
    begin_session()?;
    if !further.joins_keyring_outside() {
        join_keyring(&further.process, &further.report)?;
    }
    let root = open_root()?;

    steps.enter("exec console")?;
    // Standard streams are there already.
    let terminal = open_terminal(root.as_fd(), &further.process, &further.report)?;
    if terminal.is_none() && further.stdio.is_none() {
        return Err(Error::Invalid("a process needs a terminal or three standard streams".into()));
    }

    steps.enter("exec user")?;
    let user = user::resolve(root.as_fd(), &further.process)?;
    let Further { supervised, passed, .. } = *further;
    Ok(Ready { process: &further.process, user, terminal, staged: None, supervised, passed, init: false })
}

/// A session of its own: no terminal of the daemon's can reach it, and it can take one of its own.
fn begin_session() -> Result<()> {
    match rustix::process::setsid() {
        // It leads one already, as whoever made it has seen to.
        Err(rustix::io::Errno::PERM) if rustix::process::getsid(None) == Ok(rustix::process::getpid()) => Ok(()),
        other => Ok(other.map(drop).during("begin", "session")?),
    }
}

/// Written while `/proc` is still the host's. A supervisor's own is not for containers.
pub(super) fn set_oom_score(score: Option<i32>, supervised: bool) -> Result<()> {
    let Some(score) = score.or(supervised.then_some(0)) else { return Ok(()) };
    match gantry_linux::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Without CAP_SYS_RESOURCE it cannot go below where it was; then it stays there.
        Err(error) if error.errno() == libc::EACCES || error.errno() == libc::EPERM => Ok(()),
        other => Ok(other?),
    }
}

impl Further {
    /// Keyrings count against who joins them, and root of the host may have many more than one of its users.
    fn joins_keyring_outside(&self) -> bool {
        self.supervised && self.namespaces.contains(CloneFlags::NEWUSER)
    }
}

pub(super) fn join_keyring(process: &Process, report: &OwnedFd) -> Result<()> {
    match scheduling::join_keyring(process)? {
        Some(warning) => Ok(send(report, &Report::Warning(warning), &[])?),
        None => Ok(()),
    }
}

fn open_terminal(root: BorrowedFd<'_>, process: &Process, report: &OwnedFd) -> Result<Option<OwnedFd>> {
    if !process.terminal {
        return Ok(None);
    }
    let terminal = console::open(root, process.console_size)?;
    console::control(&terminal.slave)?;
    let slave = terminal.slave.as_fd();
    process::set_stdio([slave, slave, slave])?;
    send(report, &Report::Terminal, &[terminal.master.as_fd()])?;
    Ok(Some(terminal.slave))
}

fn set_names(config: &Config) -> Result<()> {
    if !config.hostname.is_empty() {
        rustix::system::sethostname(config.hostname.as_bytes()).during("set host name", &config.hostname)?;
    }
    if !config.domainname.is_empty() {
        rustix::system::setdomainname(config.domainname.as_bytes()).during("set domain name", &config.domainname)?;
    }
    Ok(())
}

/// From complete surroundings to the program; returns only with the reason why that failed.
fn finish(ready: Ready<'_>, report: &OwnedFd, steps: &mut Steps) -> Error {
    match try_finish(ready, report, steps) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_finish(ready: Ready<'_>, report: &OwnedFd, steps: &mut Steps) -> Result<Infallible> {
    let Ready { process, user, terminal, staged, supervised, passed, init } = ready;
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    console::give_to(user.uid, user.gid, terminal.is_some(), &streams);
    drop(terminal);

    steps.enter("working directory")?;
    // Nothing but the streams and the report may be open from here on: no path of /proc/self/fd leads to the host.
    let kept: Vec<BorrowedFd<'_>> =
        staged.map(|staged| staged.listener.as_fd()).into_iter().chain([report.as_fd()]).collect();
    if intact("close-descriptors") {
        process::close_all_but_passed(passed, &kept)?;
    }
    let entered = rootfs::enter_directory(&process.cwd);

    steps.enter("credentials")?;
    let variables = environment::variables(&process.env, &user)?;
    let search_path = environment::search_path(&variables);
    let left = become_user(&user, &process.capabilities)?;
    if let Err(error) = entered {
        // On a network file system it may be the user alone who may enter.
        if !matches!(&error, Error::System(system) if system.errno() == libc::EACCES) {
            return Err(error);
        }
        rootfs::enter_directory(&process.cwd)?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.umask.unwrap_or(0o022)));

    if let Some(staged) = staged {
        if staged.idle {
            steps.enter("start")?;
            return staged.await_end(report);
        }
        steps.enter("program lookup")?;
        program::find(&process.args, &search_path)?;
        steps.enter("start")?;
        staged.await_start(report)?;
    }

    steps.enter("security profile")?;
    lsm::confine_program(process)?;

    steps.enter("process")?;
    if supervised {
        end_with_supervisor(report)?;
    }
    if init {
        reaper::split(process, &left, report)?;
    }
    steps.enter("scheduling")?;
    scheduling::apply(process)?;

    steps.enter("limits")?;
    // Late: a limit must not keep us from what was to be done before.
    for warning in set_rlimits(&process.rlimits)? {
        send(report, &Report::Warning(warning), &[])?;
    }

    steps.enter("program")?;
    confine(process, &left, report)?;
    process::reset_signals();
    Err(program::execute(&process.args, &variables, &search_path))
}

/// Without its supervisor a container could neither be waited for nor stopped: it ends with it. Forgotten by the kernel
/// when the user changes or capabilities are gained, so set after that; losing capabilities does no harm.
fn end_with_supervisor(report: &OwnedFd) -> Result<()> {
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).during("set", "parent death signal")?;
    // One that ended before that sends no signal any more; it alone held the other end.
    let mut watched = [PollFd::new(report, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&now)).during("look for", "the supervisor")?;
    if watched[0].revents().contains(PollFlags::HUP) {
        process::exit_now(1);
    }
    Ok(())
}
