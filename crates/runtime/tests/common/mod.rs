//! A bundle of busybox, a state directory of its own, and a runtime that is called as a person or an engine calls it.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]

pub mod traces;

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

const APPLETS: &[&str] = &[
    "cat", "echo", "env", "false", "grep", "id", "kill", "ls", "mkdir", "mount", "ps", "pwd", "readlink", "sh",
    "sleep", "stat", "stty", "test", "touch", "trap", "true", "tty", "umask", "wc",
];

/// Our runtime, as cargo built it beside this test, or the one that `GANTRY_RUNTIME_BIN` names.
pub fn ours() -> PathBuf {
    if let Some(path) = std::env::var_os("GANTRY_RUNTIME_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let built = test.parent().and_then(Path::parent).expect("a target directory").join("examples/gantry-runtime");
    assert!(built.exists(), "{} is missing: cargo test builds it", built.display());
    built
}

/// By another process: what another thread of this one starts meanwhile would have the copy open for writing, and nobody
/// could execute it.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "{} is installed", from.display());
}

/// A bundle with its runtime; what was left running is removed when it is dropped.
pub struct World {
    runtime: PathBuf,
    dir: tempfile::TempDir,
    ids: Vec<String>,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
    /// The file that took `out`; a container that goes on writes to it still.
    taken: PathBuf,
}

impl Output {
    /// What was written by now.
    pub fn out_now(&self) -> String {
        std::fs::read_to_string(&self.taken).expect("read output")
    }
}

/// A command that was begun; files take its output.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Of the command itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Output {
        let status = gantry_tests::until(Duration::from_secs(30), || self.child.try_wait().expect("wait"));
        if status.is_none() {
            self.child.kill().expect("kill");
            self.child.wait().expect("wait");
        }
        self.output(status.expect("the command ends within 30 s"))
    }

    fn output(self, status: ExitStatus) -> Output {
        let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).expect("read output")).into_owned();
        Output { code: status.code().unwrap_or(-1), out: read(&self.out), err: read(&self.err), taken: self.out }
    }
}

impl World {
    /// With our runtime.
    pub fn new() -> Self {
        Self::of(&ours())
    }

    /// With the runtime at this path.
    pub fn of(runtime: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bin = dir.path().join("bundle/rootfs/bin");
        std::fs::create_dir_all(&bin).expect("make a root file system");
        for name in ["proc", "dev", "sys", "tmp", "etc", "run"] {
            std::fs::create_dir_all(dir.path().join("bundle/rootfs").join(name)).expect("make a directory");
        }
        copy_program(Path::new("/bin/busybox"), &bin.join("busybox"));
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).expect("link an applet");
        }
        let world = Self { runtime: runtime.to_owned(), dir, ids: Vec::new() };
        let made = world.command(&["spec", "--bundle", world.bundle().to_str().unwrap()]);
        assert_eq!(made.code, 0, "{made:?}");
        world.configure(|config| config["process"]["terminal"] = json!(false));
        world
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Changes config.json.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle().join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).expect("read config.json")).expect("JSON");
        change(&mut config);
        std::fs::write(path, config.to_string()).expect("write config.json");
    }

    /// The program and its arguments.
    pub fn program(&self, args: &[&str]) {
        self.configure(|config| config["process"]["args"] = json!(args));
    }

    /// A shell line as the program.
    pub fn shell(&self, line: &str) {
        self.program(&["sh", "-c", line]);
    }

    /// A name that no other test uses; the container is removed at the end.
    pub fn id(&mut self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.ids.push(id.clone());
        id
    }

    /// The command, not yet started: its standard input is empty, its working directory the bundle.
    pub fn prepare<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.dir.path().join("state")).args(args);
        command.current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. Files and not pipes take its output: a container that goes on keeps them open.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.finish(self.prepare(args))
    }

    /// As [`Self::command`], prepared by the caller.
    pub fn finish(&self, command: Command) -> Output {
        let mut running = self.start(command);
        let status = running.child.wait().expect("the runtime runs");
        running.output(status)
    }

    /// Begins a command; others can run meanwhile.
    pub fn begin<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        self.start(self.prepare(args))
    }

    /// As [`Self::begin`], prepared by the caller.
    pub fn begin_prepared(&self, command: Command) -> Running {
        self.start(command)
    }

    fn start(&self, mut command: Command) -> Running {
        let taker = |name: &str| {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let path = self.dir.path().join(format!("{name}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            (std::fs::File::create(&path).expect("a file for output"), path)
        };
        let ((out, out_path), (err, err_path)) = (taker("stdout"), taker("stderr"));
        let child = command.stdout(out).stderr(err).spawn().expect("the runtime runs");
        Running { child, out: out_path, err: err_path }
    }

    /// Runs a command that must succeed; its output.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let output = self.command(args);
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
        output.out
    }

    /// A container that runs `sleep`.
    #[track_caller]
    pub fn sleeping(&mut self) -> String {
        let id = self.id();
        self.program(&["sleep", "600"]);
        self.ok(&["run", "-d", &id]);
        id
    }

    /// Its state.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).expect("JSON")
    }

    /// Waits for a status.
    #[track_caller]
    pub fn becomes(&self, id: &str, status: &str) {
        let seen = gantry_tests::until(Duration::from_secs(10), || (self.state(id)["status"] == status).then_some(()));
        assert!(seen.is_some(), "{id} is {} and not {status}", self.state(id)["status"]);
    }

    /// Starts a command that goes on; pipes for its streams.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Child {
        let mut command = self.prepare(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the runtime runs")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.ids) {
            let removed = self.command(&["delete", "--force", &id]);
            if removed.code != 0 && !std::thread::panicking() {
                panic!("{id} was not removed: {removed:?}");
            }
        }
    }
}

/// Listens for a terminal; returns its master end, as an engine gets it.
pub struct ConsoleSocket {
    listener: std::os::unix::net::UnixListener,
    pub path: String,
}

impl ConsoleSocket {
    pub fn new(world: &World) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = world.file(&format!("console{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Self { listener: std::os::unix::net::UnixListener::bind(&path).expect("listen"), path }
    }

    /// The descriptor that was sent.
    pub fn receive(&self) -> std::os::fd::OwnedFd {
        self.receive_with_text().1
    }

    /// The same, and what came with it.
    pub fn receive_with_text(&self) -> (String, std::os::fd::OwnedFd) {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
        let (socket, _) = self.listener.accept().expect("the runtime connects");
        let mut name = [0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = rustix::net::recvmsg(&socket, &mut [std::io::IoSliceMut::new(&mut name)], &mut control, flags)
            .expect("a message");
        let text = String::from_utf8_lossy(&name[..message.bytes]).into_owned();
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        (text, fd.expect("a descriptor"))
    }
}

/// Everything until the terminal's other end is closed.
pub fn read_terminal(master: std::os::fd::OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = rustix::io::read(&master, &mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).replace("\r\n", "\n")
}
