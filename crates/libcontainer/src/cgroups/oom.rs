//! News of processes that were killed for want of memory, without asking again and again.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use gantry_linux::{Result, ResultExt, fs};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use super::files::{field, gone, put};
use super::hierarchies::Version;
use super::leaf::Leaf;

/// What tells of such kills in one leaf, from the moment when it was made.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    /// The file that is watched; it goes with the leaf.
    path: PathBuf,
}

#[derive(Debug)]
enum Source {
    /// v1: the kernel adds one for each time that the leaf was out of memory, and once more when it is removed.
    Counter(OwnedFd),
    /// v2: `memory.events`, whose changes are announced, and its number of kills when it was last read.
    Events(File, u64),
}

impl Leaf {
    /// Watches the leaf; `None` where nothing counts its memory.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        if !self.has("memory") {
            return Ok(None);
        }
        Ok(Some(match self.hierarchies.version() {
            Version::V1 => OomWatch::by_counter(self)?,
            Version::V2 => OomWatch::by_events(self)?,
        }))
    }
}

impl OomWatch {
    fn by_counter(leaf: &Leaf) -> Result<Self> {
        use std::os::fd::AsRawFd;
        let path = leaf.file("memory", "memory.oom_control")?;
        let control = fs::open(&path)?;
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during("make", "event counter")?;
        let registration = leaf.file("memory", "cgroup.event_control")?;
        put(&registration, &format!("{} {}", counter.as_raw_fd(), control.as_raw_fd()))
            .during("register for events in", registration.display())?;
        Ok(Self { source: Source::Counter(counter), path })
    }

    fn by_events(leaf: &Leaf) -> Result<Self> {
        let path = leaf.file("memory", "memory.events")?;
        let file = fs::open(&path)?;
        let mut watch = Self { source: Source::Events(file, 0), path };
        watch.take()?;
        Ok(watch)
    }

    /// To be polled beside other things; when it is ready, [`Self::take`] what there is.
    #[must_use]
    pub fn interest(&self) -> PollFd<'_> {
        let (fd, flags): (BorrowedFd<'_>, _) = match &self.source {
            Source::Counter(counter) => (counter.as_fd(), PollFlags::IN),
            Source::Events(file, _) => (file.as_fd(), PollFlags::PRI),
        };
        PollFd::from_borrowed_fd(fd, flags)
    }

    /// How many there were since the last time.
    pub fn take(&mut self) -> Result<u64> {
        match &mut self.source {
            Source::Counter(counter) => {
                let mut number = [0; 8];
                let new = match rustix::io::read(counter, &mut number) {
                    Ok(_) => u64::from_ne_bytes(number),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
                    Err(error) => return Err(error).during("read", "event counter"),
                };
                let removed = fs::metadata(&self.path).is_err();
                Ok(new.saturating_sub(u64::from(removed)))
            }
            Source::Events(file, before) => {
                // From the start each time: that also arms the next announcement.
                let mut text = [0; 512];
                let length = match file.read_at(&mut text, 0).during("read", self.path.display()) {
                    Err(error) if gone(&error) => return Ok(0),
                    other => other?,
                };
                let now = field(&String::from_utf8_lossy(&text[..length]), "oom_kill");
                let new = now.saturating_sub(*before);
                *before = now;
                Ok(new)
            }
        }
    }
}
