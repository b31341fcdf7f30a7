//! Stopping, continuing and killing everything in a leaf.

use std::time::{Duration, Instant};

use gantry_linux::{Error, Result, ResultExt, fs};
use rustix::process::{Signal, pidfd_send_signal};

use super::hierarchies::Version;
use super::leaf::{Leaf, open_pidfds, read_file, wait_for_exit};

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
            Version::V1 => Ok(read_file(&self.file("freezer", "freezer.state")?)?.trim() == "FROZEN"),
            Version::V2 => Ok(read_file(&self.file("cgroup", "cgroup.events")?)?.lines().any(|l| l == "frozen 1")),
        }
    }

    fn set_frozen(&self, frozen: bool, deadline: Instant) -> Result<()> {
        let (file, value) = match (self.hierarchies.version(), frozen) {
            (Version::V1, true) => (self.file("freezer", "freezer.state")?, "FROZEN"),
            (Version::V1, false) => (self.file("freezer", "freezer.state")?, "THAWED"),
            (Version::V2, true) => (self.file("cgroup", "cgroup.freeze")?, "1"),
            (Version::V2, false) => (self.file("cgroup", "cgroup.freeze")?, "0"),
        };
        let mut pause = Duration::from_micros(50);
        loop {
            // v1 stays in FREEZING while a task slips away; writing again catches it. No event tells.
            fs::write(&file, value)?;
            if self.is_frozen()? == frozen {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why = std::io::Error::new(std::io::ErrorKind::TimedOut, "a task does not stop in time");
                let operation = if frozen { "freeze cgroup" } else { "thaw cgroup" };
                return Err(Error::new(operation, self.path(), why));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Kills every process of the leaf and returns when none is left; an error when some are at `deadline`.
    pub fn kill_all(&self, deadline: Instant) -> Result<()> {
        loop {
            let pids = self.procs()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why = std::io::Error::new(std::io::ErrorKind::TimedOut, "some do not die in time");
                return Err(Error::new("kill processes of cgroup", self.path(), why));
            }
            let pidfds = match self.hierarchies.version() {
                Version::V1 => self.kill_v1(deadline)?,
                Version::V2 => {
                    fs::write(self.file("cgroup", "cgroup.kill")?, "1")?;
                    open_pidfds(&pids)
                }
            };
            wait_for_exit(&pidfds, deadline)?;
        }
    }

    /// Frozen, nobody can fork away; where freezing fails the caller's loop still catches up.
    fn kill_v1(&self, deadline: Instant) -> Result<Vec<std::os::fd::OwnedFd>> {
        let short = deadline.min(Instant::now() + Duration::from_millis(200));
        let freezer = self.hierarchies.controller("freezer").is_some();
        if freezer {
            // A task that cannot be frozen (in uninterruptible sleep) is killed all the same.
            let _ = self.set_frozen(true, short);
        }
        let killed = self.procs().and_then(|pids| {
            let pidfds = open_pidfds(&pids);
            for fd in &pidfds {
                match pidfd_send_signal(fd, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(error).during("kill a process of cgroup", self.path()),
                }
            }
            Ok(pidfds)
        });
        if freezer {
            self.set_frozen(false, short.max(Instant::now() + Duration::from_millis(50)))?;
        }
        killed
    }
}
