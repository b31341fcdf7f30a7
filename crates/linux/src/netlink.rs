//! Blocking netlink: messages built by attributes, sent many at a time, answered with the kernel's own words.
//!
//! One builder of our own serves route netlink and nfnetlink alike: nf_tables needs one anyway, and with it the dozen
//! route messages that a container takes are shorter than their typed counterparts of a library.
#![allow(unsafe_code, reason = "socket options of netlink and unshare have no safe wrapper")]

mod events;
mod message;
mod socket;

pub use events::Events;
pub use message::{Attributes, Message, Reply};
pub use socket::Socket;

use std::os::fd::OwnedFd;

use crate::{Result, ResultExt};

/// nf_tables' number among the subsystems of nfnetlink: the high byte of its message types.
pub const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// Wraps nf_tables messages in one transaction: all of them, or none.
#[must_use]
pub fn transaction(messages: Vec<Message>) -> Vec<Message> {
    let edge = |kind| {
        let message = Message::new(kind, 0, &[0, 0, 0, NFTABLES.to_be_bytes()[1]]).named("change", "nf_tables");
        Message { frame: true, ..message }
    };
    let mut batch = Vec::with_capacity(messages.len() + 2);
    batch.push(edge(BATCH_BEGIN));
    batch.extend(messages);
    batch.push(edge(BATCH_END));
    batch
}

/// Opens the network namespace of the calling thread.
pub fn own_namespace() -> Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).during("open", path)
}

/// Moves the calling thread, and no other, to a network namespace of its own.
pub fn enter_new_namespace() -> Result<()> {
    // SAFETY: CLONE_NEWNET concerns only the calling thread and no memory or descriptor of it.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).during("unshare", "network namespace") }
}
