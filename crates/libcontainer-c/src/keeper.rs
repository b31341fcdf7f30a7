//! The program that makes containers for the library: one thread, nothing of the caller's but a socket. It is the parent of
//! all that it makes, and nobody's child: the caller is not told of its end, and waits for its own children alone.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::socket::{self, Packet};
use gantry_linux::{ResultExt, executable};
use libcontainer::oci;
use libcontainer::runtime::{ConsoleSocket, CreateOptions, ExecOptions, Runtime};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::SocketType;

use crate::call::{Answer, Call, Done, Options, Refusal, What};

/// What it is called, by `ps` too.
pub const NAME: &str = "libcontainer-keeper";

/// Serves the socket that is its standard input, until the other end is closed.
#[must_use]
pub fn main() -> ExitCode {
    let control = match control() {
        Ok(control) => control,
        Err(_) => {
            let text = format!("{NAME} is started by libcontainer, with a socket as its standard input\n");
            // Nobody is left to be told.
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
            return ExitCode::FAILURE;
        }
    };
    match begin(&control) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(keeper)) => {
            if socket::send(&control, b"", &[]).is_ok() {
                keeper.serve(&control);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = socket::send(&control, error.to_string().as_bytes(), &[]);
            ExitCode::FAILURE
        }
    }
}

fn control() -> gantry_linux::Result<OwnedFd> {
    let control = process::inherited_fd(0)?;
    match rustix::net::sockopt::socket_type(&control).during("look at", "standard input")? {
        SocketType::SEQPACKET => Ok(control),
        _ => Err(gantry_linux::Error::new("look at", "standard input", rustix::io::Errno::PROTOTYPE)),
    }
}

/// `None` in the process that was started: its child goes on as the keeper.
fn begin(control: &OwnedFd) -> gantry_linux::Result<Option<Keeper>> {
    process::close_all_but(&[control.as_fd()])?;
    if !executable::is_protected()? {
        let why = std::io::Error::other("it is no sealed file in memory, and containers could write to it");
        return Err(gantry_linux::Error::new("keep containers with", "this program", why));
    }
    if let Clone::Parent(_) = process::clone(CloneFlags::NONE)? {
        return Ok(None);
    }
    process::reset_signals();
    // What is typed at the caller's terminal is not for us.
    rustix::process::setsid().during("begin", "session")?;
    rustix::process::chdir("/").during("change to", "/")?;
    // A name is a courtesy to whoever reads `ps`.
    let _ = rustix::thread::set_name(c"lc-keeper");
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.during("open", "/dev/null")?;
    process::set_stdio([null.as_fd(), null.as_fd(), null.as_fd()])?;
    let signals = process::signal_fd(&[libc::SIGCHLD])?;
    Ok(Some(Keeper { null, signals, children: Vec::new(), waiters: Vec::new() }))
}

struct Keeper {
    null: OwnedFd,
    signals: OwnedFd,
    children: Vec<Child>,
    waiters: Vec<Waiter>,
}

/// A process that was made here.
#[derive(Debug)]
struct Child {
    container: (String, String),
    pid: i32,
    /// The container's own, not an exec's.
    first: bool,
    /// Once it has ended.
    code: Option<i32>,
    /// Its container is removed: only who waits already is told of its end.
    forgotten: bool,
}

/// Who waits for a process.
#[derive(Debug)]
struct Waiter {
    pid: i32,
    reply: OwnedFd,
}

impl Keeper {
    fn serve(mut self, control: &OwnedFd) {
        loop {
            let mut watched = vec![PollFd::new(control, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            // Only whether its other end is there still.
            watched.extend(self.waiters.iter().map(|waiter| PollFd::new(&waiter.reply, PollFlags::empty())));
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let left: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(watched);
            let mut waiting = left.iter().skip(2).map(|gone| !gone);
            self.waiters.retain(|_| waiting.next().unwrap_or(true));
            if left[1] {
                while process::next_signal(&self.signals).is_some() {}
                self.reap();
            }
            if left[0] {
                match socket::try_receive(control) {
                    Ok(Some(packet)) => self.take(packet),
                    Err(error) if error.errno() == libc::EAGAIN => {}
                    Ok(None) | Err(_) => return,
                }
            }
        }
    }

    fn reap(&mut self) {
        while let Some(ended) = process::reap() {
            let pid = ended.pid.as_raw_nonzero().get();
            let Some(child) = self.children.iter_mut().find(|child| child.pid == pid && child.code.is_none()) else {
                continue;
            };
            child.code = Some(ended.code);
            let mut told = false;
            self.waiters.retain(|waiter| {
                if waiter.pid == pid {
                    answer(&waiter.reply, &Ok(Done { code: Some(ended.code), ..Done::default() }));
                    told = true;
                }
                waiter.pid != pid
            });
            let ended = |child: &Child| child.pid == pid && (child.forgotten || (told && !child.first));
            self.children.retain(|child| !ended(child));
        }
    }

    fn take(&mut self, packet: Packet) {
        let mut fds = packet.fds.into_iter();
        // Without it nobody waits for an answer.
        let Some(reply) = fds.next() else { return };
        let call: Call = match serde_json::from_slice(&packet.data) {
            Ok(call) => call,
            Err(error) => return answer(&reply, &Err(Refusal::invalid(error.to_string()))),
        };
        if let What::Wait { pid } = call.what {
            return self.wait(&call, pid, reply);
        }
        let streams: Vec<OwnedFd> = fds.collect();
        answer(&reply, &self.perform(&call, &streams));
    }

    fn perform(&mut self, call: &Call, streams: &[OwnedFd]) -> Answer {
        let runtime = Runtime::new(&call.root);
        match &call.what {
            What::Create { bundle, options } => {
                let created = self.with_streams(streams, || {
                    Ok(runtime.create(&call.id, Path::new(bundle), &create_options(options))?)
                })?;
                let pid = created.container.pid();
                self.forget(call);
                self.remember(call, pid, true);
                Ok(Done { warnings: created.warnings, pid, code: None })
            }
            What::Start => Ok(Done { warnings: runtime.open(&call.id)?.start()?, ..Done::default() }),
            What::Exec { process, options } => {
                let process: oci::Process = serde_json::from_str(process)
                    .map_err(|error| Refusal::invalid(format!("the process is not understood: {error}")))?;
                let container = runtime.open(&call.id)?;
                let executed = self.with_streams(streams, || Ok(container.exec(&process, &exec_options(options))?))?;
                self.remember(call, executed.pid, false);
                Ok(Done { warnings: executed.warnings, pid: executed.pid, code: None })
            }
            What::Delete { force } => {
                let warnings = runtime.open(&call.id)?.delete(*force)?;
                self.reap();
                self.forget(call);
                Ok(Done { warnings, ..Done::default() })
            }
            What::Wait { .. } => Err(Refusal::invalid("a wait is no change")),
        }
    }

    /// Runs `body` with these standard streams: the new process has its parent's.
    fn with_streams<T>(&self, streams: &[OwnedFd], body: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        if let [input, output, errors] = streams {
            process::set_stdio([input.as_fd(), output.as_fd(), errors.as_fd()])?;
        }
        let done = body();
        let null = self.null.as_fd();
        process::set_stdio([null, null, null])?;
        done
    }

    fn remember(&mut self, call: &Call, pid: i32, first: bool) {
        self.children.push(Child { container: name(call), pid, first, code: None, forgotten: false });
    }

    /// What was known of an earlier container of this name.
    fn forget(&mut self, call: &Call) {
        let name = name(call);
        self.children.retain_mut(|child| {
            child.forgotten |= child.container == name;
            !child.forgotten || child.code.is_none()
        });
    }

    fn wait(&mut self, call: &Call, pid: i32, reply: OwnedFd) {
        let name = name(call);
        let wanted = |child: &Child| {
            child.container == name && !child.forgotten && if pid == 0 { child.first } else { child.pid == pid }
        };
        match self.children.iter().rposition(wanted) {
            None => answer(&reply, &Ok(Done::default())),
            Some(index) => match self.children[index].code {
                Some(code) => {
                    answer(&reply, &Ok(Done { code: Some(code), ..Done::default() }));
                    // As with children of one's own: what was told is over. A container's is kept as long as it is there.
                    if !self.children[index].first {
                        self.children.remove(index);
                    }
                }
                None => self.waiters.push(Waiter { pid: self.children[index].pid, reply }),
            },
        }
    }
}

fn name(call: &Call) -> (String, String) {
    (call.root.clone(), call.id.clone())
}

/// Whoever asked may have left.
fn answer(reply: &OwnedFd, answer: &Answer) {
    let text = serde_json::to_vec(answer).unwrap_or_default();
    let _ = socket::try_send(reply, &text, &[]);
}

fn console_socket(options: &Options) -> Option<ConsoleSocket> {
    options.console_socket.as_ref().map(|path| ConsoleSocket::Path(path.into()))
}

fn create_options(options: &Options) -> CreateOptions {
    CreateOptions {
        console_socket: console_socket(options),
        pid_file: options.pid_file.as_ref().map(PathBuf::from),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        ..CreateOptions::default()
    }
}

fn exec_options(options: &Options) -> ExecOptions {
    ExecOptions {
        console_socket: console_socket(options),
        pid_file: options.pid_file.as_ref().map(PathBuf::from),
        ignore_paused: options.ignore_paused,
        ..ExecOptions::default()
    }
}
