//! The command lines under test: ours and the real `docker` CLI, by the same calls.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::{Output, World, command, daemon, paths};

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Gantry,
    /// Docker's own.
    Docker,
}

/// A client of one world's daemon. Its calls panic where a program cannot be run at all.
#[derive(Debug)]
pub struct Cli<'a> {
    world: &'a World,
    /// Which one it is.
    pub kind: Kind,
    program: PathBuf,
}

impl<'a> Cli<'a> {
    pub(crate) fn new(world: &'a World, kind: Kind) -> Option<Self> {
        let program = match kind {
            Kind::Gantry if daemon::reference().is_some() => paths::program("docker")?,
            Kind::Gantry => paths::gantry().ok()?,
            Kind::Docker => paths::program("docker")?,
        };
        Some(Self { world, kind, program })
    }

    /// The world.
    #[must_use]
    pub fn world(&self) -> &World {
        self.world
    }

    /// A command, for tests that need its pipes.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.daemon.client(&self.program);
        command.args(arguments);
        command
    }

    /// Runs to the end.
    #[track_caller]
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.finish(&mut self.command(arguments), None)
    }

    /// Runs to the end with standard input.
    #[track_caller]
    #[must_use]
    pub fn input(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
        self.finish(&mut self.command(arguments), Some(input.as_ref()))
    }

    /// Runs, must succeed; standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    /// `inspect -f`.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        self.ok(&["inspect", "-f", format, name])
    }

    /// The shell line by which a person starts this client here, for a terminal.
    #[must_use]
    pub fn line(&self, arguments: &str) -> String {
        self.line_of(&self.world.daemon.home(), arguments)
    }

    /// [`Cli::line`] of a person whose home directory is `home`.
    #[must_use]
    pub fn line_of(&self, home: &Path, arguments: &str) -> String {
        let (host, program, home) = (self.world.daemon.host(), self.program.display(), home.display());
        format!("DOCKER_HOST={host} HOME={home} DOCKER_CONFIG={home} {program} {arguments}")
    }

    /// Starts and leaves running.
    #[track_caller]
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Session {
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", command::describe(&command)));
        let stdin = child.stdin.take();
        let stdout = lines(child.stdout.take());
        let stderr = lines(child.stderr.take());
        Session { text: command::describe(&command), child, stdin, stdout, stderr }
    }

    #[track_caller]
    fn finish(&self, command: &mut Command, input: Option<&[u8]>) -> Output {
        match command::run(command, input, command::LIMIT) {
            Ok(output) => output,
            Err(error) => panic!("{error:?}\n--- the daemon's log:\n{}", self.world.daemon.log()),
        }
    }
}

/// A client that runs on while the test does other things. Killed when dropped.
#[derive(Debug)]
pub struct Session {
    text: String,
    /// The process.
    pub child: Child,
    /// Its standard input; `None` closes it.
    pub stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Session {
    /// Writes to its standard input.
    #[track_caller]
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("write to standard input");
    }

    /// The next line of standard output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.stdout.recv_timeout(Duration::from_secs(15)) {
            Ok(line) => line,
            Err(error) => {
                let said: Vec<String> = self.stderr.try_iter().collect();
                panic!("no further line from `{}`: {error}; stderr: {said:?}", self.text)
            }
        }
    }

    /// Reads lines until one contains `text`.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with {text:?} from `{}`", self.text);
    }

    /// Waits for the end: exit code and the lines of standard output that were not read yet.
    #[track_caller]
    pub fn end(mut self) -> (i32, Vec<String>) {
        drop(self.stdin.take());
        let status = command::wait(&mut self.child, Duration::from_secs(20));
        let status = status.unwrap_or_else(|error| panic!("`{}`: {error}", self.text));
        (command::code(status), self.stdout.iter().collect())
    }

    /// Sends a signal to the client.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("signal the client");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lines(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    let Some(pipe) = pipe else { return receiver };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}
