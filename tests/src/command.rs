//! Runs a program with a deadline and keeps everything that it said.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a command may take where nothing else is said.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; 128 + n for signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard output as bytes.
    pub bytes: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// From start to exit.
    pub took: Duration,
}

impl Output {
    /// Standard output without the last line break; panics when the program failed.
    #[track_caller]
    pub fn ok(&self) -> String {
        self.exits(0)
    }

    /// As [`Output::ok`], for the given exit code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> String {
        assert_eq!(self.code, code, "exit code of {self}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Checks exit code and that standard error contains `text`, whatever the case.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) {
        assert_eq!(self.code, code, "exit code of {self}");
        let said = self.stderr.to_lowercase();
        assert!(said.contains(&text.to_lowercase()), "no {text:?} in the message of {self}");
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` (exit {})\nstdout: {}\nstderr: {}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// Runs to the end, feeding `input`. A program that is not done after `limit` is killed, which is an error.
pub fn run(command: &mut Command, input: Option<&[u8]>, limit: Duration) -> Result<Output> {
    let text = describe(command);
    let started = Instant::now();
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {text}"))?;
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        let input = input.to_vec();
        // A program may leave without having read all of its input.
        std::thread::spawn(move || stdin.write_all(&input).ok());
    }
    let status = wait(&mut child, limit);
    let took = started.elapsed();
    // What the program left behind may hold the pipes open; its own words are there already.
    let grace = Duration::from_secs(3);
    let bytes = stdout.recv_timeout(grace).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&stderr.recv_timeout(grace).unwrap_or_default()).into_owned();
    let stdout = String::from_utf8_lossy(&bytes).into_owned();
    match status {
        Ok(status) => Ok(Output { command: text, code: code(status), stdout, bytes, stderr, took }),
        Err(error) => Err(error.context(format!("{text}\nstdout: {stdout}\nstderr: {stderr}"))),
    }
}

/// Runs and fails unless the exit code is 0.
pub fn succeed(command: &mut Command, limit: Duration) -> Result<Output> {
    let output = run(command, None, limit)?;
    if output.code != 0 {
        bail!("{output}");
    }
    Ok(output)
}

/// Waits for a child; kills it at the deadline.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("open a pidfd")?;
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    let ready = loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.context("wait for a child")?,
        }
    };
    if ready == 0 {
        child.kill().ok();
        child.wait().ok();
        bail!("not done after {limit:?}, killed");
    }
    child.wait().context("reap a child")
}

/// 128 + n for signal n.
#[must_use]
pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The command line as a person would type it.
#[must_use]
pub fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let mut line = program.into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let plain =
            !argument.is_empty() && !argument.contains(|c: char| c.is_whitespace() || "'\"$&|;<>(){}*".contains(c));
        line.push(' ');
        line.push_str(&if plain { argument.into_owned() } else { format!("'{}'", argument.replace('\'', r"'\''")) });
    }
    line
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        sender.send(bytes).ok();
    });
    receiver
}
