//! Stopping, continuing and killing everything in a leaf.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gantry_linux::{Result, ResultExt, fs};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::files::{gone, put, read, timed_out};
use super::hierarchies::Version;
use super::leaf::Leaf;
use super::tree::{open_pidfds, wait_for_exit};

/// Between two looks at a freezer of v1.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// `cgroup.events` of a v2 cgroup, whose changes the kernel announces.
struct Events(File, PathBuf);

impl Events {
    fn open(leaf: &Leaf) -> Result<Self> {
        let path = leaf.file("cgroup", "cgroup.events")?;
        Ok(Self(fs::open(&path)?, path))
    }

    fn now(&self) -> Result<String> {
        // Read from the start each time: that also arms the next announcement.
        let mut text = [0; 256];
        let length = self.0.read_at(&mut text, 0).during("read", self.1.display())?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// Returns when the line is there; whether it came in time.
    fn wait_for(&self, line: &str, deadline: Instant) -> Result<bool> {
        loop {
            match self.now() {
                Ok(text) if text.lines().any(|l| l == line) => return Ok(true),
                Err(error) if gone(&error) => return Ok(line == "populated 0"),
                other => other?,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = left.try_into().unwrap_or_default();
            match poll(&mut [PollFd::new(&self.0, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).during("wait for", self.1.display()),
            }
        }
    }
}

impl Leaf {
    /// Stops every task; returns when all are stopped. On failure they are let run again.
    pub fn freeze(&self, deadline: Instant) -> Result<()> {
        let frozen = self.set_frozen(true, deadline);
        if frozen.is_err() {
            // The first error is the one that matters.
            let _ = self.thaw(Instant::now());
        }
        frozen
    }

    /// Lets every task run again.
    pub fn thaw(&self, deadline: Instant) -> Result<()> {
        self.set_frozen(false, deadline)
    }

    /// Whether the leaf is stopped.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.hierarchies.version() {
            Version::V1 => Ok(read(&self.file("freezer", "freezer.state")?)?.trim() == "FROZEN"),
            Version::V2 => Ok(read(&self.file("cgroup", "cgroup.events")?)?.lines().any(|l| l == "frozen 1")),
        }
    }

    fn set_frozen(&self, frozen: bool, deadline: Instant) -> Result<()> {
        let done = match self.hierarchies.version() {
            Version::V1 => self.set_frozen_v1(frozen, deadline)?,
            Version::V2 => self.set_frozen_v2(frozen, deadline)?,
        };
        if done {
            return Ok(());
        }
        let operation = if frozen { "freeze cgroup" } else { "thaw cgroup" };
        Err(timed_out(operation, self.path(), "a task does not stop in time"))
    }

    fn set_frozen_v2(&self, frozen: bool, deadline: Instant) -> Result<bool> {
        let events = Events::open(self)?;
        let path = self.file("cgroup", "cgroup.freeze")?;
        put(&path, if frozen { "1" } else { "0" }).during("write", path.display())?;
        events.wait_for(if frozen { "frozen 1" } else { "frozen 0" }, deadline)
    }

    /// The kernel of v1 tells nobody when the last task has stopped: neither poll nor inotify know `freezer.state`, whose
    /// value is worked out when it is read. So it is asked: at once, which is enough for tasks that sleep or run, then in
    /// growing pauses of at most 5 ms, so that a task in an uninterruptible wait costs 200 reads a second until `deadline`.
    fn set_frozen_v1(&self, frozen: bool, deadline: Instant) -> Result<bool> {
        let path = self.file("freezer", "freezer.state")?;
        let mut pause = FIRST_PAUSE;
        loop {
            // It stays in FREEZING while a task slips away by a fork; writing again catches it.
            put(&path, if frozen { "FROZEN" } else { "THAWED" }).during("write", path.display())?;
            if self.is_frozen()? == frozen {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Kills every process of the leaf and returns when none is left; an error when some are at `deadline`. Without a
    /// leaf there is nobody to be killed.
    pub fn kill_all(&self, deadline: Instant) -> Result<()> {
        let killed = match (self.hierarchies.version(), self.membership()) {
            (_, None) => Ok(true),
            (Version::V1, Some(_)) => self.kill_all_v1(deadline),
            (Version::V2, Some(_)) => self.kill_all_v2(deadline),
        };
        let dead = match killed {
            // Somebody else has removed it meanwhile: then nobody was left.
            Err(error) if gone(&error) => true,
            other => other?,
        };
        if dead { Ok(()) } else { Err(timed_out("kill processes of cgroup", self.path(), "some do not die in time")) }
    }

    /// One write kills all, those that are being forked too.
    fn kill_all_v2(&self, deadline: Instant) -> Result<bool> {
        let events = Events::open(self)?;
        let path = self.file("cgroup", "cgroup.kill")?;
        put(&path, "1").during("write", path.display())?;
        events.wait_for("populated 0", deadline)
    }

    fn kill_all_v1(&self, deadline: Instant) -> Result<bool> {
        loop {
            if self.procs()?.is_empty() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            let pidfds = self.kill_v1(deadline)?;
            wait_for_exit(&pidfds, deadline)?;
        }
    }

    /// Frozen, nobody can fork away; where freezing fails the caller's loop still catches up.
    fn kill_v1(&self, deadline: Instant) -> Result<Vec<OwnedFd>> {
        let short = deadline.min(Instant::now() + Duration::from_millis(200));
        let freezer = self.hierarchies.controller("freezer").is_some();
        if freezer {
            // A task that cannot be frozen (in uninterruptible sleep) is killed all the same.
            let _ = self.set_frozen(true, short);
        }
        let killed = self.signal_all(Signal::KILL);
        if freezer {
            self.set_frozen(false, short.max(Instant::now() + Duration::from_millis(50)))?;
        }
        killed
    }

    /// Sends a signal to every process of the leaf, once; handles on them.
    pub fn signal_all(&self, signal: Signal) -> Result<Vec<OwnedFd>> {
        let pidfds = open_pidfds(&self.procs()?);
        for fd in &pidfds {
            match pidfd_send_signal(fd, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).during("signal a process of cgroup", self.path()),
            }
        }
        Ok(pidfds)
    }
}
