//! The caller's terminal in raw mode, and bytes between it and the container's.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_linux::ResultExt;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::error::Result;

const BUFFER: usize = 16 * 1024;

/// A container's terminal that is served; dropping it gives the caller's back as it was.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    before: Option<(BorrowedFd<'static>, Termios)>,
    /// Typed and not yet taken by the program.
    typed: VecDeque<u8>,
    /// Nothing more comes from standard input.
    input_ended: bool,
    /// Nothing more comes from the program.
    output_ended: bool,
}

impl Terminal {
    /// Raw mode on the caller's terminal, if one of the standard streams is one.
    pub fn serve(master: OwnedFd) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master).during("set up", "terminal")?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK).during("set up", "terminal")?;
        // The caller's terminal turns newlines into what it needs; twice would be once too often.
        let mut modes = tcgetattr(&master).during("set up", "terminal")?;
        modes.output_modes -= OutputModes::ONLCR;
        tcsetattr(&master, OptionalActions::Now, &modes).during("set up", "terminal")?;
        let before = match [stderr(), stdout(), stdin()].into_iter().find(|stream| isatty(stream)) {
            Some(own) => {
                let before = tcgetattr(own).during("read the modes of", "the own terminal")?;
                let mut raw = before.clone();
                raw.make_raw();
                raw.output_modes = before.output_modes;
                tcsetattr(own, OptionalActions::Now, &raw).during("set raw mode of", "the own terminal")?;
                Some((own, before))
            }
            None => None,
        };
        let terminal = Self { master, before, typed: VecDeque::new(), input_ended: false, output_ended: false };
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the container's terminal the size of the caller's.
    pub fn resize(&self) {
        if let Some((own, _)) = &self.before {
            // The caller's terminal may be gone: then the size stays.
            let _ = tcgetwinsize(own).and_then(|size| tcsetwinsize(&self.master, size));
        }
    }

    /// Sleeps until there is something to do, and does it, but for the news that is others' business.
    pub fn poll(&mut self, news: Vec<PollFd<'_>>) -> rustix::io::Result<()> {
        let mut interest = PollFlags::empty();
        if !self.output_ended {
            interest |= PollFlags::IN;
        }
        if !self.typed.is_empty() {
            interest |= PollFlags::OUT;
        }
        let reads_input = !self.input_ended && self.typed.is_empty();
        let (input, output) = {
            let own = stdin();
            let mut fds = news;
            let others = fds.len();
            if !self.output_ended {
                // One that hung up would wake us again and again.
                fds.push(PollFd::new(&self.master, interest));
            }
            if reads_input {
                fds.push(PollFd::new(&own, PollFlags::IN));
            }
            rustix::event::poll(&mut fds, None)?;
            let input = reads_input && fds.last().is_some_and(|fd| !fd.revents().is_empty());
            (input, !self.output_ended && !fds[others].revents().is_empty())
        };
        if output {
            self.copy_output();
        }
        if input {
            self.read_input();
        }
        self.write_typed();
        Ok(())
    }

    /// What the program has written and nobody has read.
    pub fn drain(&mut self) {
        while !self.output_ended && self.copy_output() {}
    }

    /// One piece; whether there was one.
    fn copy_output(&mut self) -> bool {
        let mut buffer = [0; BUFFER];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) => self.output_ended = true,
            Ok(length) => {
                // Nobody reads: the program finds that out by itself, when its terminal goes.
                self.output_ended = gantry_linux::socket::write_all(stdout().as_fd(), &buffer[..length]).is_err();
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: the last process that had it open has closed it. A later one may open it again only while the
            // container lives, and then there is nothing lost but that.
            Err(_) => self.output_ended = true,
        }
        false
    }

    fn read_input(&mut self) {
        let mut buffer = [0; BUFFER];
        match rustix::io::read(stdin(), &mut buffer) {
            Ok(0) => self.input_ended = true,
            Ok(length) => self.typed.extend(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.input_ended = true,
        }
    }

    fn write_typed(&mut self) {
        while !self.typed.is_empty() {
            match rustix::io::write(&self.master, self.typed.as_slices().0) {
                Ok(written) => _ = self.typed.drain(..written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.typed.clear();
                    self.input_ended = true;
                }
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some((own, before)) = &self.before {
            // A terminal that is gone needs nothing back.
            let _ = tcsetattr(own, OptionalActions::Drain, before);
        }
    }
}
