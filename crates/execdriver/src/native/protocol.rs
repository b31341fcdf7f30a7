//! What daemon, template and supervisor say to each other: one packet per message, a JSON head, then raw bytes, with
//! descriptors beside. A daemon speaks to supervisors that an older one started: only additions, or a new [`VERSION`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use gantry_linux::socket::{self, Packet};
use libcontainer::config::{Config, Process};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::lxc::Tools;
use crate::{Error, Exit, LogFile, Users};

/// Of the messages between daemon and supervisor.
pub const VERSION: u32 = 1;

/// To the template: fork a process; its end of the connection comes with the message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Fork {
    /// A warm supervisor.
    Supervisor(Spawn),
    /// Another role of the binary.
    Role {
        /// Its name.
        name: String,
        /// The daemon's exec root.
        exec_root: PathBuf,
    },
}

/// How a warm supervisor is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    /// Directory of the containers' directories.
    pub exec_root: PathBuf,
    /// Cgroup below which the leaves are.
    pub cgroup_parent: String,
    /// Names the leaf until it has a container.
    pub name: String,
}

/// To a supervisor. `id` comes back in the reply.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the daemon, unique on the connection.
    pub id: u64,
    /// What is asked.
    pub body: Ask,
}

/// The requests.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Who are you? Answered by [`Done::Hello`].
    Hello { version: u32 },
    /// Start the container; descriptors: the clients' streams. Bytes: seccomp program, then the clients' early input.
    Start(Box<StartOrder>),
    /// A further client; its stream and its early input come with it.
    Attach(ClientOrder),
    /// Signal the first process, or that of an exec.
    Signal { exec: Option<String>, signal: i32 },
    /// Resize the terminal of the container, or of an exec.
    Resize { exec: Option<String>, rows: u16, columns: u16 },
    /// A further process; descriptors and bytes as for a start.
    Exec(Box<ExecOrder>),
    /// A clone of the container's mounts; a descriptor comes with the reply.
    Root,
    /// The network namespace and a route socket inside; both come as descriptors with the reply.
    Network,
    /// A socket for datagrams of IPv4 in the network namespace; a descriptor comes with the reply.
    Datagrams,
    /// Where questions for names arrive: sockets for datagrams and for connections, and a pidfd of the supervisor come as
    /// descriptors with the reply.
    Names,
    /// The processes.
    Pids,
    /// Of a warm supervisor: make the user namespace of the container to come, and a network namespace in it. Descriptors
    /// come with the reply as with [`Tell::Warm`].
    MapUsers(Users),
}

/// See [`crate::Start`].
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see crate::Start")]
pub struct StartOrder {
    pub config: Config,
    pub seccomp: Option<usize>,
    pub log: Option<LogFile>,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub clients: Vec<ClientOrder>,
    /// LXC makes the process, where given.
    #[serde(default)]
    pub lxc: Option<Tools>,
}

/// See [`crate::Exec`].
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see crate::Exec")]
pub struct ExecOrder {
    pub id: String,
    pub process: Process,
    pub seccomp: Option<usize>,
    pub open_stdin: bool,
    pub client: Option<ClientOrder>,
}

/// See [`crate::Attach`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see crate::Attach")]
pub struct ClientOrder {
    pub early_input: usize,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// From a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Tell {
    /// It is warm; descriptors: its network namespace, a route socket inside; then, where the kernel has what they take, those
    /// of [`Ask::Names`].
    Warm,
    /// It cannot become warm.
    Cold(String),
    /// The answer to a request.
    Reply { id: u64, result: Result<Done, Refusal> },
    /// The container has ended; the connection ends after this.
    Exited(Exit),
    /// An exec has ended.
    ExecExited { exec: String, exit: Exit },
}

/// What was done.
#[derive(Debug, Serialize, Deserialize)]
pub enum Done {
    /// See [`Ask::Hello`].
    Hello { version: u32, pid: i32, leaf: String },
    /// The container's program runs.
    Started { pid: i32, leaf: String, warnings: Vec<String> },
    /// The exec's program runs.
    Exec { pid: i32, warnings: Vec<String> },
    /// See [`Ask::Pids`].
    Pids(Vec<i32>),
    /// Nothing to add.
    Ok,
}

/// An [`Error`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// Which kind of error.
    pub kind: Kind,
    /// Its text.
    pub message: String,
}

/// The kinds of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see Error")]
pub enum Kind {
    CommandNotFound,
    CommandNotExecutable,
    Invalid,
    NotFound,
    System,
}

impl Refusal {
    /// Of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.message;
        match refusal.kind {
            Kind::CommandNotFound => Self::CommandNotFound(message),
            Kind::CommandNotExecutable => Self::CommandNotExecutable(message),
            Kind::Invalid => Self::Invalid(message),
            Kind::NotFound => Self::NotFound(message),
            Kind::System => Self::System(message),
        }
    }
}

impl From<libcontainer::Failure> for Refusal {
    fn from(failure: libcontainer::Failure) -> Self {
        let kind = match failure.kind {
            libcontainer::FailureKind::CommandNotFound => Kind::CommandNotFound,
            libcontainer::FailureKind::NotExecutable => Kind::CommandNotExecutable,
            libcontainer::FailureKind::Invalid => Kind::Invalid,
            libcontainer::FailureKind::System => Kind::System,
        };
        Self { kind, message: failure.message }
    }
}

impl From<gantry_linux::Error> for Refusal {
    fn from(error: gantry_linux::Error) -> Self {
        Self::new(Kind::System, error.to_string())
    }
}

impl From<libcontainer::Error> for Refusal {
    fn from(error: libcontainer::Error) -> Self {
        libcontainer::Failure::new("supervisor", &error).into()
    }
}

/// The bytes of a message.
pub fn encode(head: &impl Serialize, blob: &[&[u8]]) -> Result<Vec<u8>, gantry_linux::Error> {
    let mut data = vec![0; 4];
    serde_json::to_writer(&mut data, head)
        .map_err(|error| gantry_linux::Error::new("encode", "message", std::io::Error::from(error)))?;
    let length = u32::try_from(data.len() - 4).unwrap_or(u32::MAX);
    data[..4].copy_from_slice(&length.to_le_bytes());
    for part in blob {
        data.extend_from_slice(part);
    }
    Ok(data)
}

/// A received message.
pub struct Message<T> {
    /// What it says.
    pub head: T,
    /// Raw bytes beside it.
    pub blob: Vec<u8>,
    /// Descriptors beside it.
    pub fds: Vec<OwnedFd>,
}

/// Understands a packet.
pub fn decode<T: DeserializeOwned>(packet: Packet) -> Result<Message<T>, gantry_linux::Error> {
    let bad = |why: String| gantry_linux::Error::new("understand", "message", std::io::Error::other(why));
    let mut data = packet.data;
    let length = data.first_chunk::<4>().map_or(usize::MAX, |bytes| u32::from_le_bytes(*bytes) as usize);
    let end = length.checked_add(4).filter(|end| *end <= data.len()).ok_or_else(|| bad("it is cut short".into()))?;
    let head = serde_json::from_slice(&data[4..end]).map_err(|error| bad(error.to_string()))?;
    Ok(Message { head, blob: data.split_off(end), fds: packet.fds })
}

/// Understands a request; one that is not understood still has its id where that can be read.
pub fn decode_request(packet: Packet) -> Result<Message<Request>, (gantry_linux::Error, Option<u64>)> {
    #[derive(Deserialize)]
    struct Id {
        id: u64,
    }
    let Message { head, blob, fds } = decode::<serde_json::Value>(packet).map_err(|error| (error, None))?;
    let id = Id::deserialize(&head).ok().map(|head| head.id);
    let bad = |error| (gantry_linux::Error::new("understand", "request", std::io::Error::other(error)), id);
    Ok(Message { head: serde_json::from_value(head).map_err(bad)?, blob, fds })
}

/// Sends a message without raw bytes.
pub fn send(socket: impl AsFd, head: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), gantry_linux::Error> {
    socket::send(socket, &encode(head, &[])?, fds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_not_known_can_be_answered() {
        let packet = |head: &serde_json::Value| Packet { data: encode(head, &[]).unwrap(), fds: vec![] };
        let unknown = decode_request(packet(&serde_json::json!({"id": 7, "body": {"Dance": {}}}))).map(drop);
        assert_eq!(unknown.unwrap_err().1, Some(7));
        assert_eq!(decode_request(packet(&serde_json::json!(["what"]))).map(drop).unwrap_err().1, None);
        let known = decode_request(packet(&serde_json::json!({"id": 7, "body": "Pids"}))).unwrap();
        assert!(matches!(known.head, Request { id: 7, body: Ask::Pids }));
    }
}
