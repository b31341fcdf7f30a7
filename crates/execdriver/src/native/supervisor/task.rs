//! A process with its streams: the container's own, or an exec.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use gantry_linux::{Error as SystemError, ResultExt, process};
use rustix::event::PollFlags;
use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags};
use rustix::pty::OpenptFlags;

use super::client::Client;
use super::lines::Lines;
use super::log::Log;

/// What an escaped process may still write after the task's end is waited for this long.
const DRAIN: Duration = Duration::from_secs(2);
/// Input that the process has not taken yet is held up to this.
const INPUT: usize = 64 * 1024;
const PIPE_SIZE: usize = 256 * 1024;

/// A process and what belongs to it.
#[derive(Debug)]
pub struct Task {
    /// An exec's identity; `None` is the container.
    pub exec: Option<String>,
    /// Its process.
    pub pid: Pid,
    /// A handle on it that no other process can take over.
    pub pidfd: OwnedFd,
    /// Its attached clients.
    pub clients: Vec<Client>,
    /// Where its output is written.
    pub log: Option<Log>,
    /// Standard input closes when a client that brought one has no more.
    pub stdin_once: bool,
    /// Its end is told; not that of an exec whose program never ran.
    pub reported: bool,
    /// Nothing of its streams is moved yet: its program does not run, and its client is not attached.
    pub held: bool,
    /// How it ended: code and time.
    pub ended: Option<(i32, SystemTime)>,
    terminal: bool,
    master: Option<OwnedFd>,
    /// The terminal's other end: while it is open the output does not end, whatever the processes close.
    peer: Option<OwnedFd>,
    outputs: Vec<Output>,
    input: Option<Input>,
    drain_until: Option<Instant>,
}

#[derive(Debug)]
struct Output {
    fd: Option<OwnedFd>,
    stream: u8,
    lines: Lines,
}

#[derive(Debug)]
struct Input {
    sink: OwnedFd,
    pending: Vec<u8>,
    sent: usize,
    close: bool,
}

/// What is polled for a task.
#[derive(Debug, Clone, Copy)]
pub enum Interest {
    /// An output has bytes.
    Output(usize),
    /// Input can be written.
    Input,
    /// A client has input or takes output.
    Client(usize),
}

/// The supervisor's ends and the process's ends of the streams.
#[derive(Debug)]
pub struct Streams {
    outputs: Vec<Output>,
    input: Option<Input>,
    /// Given to the process; `None` with a terminal.
    pub theirs: Option<[OwnedFd; 3]>,
}

impl Streams {
    /// Pipes, or nothing yet for a terminal. `owner` is the container's root where that is not the host's: who opens
    /// `/dev/stdout` again needs a right to it.
    pub fn open(terminal: bool, open_stdin: bool, owner: Option<(u32, u32)>) -> Result<Self, SystemError> {
        if terminal {
            return Ok(Self { outputs: Vec::new(), input: None, theirs: None });
        }
        let (out, their_out) = output_pipe()?;
        let (err, their_err) = output_pipe()?;
        let (input, their_in) = if open_stdin {
            let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make", "pipe")?;
            (Some(Input::new(ours)?), theirs)
        } else {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).during("open", "/dev/null")?;
            (None, null)
        };
        let outputs = vec![Output::new(out, 1)?, Output::new(err, 2)?];
        if let Some((uid, gid)) = owner {
            // Of the input only a pipe: the null device is the host's.
            for pipe in [Some(&their_out), Some(&their_err), input.as_ref().map(|_| &their_in)].into_iter().flatten() {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::fchown(pipe, Some(uid), Some(gid)).during("change owner of", "pipe")?;
            }
        }
        Ok(Self { outputs, input, theirs: Some([their_in, their_out, their_err]) })
    }
}

fn output_pipe() -> Result<(OwnedFd, OwnedFd), SystemError> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make", "pipe")?;
    // Fewer wake-ups for a container that writes much; where it is not allowed the usual size does.
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_SIZE);
    Ok((ours, theirs))
}

impl Output {
    fn new(fd: OwnedFd, stream: u8) -> Result<Self, SystemError> {
        rustix::io::ioctl_fionbio(&fd, true).during("set non-blocking", "output")?;
        Ok(Self { fd: Some(fd), stream, lines: Lines::new(if stream == 1 { "stdout" } else { "stderr" }) })
    }
}

impl Input {
    fn new(sink: OwnedFd) -> Result<Self, SystemError> {
        rustix::io::ioctl_fionbio(&sink, true).during("set non-blocking", "input")?;
        Ok(Self { sink, pending: Vec::new(), sent: 0, close: false })
    }
}

impl Task {
    /// Of a process that was just cloned.
    pub fn new(exec: Option<String>, pid: Pid, streams: Streams, terminal: bool) -> Result<Self, SystemError> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).during("open pidfd of", "new process")?;
        Ok(Self {
            exec,
            pid,
            pidfd,
            clients: Vec::new(),
            log: None,
            stdin_once: true,
            reported: true,
            held: false,
            ended: None,
            terminal,
            master: None,
            peer: None,
            outputs: streams.outputs,
            input: streams.input,
            drain_until: None,
        })
    }

    /// Takes the terminal's master end.
    pub fn set_terminal(&mut self, master: OwnedFd, open_stdin: bool) -> Result<(), SystemError> {
        let copy = |fd: &OwnedFd| fd.try_clone().during("duplicate", "terminal");
        self.outputs.push(Output::new(copy(&master)?, 1)?);
        if open_stdin {
            self.input = Some(Input::new(copy(&master)?)?);
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        self.peer = Some(rustix::pty::ioctl_tiocgptpeer(&master, flags).during("open the other end of", "terminal")?);
        self.master = Some(master);
        Ok(())
    }

    /// Adds a client, and feeds what was already read from it.
    pub fn attach(&mut self, client: Client, early_input: &[u8]) {
        let feeds = client.stdin;
        self.clients.push(client);
        if feeds {
            self.feed(early_input);
        }
    }

    /// Gives the process input.
    fn feed(&mut self, data: &[u8]) {
        if let Some(input) = &mut self.input {
            input.pending.extend_from_slice(data);
            self.write_input();
        }
    }

    /// Sets the terminal's size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), SystemError> {
        let Some(master) = &self.master else {
            return Err(SystemError::new("resize", "a process without a terminal", Errno::NOTTY));
        };
        libcontainer::container::resize(master, rows, columns)
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: i32) -> Result<(), SystemError> {
        process::pidfd_kill(&self.pidfd, signal)
    }

    /// What is to be polled now.
    pub fn interests<'a>(&'a self, out: &mut Vec<(Interest, BorrowedFd<'a>, PollFlags)>) {
        if self.held {
            return;
        }
        if self.clients.iter().all(Client::has_room) {
            for (index, output) in self.outputs.iter().enumerate() {
                if let Some(fd) = &output.fd {
                    out.push((Interest::Output(index), fd.as_fd(), PollFlags::IN));
                }
            }
        }
        if let Some(input) = &self.input
            && input.sent < input.pending.len()
        {
            out.push((Interest::Input, input.sink.as_fd(), PollFlags::OUT));
        }
        let has_room = self.input.as_ref().is_none_or(|input| input.pending.len() - input.sent < INPUT);
        for (index, client) in self.clients.iter().enumerate() {
            let reads = client.stdin && has_room;
            // The end of a connection is always reported: without an interest it would be reported for ever.
            if client.dead || (client.gone && !reads) {
                continue;
            }
            let mut events = if reads { PollFlags::IN } else { PollFlags::empty() };
            if client.waiting() > 0 {
                events |= PollFlags::OUT;
            }
            out.push((Interest::Client(index), client.stream.as_fd(), events));
        }
    }

    /// Acts on what poll said.
    pub fn act(&mut self, interest: Interest, events: PollFlags, buffer: &mut [u8]) {
        match interest {
            Interest::Output(index) => {
                self.read_output(index, buffer);
            }
            Interest::Input => self.write_input(),
            Interest::Client(index) => self.serve_client(index, events, buffer),
        }
    }

    /// Moves one piece of output; returns its length.
    fn read_output(&mut self, index: usize, buffer: &mut [u8]) -> usize {
        let Some(output) = self.outputs.get_mut(index) else { return 0 };
        let Some(fd) = &output.fd else { return 0 };
        let length = match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer)) {
            Ok(length) => length,
            Err(Errno::AGAIN) => return 0,
            // EIO: nobody has the other end of the terminal open any more.
            Err(_) => 0,
        };
        if length == 0 {
            self.close_output(index);
            return 0;
        }
        let data = &buffer[..length];
        if let Some(log) = &mut self.log {
            output.lines.push(data, SystemTime::now(), |entry| log.push(entry));
        }
        for client in &mut self.clients {
            client.push(output.stream, !self.terminal, data);
        }
        length
    }

    /// Reads what is there, whether the clients have room or not; no more than a pipe holds, for somebody may write on.
    fn take_rest(&mut self, index: usize) {
        let mut buffer = vec![0; PIPE_SIZE / 4];
        for _ in 0..8 {
            if self.read_output(index, &mut buffer) == 0 {
                return;
            }
        }
    }

    fn close_output(&mut self, index: usize) {
        let Some(output) = self.outputs.get_mut(index) else { return };
        output.fd = None;
        if let Some(log) = &mut self.log {
            output.lines.finish(SystemTime::now(), |entry| log.push(entry));
        }
    }

    fn write_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        while input.sent < input.pending.len() {
            match rustix::io::write(&input.sink, &input.pending[input.sent..]) {
                Ok(written) => input.sent += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The process has closed its standard input: nobody's input is of use any more.
                Err(_) => {
                    self.input = None;
                    for client in &mut self.clients {
                        client.stdin = false;
                        client.dead |= client.gone;
                    }
                    return;
                }
            }
        }
        input.pending.clear();
        input.pending.shrink_to(4096);
        input.sent = 0;
        if input.close && !self.terminal {
            self.input = None;
        }
    }

    fn serve_client(&mut self, index: usize, events: PollFlags, buffer: &mut [u8]) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if events.contains(PollFlags::OUT) {
            client.flush();
        }
        if client.stdin && events.contains(PollFlags::IN) {
            match client.read(buffer) {
                Some(data) => {
                    if let Some(input) = &mut self.input {
                        input.pending.extend_from_slice(data);
                    }
                }
                None => self.end_client_input(index),
            }
            self.write_input();
        } else if events.intersects(PollFlags::HUP | PollFlags::ERR) {
            client.leave();
            if events.contains(PollFlags::ERR) && !events.contains(PollFlags::IN) {
                self.end_client_input(index);
            }
        }
    }

    fn end_client_input(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if !std::mem::replace(&mut client.stdin, false) {
            return;
        }
        client.dead |= client.gone;
        if self.stdin_once
            && let Some(input) = &mut self.input
        {
            input.close = true;
            self.write_input();
        }
    }

    /// Lets go of what is done with; writes the log.
    pub fn sweep(&mut self, now: Instant) {
        let at_end = self.is_drained();
        for index in 0..self.clients.len() {
            if self.clients[index].deadline(at_end).is_some_and(|deadline| now >= deadline) {
                self.clients[index].dead = true;
                self.end_client_input(index);
            }
        }
        self.clients.retain(|client| !client.dead);
        if self.ended.is_some() && !self.held && self.drain_until.is_none() && self.clients.iter().all(Client::has_room)
        {
            self.drain_until = Some(now + DRAIN);
        }
        if self.drain_until.is_some_and(|deadline| now >= deadline) && !at_end {
            for index in 0..self.outputs.len() {
                self.take_rest(index);
                self.close_output(index);
            }
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// The next moment at which [`Task::sweep`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let at_end = self.is_drained();
        let clients = self.clients.iter().filter_map(|client| client.deadline(at_end));
        clients.chain(self.drain_until.filter(|_| !at_end)).min()
    }

    /// Notes the process's end; output is read until its end or the deadline, which counts from when the clients have
    /// room for it.
    pub fn end(&mut self, code: i32) {
        self.ended = Some((code, SystemTime::now()));
        self.peer = None;
    }

    fn is_drained(&self) -> bool {
        !self.held && self.ended.is_some() && self.outputs.iter().all(|output| output.fd.is_none())
    }

    /// Whether it has ended, and every byte is where it belongs.
    pub fn is_finished(&self) -> bool {
        self.is_drained() && self.clients.iter().all(|client| client.waiting() == 0)
    }

    /// Ends the clients' connections.
    pub fn finish(&mut self) {
        for client in self.clients.drain(..) {
            client.finish();
        }
        self.input = None;
    }
}
