//! The time between a program's start and its end: signals are passed on, its terminal is served, its exit is awaited.

use std::os::fd::OwnedFd;

use gantry_linux::process::{self, Ended};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::{Error, Result};
use crate::notify::Notify;

mod terminal;

use terminal::Terminal;

const CHLD: i32 = 17;
const WINCH: i32 = 28;
/// Faults of the process itself, signals that cannot be blocked, and what a broken pipe already says by an error.
const NOT_FORWARDED: [i32; 9] = [4, 5, 7, 8, 9, 11, 13, 19, 31];
const URG: i32 = 23;

/// Signals are blocked and collected from here on.
#[derive(Debug)]
pub struct Foreground {
    signals: OwnedFd,
}

impl Foreground {
    /// Call before the process is made. With `subreaper` what the program leaves behind becomes ours to reap.
    pub fn begin(subreaper: bool) -> Result<Self> {
        if subreaper {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).during("become", "subreaper")?;
        }
        // 32 and 33 are the C library's.
        let all: Vec<i32> = (1..=31).chain(34..=64).filter(|signal| !NOT_FORWARDED.contains(signal)).collect();
        Ok(Self { signals: process::signal_fd_as_inherited(&all)? })
    }

    /// Until the child `pid` has ended; its exit code, 128 + n for signal n. `master` is its terminal, if it has one, and
    /// `notify` where it tells that it is ready.
    pub fn wait(self, pid: i32, master: Option<OwnedFd>, mut notify: Option<Notify>) -> Result<u8> {
        let pid =
            Pid::from_raw(pid).ok_or_else(|| Error::Refused("the container has no process to wait for".into()))?;
        let mut terminal = master.map(Terminal::serve).transpose()?;
        loop {
            self.poll(terminal.as_mut(), notify.as_ref())?;
            if notify.as_ref().map_or(Ok(false), Notify::pass_on)? {
                notify = None;
            }
            if let Some(code) = self.handle_signals(pid, terminal.as_ref())? {
                if let Some(terminal) = &mut terminal {
                    terminal.drain();
                }
                return Ok(code);
            }
        }
    }

    /// Sleeps until there is a signal; serves the terminal meanwhile.
    fn poll(&self, terminal: Option<&mut Terminal>, notify: Option<&Notify>) -> Result<()> {
        let mut news = vec![PollFd::new(&self.signals, PollFlags::IN)];
        news.extend(notify.map(Notify::interest));
        let polled = match terminal {
            None => rustix::event::poll(&mut news, None).map(|_| ()),
            Some(terminal) => terminal.poll(news),
        };
        match polled {
            Ok(()) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(SystemError::new("wait for", "signals", error).into()),
        }
    }

    fn handle_signals(&self, pid: Pid, terminal: Option<&Terminal>) -> Result<Option<u8>> {
        while let Some(signal) = process::next_signal(&self.signals) {
            match signal {
                CHLD => {
                    while let Some(Ended { pid: ended, code }) = process::reap() {
                        if ended == pid {
                            return Ok(Some(u8::try_from(code).unwrap_or(255)));
                        }
                    }
                }
                WINCH if terminal.is_some() => terminal.into_iter().for_each(Terminal::resize),
                URG => {}
                // It may have ended just now: then SIGCHLD says so.
                other => match process::kill(pid, other) {
                    Err(error) if error.errno() != Errno::SRCH.raw_os_error() => return Err(error.into()),
                    _ => {}
                },
            }
        }
        Ok(None)
    }
}
