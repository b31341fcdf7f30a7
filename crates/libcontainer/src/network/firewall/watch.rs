//! Tells when another program changed the tables, or a firewall beside them.

use std::os::fd::OwnedFd;
use std::time::Instant;

use gantry_linux::netlink::{Events, NFTABLES, Reply};
use gantry_linux::{Result, ResultExt as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Firewall, others};

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const DELETE_RULE: u16 = 8;
const LAST_OF_TABLES: u16 = 14;

/// A subscription to what others do. It has sockets of its own, so that a thread can wait without the firewall's lock.
#[derive(Debug)]
pub struct Watch {
    events: Events,
    table: String,
    stop: OwnedFd,
}

/// Ends a [`Watch`] when it is dropped.
#[derive(Debug)]
pub struct Stop {
    _pipe: OwnedFd,
}

/// What somebody changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Tables of ours: [`Firewall::heal`] is called for.
    pub ours: bool,
    /// What may let pass or block what we let through: [`Firewall::attend`] is called for.
    pub others: bool,
}

impl Watch {
    /// Subscribes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn open(firewall: &Firewall) -> Result<(Self, Stop)> {
        let (stop, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during("make", "pipe")?;
        let events = Events::nftables(&firewall.socket)?;
        Ok((Self { events, table: firewall.table.clone(), stop }, Stop { _pipe: pipe }))
    }

    /// Waits until somebody else changes something that concerns us, or until that time; `None` once [`Stop`] is dropped.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn wait(&mut self, until: Option<Instant>) -> Result<Option<Changed>> {
        loop {
            let mut watched = [PollFd::new(&self.events, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut watched, timeout.as_ref()) {
                Ok(0) => return Ok(Some(Changed::default())),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).during("wait for", "nf_tables changes"),
            }
            if !watched[1].revents().is_empty() {
                return Ok(None);
            }
            let changed = match self.events.read()? {
                Some(events) => events.iter().fold(Changed::default(), |all, event| all.and(self.judge(event))),
                None => Changed { ours: true, others: true },
            };
            // What does not concern us may come without end.
            let late = until.is_some_and(|until| until <= Instant::now());
            if late || changed != Changed::default() {
                return Ok(Some(changed));
            }
        }
    }

    fn judge(&self, event: &Reply) -> Changed {
        let (subsystem, kind) = (event.kind >> 8, event.kind & 0xff);
        if subsystem != NFTABLES || kind > LAST_OF_TABLES {
            return Changed::default();
        }
        let attributes = event.attributes(4);
        // The table's name is the first attribute of every object in one.
        if attributes.text(1).is_some_and(|table| table == self.table) {
            return Changed { ours: true, others: false };
        }
        let others = match kind {
            NEW_TABLE | DELETE_TABLE | NEW_CHAIN | DELETE_CHAIN => true,
            DELETE_RULE => attributes.text(2).is_some_and(|chain| others::is_hook(&chain)),
            _ => false,
        };
        Changed { ours: false, others }
    }
}

impl Changed {
    const fn and(self, other: Self) -> Self {
        Self { ours: self.ours || other.ours, others: self.others || other.others }
    }
}
