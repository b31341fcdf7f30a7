//! A minimal init as pid 1: forwards signals to the program, reaps what is orphaned, ends as the program ends.

use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::ResultExt;
use gantry_linux::process::{self, Clone, CloneFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::credentials::confine;
use crate::config::{Capabilities, Process};
use crate::error::{Error, Result};
use crate::lsm;

/// Signals that are the reaper's own business or cannot be forwarded.
const NOT_FORWARDED: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
];

/// Splits: returns in the process that becomes the program; the other one stays as the init and never returns. The init
/// is confined as the program is: it has `left` of the capabilities, and what it needs every seccomp program must allow.
pub fn split(process: &Process, left: &Capabilities, report: &OwnedFd) -> Result<()> {
    if process.seccomp_listener.is_some() {
        let text = "a seccomp listener and an init of ours: the init would wait for the agent; leave one of them out";
        return Err(Error::Invalid(text.into()));
    }
    let forwarded: Vec<i32> = (1..=64).filter(|signal| !NOT_FORWARDED.contains(signal)).collect();
    let watched: Vec<i32> = forwarded.iter().copied().chain([libc::SIGCHLD]).collect();
    let signals = process::signal_fd(&watched)?;
    let (confined, unconfined) = pipe_with(PipeFlags::CLOEXEC).during("make", "a pipe to the init")?;
    match process::clone(CloneFlags::NONE)? {
        Clone::Child => {
            drop((signals, unconfined));
            take_foreground(process.terminal);
            // The program must not meet an init that can do more than itself.
            if retry_on_intr(|| read(&confined, &mut [0u8; 1])).during("wait for", "the init")? == 0 {
                return Err(Error::Invalid("the init could not be confined as its program is".into()));
            }
            Ok(())
        }
        Clone::Parent(program) => {
            // The end of the report and of the streams must come from the program alone.
            let closed = process::close_everything_but(&[signals.as_fd(), unconfined.as_fd()]);
            // A name is a courtesy to whoever reads `ps`.
            let _ = rustix::thread::set_name(c"gantry-init");
            let confined = lsm::confine_self(process).and_then(|()| confine(process, left, report));
            if closed.is_err() || confined.is_err() || retry_on_intr(|| write(&unconfined, b"1")).is_err() {
                process::exit_now(255);
            }
            drop(unconfined);
            process::exit_now(supervise(program, &signals))
        }
    }
}

/// The program gets a process group of its own, the one in the foreground, as under a shell.
fn take_foreground(terminal: bool) {
    if !terminal {
        return;
    }
    let stdin = rustix::stdio::stdin();
    // Signals are blocked still, so that SIGTTOU does not stop us. Without a foreground group the program runs as well.
    if rustix::process::setpgid(None, None).is_ok() {
        let _ = rustix::termios::tcsetpgrp(stdin, rustix::process::getpid());
    }
}

fn supervise(program: Pid, signals: &std::os::fd::OwnedFd) -> i32 {
    loop {
        let mut watched = [PollFd::new(signals, PollFlags::IN)];
        if poll(&mut watched, None).is_err_and(|error| error != rustix::io::Errno::INTR) {
            return 255;
        }
        while let Some(signal) = process::next_signal(signals) {
            if signal != libc::SIGCHLD {
                // The program may have ended a moment ago.
                let _ = process::kill(program, signal);
            }
        }
        while let Some(ended) = process::reap() {
            if ended.pid == program {
                return ended.code;
            }
        }
    }
}
