//! A further process of a container: cloned from outside of its pid namespace, by a helper that nobody inside sees.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::{Error as SystemError, ResultExt, fs, socket};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use super::create::standard_streams;
use super::options::{ExecOptions, Executed};
use super::plan::check_passed;
use super::{Container, birth, console, parts};
use crate::cgroups::Leaf;
use crate::config::Process;
use crate::container::{Further, Report, enter_container, receive_report_blocking, run_further};
use crate::error::{Error, Result};
use crate::lsm;
use crate::oci::{self, Status};
use crate::protection::intact;
use crate::seccomp;
use crate::steps::Steps;

/// Starts it; returns when its program runs.
pub fn exec(container: &Container, given: &oci::Process, options: &ExecOptions) -> Result<Executed> {
    check_passed(options.preserve_fds)?;
    if given.terminal != options.console_socket.is_some() {
        return Err(Error::Invalid(match given.terminal {
            true => "cannot allocate a terminal without a console socket".into(),
            false => "a console socket is of no use without a terminal".into(),
        }));
    }
    let spec = container.spec()?;
    let mut told = Vec::new();
    let mut process = parts::process(given, spec.linux.as_ref(), &mut told)?;
    process.keyring.clone_from(&container.record().keyring);
    lsm::check(&process)?;
    let stopped = || Error::Conflict("cannot exec in a stopped container".into());
    match container.state()?.status {
        Status::Stopped | Status::Creating => return Err(stopped()),
        Status::Paused if !options.ignore_paused => {
            let text = "cannot exec in a paused container (use --ignore-paused to override)";
            return Err(Error::Conflict(text.into()));
        }
        _ => {}
    }
    let target = container.record().process().ok_or_else(stopped)?;
    if intact("close-descriptors") {
        process::close_on_exec_from(3)?;
    }
    let mut steps = Steps::default();
    start(container, process, target, options, told, &mut steps).map_err(|error| match error {
        Error::System(_) => Error::Failed(steps.failure(&error)),
        other => other,
    })
}

fn start(
    container: &Container,
    process: Process,
    target: OwnedFd,
    options: &ExecOptions,
    told: Vec<String>,
    steps: &mut Steps,
) -> Result<Executed> {
    steps.enter("exec cgroup")?;
    let leaf = leaf(container, options)?;
    let console = options.console_socket.as_ref().map(console::connect).transpose()?;
    let (reports, report) = socket::pair()?;
    let listener = process.seccomp_listener.clone();
    let namespaces = namespaces(container.record().pid)?;
    let further = Further {
        stdio: standard_streams(process.terminal)?,
        process,
        root: root(container, &namespaces)?,
        namespaces,
        target,
        report,
        supervised: false,
        passed: options.preserve_fds,
    };
    steps.enter("exec clone")?;
    let pid = match clone_further(&further, leaf.as_ref()) {
        Err(error) if options.cgroup.is_none() => clone_beside_first(container, &further, error)?,
        cloned => cloned?,
    };
    drop(further);
    let take = |descriptors: Vec<OwnedFd>| match (&listener, descriptors.first()) {
        (Some(listener), Some(fd)) => seccomp::hand_over(listener, fd, pid.as_raw_nonzero().get(), &container.state()?),
        _ => Ok(()),
    };
    let executed = hear(pid, &reports, console.as_ref(), told, take).and_then(|warnings| {
        let pid = pid.as_raw_nonzero().get();
        steps.enter("exec record")?;
        if let Some(path) = &options.pid_file {
            fs::write_atomic(path, pid.to_string().as_bytes(), 0o644, fs::Durability::Process)?;
        }
        Ok(Executed { pid, warnings })
    });
    if executed.is_err() {
        // It may have ended by itself; it is reaped either way.
        let _ = process::kill(pid, libc::SIGKILL);
        process::wait_for(pid)?;
    }
    executed
}

/// The container's cgroup, or the one below it that was asked for.
fn leaf(container: &Container, options: &ExecOptions) -> Result<Option<Leaf>> {
    let Some(leaf) = container.leaf() else { return Ok(None) };
    Ok(Some(match options.cgroup.as_ref().map(|below| below.trim_matches('/')) {
        None | Some("") => leaf.clone(),
        Some(below) => leaf.below(below)?,
    }))
}

/// The kinds in which the container is not where the caller is: others cannot or need not be entered.
fn namespaces(pid: i32) -> Result<CloneFlags> {
    let kinds = [
        ("user", CloneFlags::NEWUSER),
        ("mnt", CloneFlags::NEWNS),
        ("uts", CloneFlags::NEWUTS),
        ("ipc", CloneFlags::NEWIPC),
        ("net", CloneFlags::NEWNET),
        ("cgroup", CloneFlags::NEWCGROUP),
        ("pid", CloneFlags::NEWPID),
        ("time", CloneFlags::NEWTIME),
    ];
    let mut differing = CloneFlags::NONE;
    for (name, kind) in kinds {
        let theirs = match fs::metadata(format!("/proc/{pid}/ns/{name}")) {
            Ok(theirs) => theirs.ino(),
            // A kernel without this kind.
            Err(error) if error.is_not_found() && name == "time" => continue,
            Err(error) => return Err(error.into()),
        };
        if theirs != fs::metadata(format!("/proc/self/ns/{name}"))?.ino() {
            differing = differing.with(kind);
        }
    }
    Ok(differing)
}

/// Where entering a mount namespace does not lead to the container's `/`.
fn root(container: &Container, entered: &CloneFlags) -> Result<Option<OwnedFd>> {
    if entered.contains(CloneFlags::NEWNS) {
        return Ok(None);
    }
    let path = format!("/proc/{}/root", container.record().pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).during("open", &path)?;
    // Looked at after it was opened: the number was not another's yet.
    match container.record().is_alive() {
        true => Ok(Some(root)),
        false => Err(Error::Conflict("cannot exec in a stopped container".into())),
    }
}

/// The helper joins the cgroup, enters the namespaces, clones the process as its own sibling and ends.
fn clone_further(further: &Further, leaf: Option<&Leaf>) -> Result<Pid> {
    let into = leaf.map(Leaf::clone_into_fd).transpose()?.flatten();
    let (answer, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make", "pipe")?;
    let helper = match process::clone_into(CloneFlags::NONE, into.as_ref().map(AsFd::as_fd))? {
        Clone::Parent(helper) => helper,
        Clone::Child => help(further, leaf.filter(|_| into.is_none()), &theirs),
    };
    drop(theirs);
    birth::hear(&answer, helper, "the container")
}

/// On cgroup v2 nobody enters a cgroup whose children are limited: a container that has limited its own has moved its
/// processes into one of them, and there the further one goes. Any other `error` stays one.
fn clone_beside_first(container: &Container, further: &Further, error: Error) -> Result<Pid> {
    let refused = |error: &SystemError| matches!(error.errno(), libc::EBUSY | libc::EOPNOTSUPP);
    let Error::System(system) = &error else { return Err(error) };
    let moved = match container.leaf().filter(|_| refused(system)) {
        Some(leaf) => leaf.place_of(container.record().pid)?.filter(|moved| moved != leaf),
        None => None,
    };
    clone_further(further, Some(&moved.ok_or(error)?))
}

fn help(further: &Further, leaf: Option<&Leaf>, answer: &OwnedFd) -> ! {
    let joined = leaf.map_or(Ok(()), |leaf| Ok(leaf.join_self()?));
    let cloned =
        joined.and_then(|()| enter_container(further, answer)).and_then(|()| Ok(process::clone(CloneFlags::PARENT)?));
    match cloned {
        Ok(Clone::Child) => run_further(further),
        Ok(Clone::Parent(pid)) => birth::tell(answer, pid.as_raw_nonzero().get(), ""),
        Err(error) => birth::tell(answer, 0, &error.to_string()),
    }
}

/// Listens to the process until its program runs; adds what it tells to `warnings`.
fn hear(
    pid: Pid,
    reports: &OwnedFd,
    console: Option<&OwnedFd>,
    mut warnings: Vec<String>,
    take_listener: impl Fn(Vec<OwnedFd>) -> Result<()>,
) -> Result<Vec<String>> {
    loop {
        match receive_report_blocking(reports)? {
            None => return Ok(warnings),
            Some((Report::Failed(failure), _)) => return Err(Error::Failed(failure)),
            Some((Report::Warning(warning), _)) => warnings.push(warning),
            Some((Report::Terminal, masters)) => {
                if let (Some(console), Some(master)) = (console, masters.first()) {
                    console::send(console, master)?;
                }
            }
            Some((Report::SeccompListener, descriptors)) => take_listener(descriptors)?,
            Some((Report::Mounted | Report::Created, _)) => {
                let why = format!("process {} is none of an exec", pid.as_raw_nonzero());
                return Err(Error::Invalid(why));
            }
        }
    }
}
