//! What daemon and resolver say to each other: one packet per message, JSON with descriptors beside. A daemon speaks to
//! resolvers that an older one started: only additions, or a new [`VERSION`], and then the old one is let go.

use std::os::fd::{AsFd, BorrowedFd};

use gantry_linux::socket::{self, Packet};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::world::Resident;

/// Of the messages.
pub const VERSION: u32 = 1;
/// The directory below the exec root.
pub const ADDRESS: &str = "names";
/// The socket in it.
pub const SOCKET: &str = "s";

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Who are you? Answered by [`Reply::Hello`].
    Hello {
        /// The daemon's.
        version: u32,
    },
    /// Takes a container in, or what is new about it. Its sockets come beside (datagrams, streams, and a pidfd that tells
    /// when they are to be given back) unless it keeps those that it has.
    Put(Box<Resident>),
    /// Forgets a container.
    Remove {
        /// Its id.
        container: String,
    },
    /// Forgets every container but these.
    Keep {
        /// Their ids.
        containers: Vec<String>,
    },
    /// Everything before this is done when [`Reply::Synced`] comes.
    Sync {
        /// Comes back.
        id: u64,
    },
    /// Another one takes over.
    Leave,
}

/// From the resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// See [`Order::Hello`].
    Hello {
        /// The resolver's.
        version: u32,
        /// How many containers it answers.
        containers: usize,
    },
    /// The sockets of a container were not all that is needed, and it keeps those that it had.
    Incomplete {
        /// Its id.
        container: String,
        /// So many descriptors came.
        descriptors: usize,
    },
    /// See [`Order::Sync`].
    Synced {
        /// As it was sent.
        id: u64,
    },
}

/// Sends a message.
pub fn send(to: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> gantry_linux::Result<()> {
    let bad = |error| gantry_linux::Error::new("encode", "message", std::io::Error::from(error));
    socket::send(to, &serde_json::to_vec(message).map_err(bad)?, fds)
}

/// Understands a packet.
pub fn understand<T: DeserializeOwned>(packet: &Packet) -> gantry_linux::Result<T> {
    serde_json::from_slice(&packet.data)
        .map_err(|error| gantry_linux::Error::new("understand", "message", std::io::Error::from(error)))
}

/// Sends a message that must fit at once.
pub fn try_send(to: impl AsFd, message: &impl Serialize) -> gantry_linux::Result<()> {
    let bad = |error| gantry_linux::Error::new("encode", "message", std::io::Error::from(error));
    socket::try_send(to, &serde_json::to_vec(message).map_err(bad)?, &[])
}
