//! From a plan to a process that waits to be started. What fails half-way is undone before it is reported.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_linux::lock::Lock;
use gantry_linux::mount::attach;
use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::{Error as SystemError, ResultExt, fs, socket};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::birth::Birth;
use super::directory::Directory;
use super::plan::Plan;
use super::record::{CONFIG, NOTIFY, Record, SOCKET};
use super::{Container, CreateOptions, Created, cgroup, console, mappings, shared_root};
use crate::cgroups::{Leaf, Version};
use crate::config::Namespace;
use crate::container::{
    First, Report, Staged, hooks, open_mapped, open_sources, receive_report, receive_report_blocking, run_first,
};
use crate::error::{Error, Result};
use crate::network::devices::{self, Moved};
use crate::oci::{Hooks, State, Status};
use crate::protection::intact;
use crate::steps::Steps;

/// So long the members of a cgroup have to be gone after they were killed.
const REMOVAL: Duration = Duration::from_secs(10);

/// What has been made so far, to be undone when what follows fails.
#[derive(Default)]
struct Made {
    directory: Option<Directory>,
    /// Held until everything is undone: nobody shall meet what is half gone.
    lock: Option<Lock>,
    leaf: Option<Leaf>,
    shared_root: Option<(OwnedFd, u64)>,
    pid: Option<Pid>,
    devices: Option<(Moved, OwnedFd)>,
    hooks_ran: bool,
    pid_file: Option<PathBuf>,
}

/// Creates the container; on failure nothing of it is left.
pub fn create(root: &Path, id: &str, bundle: &Path, options: &CreateOptions) -> Result<Created> {
    let mut plan = Plan::read(root, id, bundle, options)?;
    // Nothing of the caller's stays open in hooks and programs by mistake; what is passed on is opened again.
    if intact("close-descriptors") {
        process::close_on_exec_from(3)?;
    }
    let mut made = Made::default();
    let mut steps = Steps::default();
    match build(root, &mut plan, options, &mut made, &mut steps) {
        Ok(record) => {
            let directory = made.directory.take().unwrap_or(Directory::of(root, id)?);
            Ok(Created { container: Container::new(directory, record), warnings: plan.warnings })
        }
        Err(error) => {
            let error = match error {
                Error::System(_) => Error::Failed(steps.failure(&error)),
                other => other,
            };
            Err(match undo(&plan, made) {
                trouble if trouble.is_empty() => error,
                trouble => Error::Invalid(format!("{error} (and undoing it: {})", trouble.join("; "))),
            })
        }
    }
}

fn build(root: &Path, plan: &mut Plan, options: &CreateOptions, made: &mut Made, steps: &mut Steps) -> Result<Record> {
    steps.enter("state")?;
    let (directory, lock) = Directory::make(root, &plan.config.id)?;
    let lock = made.lock.insert(lock).as_fd().try_clone_to_owned().during("duplicate", "descriptor")?;
    made.directory = Some(directory.clone());
    let mut record = first_record(plan);
    record.write(directory.path())?;
    let text = serde_json::to_vec(&plan.spec).map_err(|error| Error::Invalid(format!("config.json: {error}")))?;
    fs::write_new(directory.path().join(CONFIG), &text, 0o600)?;
    if options.notify_socket {
        fs::create_dir_mode(directory.path().join(NOTIFY), 0o755)?;
    }

    steps.enter("cgroup")?;
    made.leaf = Some(cgroup::make(plan.cgroups.as_ref(), &plan.cgroup, &plan.config.resources, &mut plan.warnings)?);

    steps.enter("socket")?;
    let listener = listen(&lock, &directory)?;
    let console = options.console_socket.as_ref().map(console::connect).transpose()?;

    if plan.config.namespaces.mount == Namespace::Host {
        steps.enter("root")?;
        let (root, id) = shared_root::prepare(&plan.config.root, &plan.rootfs)?;
        record.shared_root = Some(id);
        record.write(directory.path())?;
        let (root, _) = made.shared_root.insert((root, id));
        shared_root::place(root, &plan.rootfs)?;
    }

    steps.enter("sources")?;
    let mut birth = Birth::plan(&plan.config)?;
    let (reports, report) = socket::pair()?;
    let first = first(plan, options, &mut birth, made, listener, report)?;

    steps.enter("clone")?;
    let cgroup_fd = made.leaf.as_ref().map(Leaf::clone_into_fd).transpose()?.flatten();
    let pid = match birth.clone(cgroup_fd.as_ref())? {
        Clone::Child => {
            // It would never see the parent's end.
            drop(reports);
            run_first(&first)
        }
        Clone::Parent(pid) => pid,
    };
    made.pid = Some(pid);
    drop(first);
    record.set_process(pid)?;
    let born_there = cgroup_fd.is_some() && !birth.has_helper();
    let enters = made.leaf.as_ref().is_some_and(|leaf| enters_cgroup_itself(plan, leaf));
    prepare(plan, pid, born_there || enters, made, steps).map_err(|error| said(&reports).unwrap_or(error))?;
    record.cgroup.clone_from(&made.leaf);
    let found_by_cgroup = made.leaf.as_ref().is_some_and(|leaf| !leaf.hierarchies().all().is_empty());
    if plan.stops_when_mounted() || !found_by_cgroup {
        record.write(directory.path())?;
    }
    go_on(&reports)?;
    let state = plan.state(pid, Status::Creating);
    hear(plan, &reports, &state, console.as_ref(), made)?;

    steps.enter("record")?;
    record.complete = true;
    if let Some(path) = &options.pid_file {
        made.pid_file = Some(path.clone());
        fs::write_atomic(path, record.pid.to_string().as_bytes(), 0o644, fs::Durability::Process)?;
    }
    record.write(directory.path())?;
    go_on(&reports)?;
    Ok(record)
}

/// By a path: whoever may not enter the directory cannot start or stop the container.
fn listen(lock: &OwnedFd, directory: &Directory) -> Result<OwnedFd> {
    if !intact("socket-by-path") {
        // What CVE-2020-15257 did: a name that everybody in the network namespace reaches.
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let listener = made.during("make", "socket")?;
        let name = directory.path().as_os_str().as_encoded_bytes();
        let address = SocketAddrUnix::new_abstract_name(name).during("name", "socket")?;
        rustix::net::bind(&listener, &address).during("bind socket", directory.path().display())?;
        rustix::net::listen(&listener, 16).during("listen on", directory.path().display())?;
        return Ok(listener);
    }
    let listener = socket::listen(lock, SOCKET)?;
    fs::set_mode(directory.path().join(SOCKET), 0o600)?;
    Ok(listener)
}

fn first_record(plan: &Plan) -> Record {
    let mut record = Record::new(&plan.config.id, &plan.spec.oci_version, &plan.bundle, &plan.rootfs);
    record.cgroup = Some(plan.cgroup.clone());
    record.keyring.clone_from(&plan.config.process.keyring);
    record.own_pids = plan.config.namespaces.pid == Namespace::New;
    record.annotations.clone_from(&plan.spec.annotations);
    record.hooks = Some(plan.hooks.clone());
    record
}

/// Everything that the process itself needs, opened where the host's mounts are seen.
fn first(
    plan: &Plan,
    options: &CreateOptions,
    birth: &mut Birth,
    made: &Made,
    listener: OwnedFd,
    report: OwnedFd,
) -> Result<First> {
    let spaces = &plan.config.namespaces;
    let in_user_namespace = spaces.user != Namespace::Host;
    let own = [(&spaces.cgroup, CloneFlags::NEWCGROUP), (&spaces.time, CloneFlags::NEWTIME)];
    let own = own.iter().filter(|(namespace, _)| **namespace == Namespace::New);
    let root = match &made.shared_root {
        Some((root, _)) => Prepared::Here(root.try_clone().during("duplicate", "the root")?),
        None if in_user_namespace => Prepared::of(attach(&plan.config.root).map_err(Error::from))?,
        None => Prepared::Later,
    };
    // What the process sees of the host is what the caller sees: it opens binds in their turn.
    let opens_sources = !matches!(spaces.mount, Namespace::Path(_)) && !in_user_namespace;
    let sources = match opens_sources {
        true => Prepared::Here(open_mapped(&plan.config)?),
        false if in_user_namespace => Prepared::of(open_sources(&plan.config))?,
        false => Prepared::Here(open_sources(&plan.config)?),
    };
    let staged = Staged {
        cgroup: made.leaf.as_ref().filter(|leaf| enters_cgroup_itself(plan, leaf)).cloned(),
        own: own.fold(CloneFlags::NONE, |all, (_, flag)| all.with(*flag)),
        in_user_namespace,
        root: root.here(),
        shares_mounts: made.shared_root.is_some(),
        opens_sources: opens_sources || matches!(sources, Prepared::Later),
        hooks: plan.hooks.clone(),
        state: plan.state_without_process(),
        stop_when_mounted: plan.stops_when_mounted(),
        listener,
        no_pivot: options.no_pivot,
        passed: options.listen_fds + options.preserve_fds,
        idle: plan.spec.process.is_none(),
    };
    let mut config = plan.config.clone();
    if options.listen_fds > 0 {
        config.process.env.push(format!("LISTEN_FDS={}", options.listen_fds));
        config.process.env.push("LISTEN_PID=1".into());
    }
    Ok(First {
        sources: sources.here().unwrap_or_default(),
        stdio: standard_streams(config.process.terminal)?,
        config,
        stage: plan.rootfs.clone(),
        join: birth.take_joins(),
        cgroups: made.leaf.as_ref().map(cgroup::views).unwrap_or_default(),
        root: None,
        inside: None,
        report,
        staged: Some(staged),
    })
}

/// Whether the process goes into its cgroup itself, which costs less on v1. It is put there by its parent where it is not
/// allowed to, or where somebody has to be told that a hierarchy refuses.
fn enters_cgroup_itself(plan: &Plan, leaf: &Leaf) -> bool {
    leaf.hierarchies().version() == Version::V1 && !leaf.is_lenient() && plan.config.namespaces.user == Namespace::Host
}

/// What is prepared by the caller, or by the process itself where only that has the right: in its user namespace.
enum Prepared<T> {
    Here(T),
    Later,
}

impl<T> Prepared<T> {
    fn of(result: Result<T>) -> Result<Self> {
        match result {
            Ok(prepared) => Ok(Self::Here(prepared)),
            Err(Error::System(error)) if error.errno() == libc::EPERM => Ok(Self::Later),
            Err(error) => Err(error),
        }
    }

    fn here(self) -> Option<T> {
        match self {
            Self::Here(prepared) => Some(prepared),
            Self::Later => None,
        }
    }
}

/// The caller's own; a terminal has its own.
pub fn standard_streams(terminal: bool) -> Result<Option<[OwnedFd; 3]>> {
    if terminal {
        return Ok(None);
    }
    let copy = |number: i32| process::inherited_fd(number);
    Ok(Some([copy(0)?, copy(1)?, copy(2)?]))
}

/// What only a parent can do for its process, before that goes on.
fn prepare(plan: &mut Plan, pid: Pid, in_cgroup: bool, made: &mut Made, steps: &mut Steps) -> Result<()> {
    if plan.config.namespaces.user == Namespace::New {
        steps.enter("mappings")?;
        mappings::write(pid, &plan.config)?;
    }
    steps.enter("join")?;
    if let Some(leaf) = made.leaf.as_mut().filter(|_| !in_cgroup) {
        plan.warnings.extend(leaf.join_where_permitted(pid.as_raw_nonzero().get().unsigned_abs())?);
    }
    if !plan.net_devices.is_empty() {
        steps.enter("network devices")?;
        let path = match &plan.config.namespaces.net {
            Namespace::Path(path) => path.clone(),
            _ => format!("/proc/{}/ns/net", pid.as_raw_nonzero()).into(),
        };
        let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .during("open namespace", path.display())?;
        let moved = devices::move_into(namespace.as_fd(), &plan.net_devices)?;
        made.devices = Some((moved, namespace));
    }
    Ok(())
}

/// Why the process has ended: nothing can be prepared for one that has.
fn said(reports: &OwnedFd) -> Option<Error> {
    match receive_report(reports) {
        Ok(Some((Report::Failed(failure), _))) => Some(Error::Failed(failure)),
        _ => None,
    }
}

fn go_on(reports: &OwnedFd) -> Result<()> {
    // A process that has ended has said why.
    match socket::send(reports, &[], &[]) {
        Err(error) if error.errno() == libc::EPIPE => Ok(()),
        other => Ok(other?),
    }
}

/// Listens to the process until it waits to be started. There is no deadline: a mount or a hook may take its time. Whoever
/// has enough of it deletes the container by force, which ends the process and with it this wait.
fn hear(plan: &mut Plan, reports: &OwnedFd, state: &State, console: Option<&OwnedFd>, made: &mut Made) -> Result<()> {
    loop {
        match receive_report_blocking(reports)? {
            Some((Report::Created, _)) => return Ok(()),
            Some((Report::Failed(failure), _)) => return Err(Error::Failed(failure)),
            Some((Report::Warning(warning), _)) => plan.warnings.push(warning),
            Some((Report::Terminal, masters)) => {
                if let (Some(console), Some(master)) = (console, masters.first()) {
                    console::send(console, master)?;
                }
            }
            // It is installed when the program is started.
            Some((Report::SeccompListener, _)) => {}
            Some((Report::Mounted, _)) => {
                made.hooks_ran = true;
                // Deprecated; programs of old read `created` here, as the specification had it before createRuntime came.
                let created = State { status: Status::Created, ..state.clone() };
                let process = made.pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose();
                let process = process.during("watch", "the container's process")?;
                let (directory, while_it_lives) = (Some(plan.bundle.as_path()), process.as_ref().map(AsFd::as_fd));
                hooks::run(&plan.hooks.prestart, "prestart", &created, directory, while_it_lives)?;
                hooks::run(&plan.hooks.create_runtime, "createRuntime", state, directory, while_it_lives)?;
                go_on(reports)?;
            }
            None => {
                let why = std::io::Error::other("it ended before it was complete; was it killed, or out of memory?");
                return Err(SystemError::new("create", "the container's process", why).into());
            }
        }
    }
}

/// Undoes in the reverse order, and goes on after a failure; all of them are returned.
fn undo(plan: &Plan, made: Made) -> Vec<String> {
    let mut trouble = Vec::new();
    let _lock = made.lock;
    if let Some(path) = made.pid_file {
        match fs::remove_file(path) {
            Err(error) if !error.is_not_found() => trouble.push(error.to_string()),
            _ => {}
        }
    }
    if let Some((moved, namespace)) = made.devices {
        trouble.extend(moved.undo(namespace.as_fd()).err().map(|error| error.to_string()));
    }
    if let Some(pid) = made.pid {
        // It may have ended by itself; it is reaped either way.
        let _ = process::kill(pid, libc::SIGKILL);
        trouble.extend(process::wait_for(pid).err().map(|error| error.to_string()));
    }
    if let Some(leaf) = made.leaf {
        trouble.extend(cgroup::remove(&leaf, Instant::now() + REMOVAL));
    }
    if let Some((_, id)) = made.shared_root {
        trouble.extend(shared_root::remove(&plan.rootfs, id).err().map(|error| error.to_string()));
    }
    if let Some(directory) = made.directory {
        trouble.extend(directory.remove().err().map(|error| error.to_string()));
    }
    if made.hooks_ran {
        let state = State { status: Status::Stopped, ..plan.state_without_process() };
        trouble.extend(hooks::run_all(&plan.hooks.poststop, "poststop", &state, Some(&plan.bundle)));
    }
    trouble
}

impl Plan {
    /// Programs run at the point where everything is mounted, by the parent or after its word.
    fn stops_when_mounted(&self) -> bool {
        let Hooks { prestart, create_runtime, create_container, .. } = &self.hooks;
        [prestart, create_runtime, create_container].iter().any(|hooks| !hooks.is_empty())
    }

    fn state_without_process(&self) -> State {
        State {
            oci_version: self.spec.oci_version.clone(),
            id: self.config.id.clone(),
            status: Status::Creating,
            pid: 0,
            bundle: self.bundle.display().to_string(),
            annotations: self.spec.annotations.clone(),
        }
    }

    fn state(&self, pid: Pid, status: Status) -> State {
        State { pid: pid.as_raw_nonzero().get(), status, ..self.state_without_process() }
    }
}
