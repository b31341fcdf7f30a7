//! Jobs: the smallest unit of work of the daemon, shaped like a Unix process and typed.
//!
//! A job is a struct (its arguments) with a constant name and a typed output. [`crate::Engine::run`] is the only one to
//! run it, and does for each the same: refuse when shutting down, an id, a parent, a line in the log, a place in the
//! table of jobs, cancellation.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use gantry_api::ApiVersion;
use gantry_api::jobs::JobHandler;
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::error::Result;
use crate::policy::{Door, Known, Subject};

/// One kind of work.
pub trait Job: Send + 'static {
    /// Docker 1.2's name where it had one.
    const NAME: &'static str;
    /// One line of what it does.
    const DOC: &'static str;
    /// How the engine treats it.
    const CLASS: Class;
    /// Whether it changes nothing: what a read-only door lets pass, and the audit log leaves out.
    const READS: bool = matches!(Self::CLASS, Class::Read);
    /// What it returns.
    type Output: Send + 'static;

    /// What it is about, for the policy of a door. What says nothing is about the whole daemon.
    fn subject(&self) -> Subject<'_> {
        Subject::Daemon
    }

    /// Puts ids for the names of what it is about, as the policy of a door knows them: what was judged is what the job
    /// is done to, whatever is called so by then.
    fn identify(&mut self, _known: &Known<'_>) {}

    /// Its arguments, as a person would write them.
    fn arguments(&self) -> String {
        String::new()
    }

    /// Does the work.
    fn run(self, context: Context) -> impl Future<Output = Result<Self::Output>> + Send;
}

/// What happens to a job when its caller goes away, and how it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Reads and returns at once; ends with its caller; logged only for debugging.
    Read,
    /// Streams to its caller for as long as both want (logs, events, attach, wait); ends with its caller, can be cancelled.
    Stream,
    /// Changes state; goes on to its end when the caller goes away.
    Change,
    /// Changes state for long (pull, serveapi); goes on when the caller goes away, can be cancelled.
    Long,
}

impl Class {
    /// Whether a person may cancel such a job.
    #[must_use]
    pub const fn cancellable(self) -> bool {
        matches!(self, Self::Stream | Self::Long)
    }

    pub(crate) const fn outlives_caller(self) -> bool {
        matches!(self, Self::Change | Self::Long)
    }
}

/// Who asked for a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Caller {
    /// The daemon itself: restart policies, recovery.
    #[default]
    Daemon,
    /// A process on this machine.
    Process {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its process id.
        pid: i32,
    },
    /// A peer on the network.
    Remote {
        /// From where.
        address: std::net::SocketAddr,
        /// Whom the certificate is for that it showed.
        subject: Option<Arc<str>>,
    },
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Daemon => f.write_str("daemon"),
            Self::Process { uid, pid, .. } => write!(f, "uid={uid} pid={pid}"),
            Self::Remote { address, subject: None } => write!(f, "{address}"),
            Self::Remote { address, subject: Some(subject) } => write!(f, "{subject} at {address}"),
        }
    }
}

/// A job's environment.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The version that the caller speaks.
    pub version: Option<ApiVersion>,
    /// Who asked.
    pub caller: Caller,
    /// Which job started this one.
    pub parent: Option<u64>,
    /// The door that the caller came in by; none is the daemon's own.
    pub door: Option<Arc<Door>>,
}

impl Environment {
    /// Whether the caller may see what has these labels.
    pub(crate) fn shows(&self, labels: &BTreeMap<String, String>) -> bool {
        self.door.as_ref().is_none_or(|door| door.shows(labels))
    }

    /// The caller's version, the newest where it named none.
    #[must_use]
    pub fn version(&self) -> ApiVersion {
        self.version.unwrap_or(ApiVersion::NEWEST)
    }
}

/// What a running job gets.
#[derive(Clone)]
pub struct Context {
    /// The engine that runs it.
    pub engine: Arc<Engine>,
    /// Its number.
    pub id: u64,
    /// Its environment.
    pub environment: Environment,
    /// Ends when the job should stop and undo what it began.
    pub cancelled: CancellationToken,
}

impl Context {
    /// Runs a child job in the same environment.
    ///
    /// # Errors
    /// As the job.
    pub async fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        let environment = Environment { parent: Some(self.id), ..self.environment.clone() };
        self.engine.run(job, environment).await
    }
}

/// A line of the table of handlers.
#[derive(Debug, Clone, Copy)]
pub struct Handler {
    /// The job's name.
    pub name: &'static str,
    /// One line of what it does.
    pub doc: &'static str,
    /// How the engine treats it.
    pub class: Class,
}

impl Handler {
    /// As the API shows it.
    #[must_use]
    pub fn describe(&self) -> JobHandler {
        JobHandler { name: self.name.into(), doc: self.doc.into(), cancellable: self.class.cancellable() }
    }
}

/// The line of `J`.
#[must_use]
pub const fn handler<J: Job>() -> Handler {
    Handler { name: J::NAME, doc: J::DOC, class: J::CLASS }
}
