//! `container_copy`, `container_put`, `container_stat_path`, `export`: a container's files as tar streams. How the root
//! is had, and how it stays safe from the container, is in [`crate::archive`] and [`gantry_graphdriver::transfer`].

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use gantry_api::container::PathStat;
use gantry_execdriver::Running;
use gantry_graphdriver::transfer;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::archive::{bare_root_of, root_of, translate};
use crate::container::{Container, State};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};
use crate::spec::users::as_root;
use crate::stream::{Cancellable, Inlet, Opening, Outlet};

/// How long the end of a container may take to be known once its supervisor does not answer.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Says what is at a path.
pub struct ArchiveStat {
    /// Name or id.
    pub container: String,
    /// In the container.
    pub path: String,
}

/// Sends what is at a path as an archive.
pub struct ArchiveGet {
    /// Name or id.
    pub container: String,
    /// In the container.
    pub path: String,
    /// Gets what is at the path before the first byte.
    pub stat: oneshot::Sender<PathStat>,
    /// Gets the archive.
    pub outlet: Outlet,
}

/// Unpacks an archive into a directory.
pub struct ArchivePut {
    /// Name or id.
    pub container: String,
    /// A directory in the container.
    pub path: String,
    /// Refuse to replace a directory by something else, and the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Everything belongs to the container's user instead of to whom the archive says.
    pub copy_uid_gid: bool,
    /// The archive: gzip, zstd, xz, bzip2 or plain.
    pub body: Inlet,
}

/// Sends a container's own files as an archive, without its volumes.
pub struct Export {
    /// Name or id.
    pub container: String,
    /// Gets the archive.
    pub outlet: Outlet,
}

impl Job for ArchiveStat {
    const NAME: &'static str = "container_stat_path";
    const DOC: &'static str = "says what is at a path of a container";
    const CLASS: Class = Class::Read;
    type Output = PathStat;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{}:{}", self.container, self.path)
    }

    async fn run(self, context: Context) -> Result<PathStat> {
        let container = find(&context.engine, &self.container, &self.path)?;
        let Self { container: name, path } = self;
        with_root(&context.engine, &container, root_of, move |root, _| stat(&root, &name, &path)).await
    }
}

impl Job for ArchiveGet {
    const NAME: &'static str = "container_copy";
    const DOC: &'static str = "sends a container's files as an archive";
    const CLASS: Class = Class::Stream;
    const READS: bool = true;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{}:{}", self.container, self.path)
    }

    async fn run(self, context: Context) -> Result<()> {
        let container = find(&context.engine, &self.container, &self.path)?;
        let Self { container: name, path, stat: told, mut outlet } = self;
        let cancelled = context.cancelled.clone();
        let events = Arc::clone(&context.engine);
        let sending = with_root(&context.engine, &container, root_of, move |root, container| {
            // A caller that is gone is noticed at the first byte.
            let _ = told.send(stat(&root, &name, &path)?);
            publish(&events, container, "archive-path", &path);
            outlet.open(Opening::default());
            let owners = container.record().users.clone();
            send(outlet, cancelled, |output| {
                let normal = transfer::normal(path.as_bytes());
                transfer::pack(root.as_fd(), &normal, transfer::base(&normal), output, owners.as_ref())
            })
        });
        until_cancelled(&context, sending).await
    }
}

impl Job for ArchivePut {
    const NAME: &'static str = "container_put";
    const DOC: &'static str = "unpacks an archive into a directory of a container";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{}:{}", self.container, self.path)
    }

    async fn run(self, context: Context) -> Result<()> {
        let container = find(&context.engine, &self.container, &self.path)?;
        let engine = Arc::clone(&context.engine);
        with_root(&context.engine, &container, root_of, move |root, container| put(self, &engine, container, &root))
            .await
    }
}

impl Job for Export {
    const NAME: &'static str = "export";
    const DOC: &'static str = "sends a container's own files as an archive";
    const CLASS: Class = Class::Stream;
    const READS: bool = true;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        match container.record().state {
            State::Dead(_) => {
                return Err(Error::conflict(format!("You cannot export container {} which is Dead", container.id())));
            }
            State::Removing(_) => {
                let id = container.id();
                return Err(Error::conflict(format!("You cannot export container {id} which is being removed")));
            }
            _ => {}
        }
        let mut outlet = self.outlet;
        let cancelled = context.cancelled.clone();
        let events = Arc::clone(&context.engine);
        let sending = with_root(&context.engine, &container, bare_root_of, move |root, container| {
            outlet.open(Opening::default());
            publish(&events, container, "export", "");
            let owners = container.record().users.clone();
            send(outlet, cancelled, |output| transfer::pack_root(root.as_fd(), output, owners.as_ref()))
        });
        until_cancelled(&context, sending).await
    }
}

fn find(engine: &Engine, name: &str, path: &str) -> Result<Arc<Container>> {
    if path.is_empty() {
        return Err(Error::invalid("bad parameter: path cannot be empty"));
    }
    engine.containers.get(name)
}

/// The caller's end of the stream goes with the job, so that a thread that waits for a slow caller ends too.
async fn until_cancelled(context: &Context, sending: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        () = context.cancelled.cancelled() => Err(Error::unavailable("the job was cancelled")),
        result = sending => result,
    }
}

type RootOf = fn(&Engine, &Container, Option<&dyn Running>) -> Result<OwnedFd>;

/// Runs blocking `work` on a container's root. It goes on to its end, or to its first failed write, when the job is gone.
async fn with_root<T: Send + 'static>(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    root_of: RootOf,
    work: impl FnOnce(OwnedFd, &Container) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    let task = tokio::spawn(async move { guarded(&engine, &container, root_of, work).await });
    task.await.unwrap_or_else(|panic| Err(Error::system(format!("copying crashed: {panic}"))))
}

/// A container that does not run is kept from starting meanwhile, and one that ends meanwhile from starting again: its
/// layer must not be mounted a second time.
async fn guarded<T: Send + 'static>(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    root_of: RootOf,
    work: impl FnOnce(OwnedFd, &Container) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut phases = container.phases();
    loop {
        let ends = phases.borrow_and_update().ends;
        let open = |running: Option<Arc<dyn Running>>| {
            let (engine, container) = (Arc::clone(engine), Arc::clone(container));
            blocking(move || as_root(&container.record(), || root_of(&engine, &container, running.as_deref())))
        };
        let subject = Arc::clone(container);
        let Some(running) = container.running() else {
            let _guard = container.operation.lock().await;
            // It may have started while another operation had the lock.
            if container.running().is_some() {
                continue;
            }
            let root = open(None).await?;
            return blocking(move || as_root(&subject.record(), || work(root, &subject))).await;
        };
        let mut ended = std::pin::pin!(async {
            // An error is the engine's own end.
            let _ = phases.wait_for(|phase| phase.ends > ends || phase.removed).await;
        });
        let root = match open(Some(running)).await {
            Ok(root) => root,
            // It may have ended, which is then about to be known.
            Err(error) => match tokio::time::timeout(END_DEADLINE, ended).await {
                Ok(()) => continue,
                Err(_) => return Err(error),
            },
        };
        let mut working = std::pin::pin!(blocking(move || as_root(&subject.record(), || work(root, &subject))));
        return tokio::select! {
            result = &mut working => result,
            () = &mut ended => {
                let _guard = container.operation.lock().await;
                working.await
            }
        };
    }
}

fn stat(root: &OwnedFd, name: &str, path: &str) -> Result<PathStat> {
    let stat = transfer::stat(root.as_fd(), path.as_bytes()).map_err(|error| missing(error, name, path))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let nanoseconds = i32::try_from(stat.mtime.1).unwrap_or(0);
    let mtime = jiff::Timestamp::new(stat.mtime.0, nanoseconds).unwrap_or_default();
    Ok(PathStat {
        name: text(stat.name),
        size: stat.size,
        mode: stat.mode,
        mtime: mtime.to_string(),
        link_target: text(stat.link_target),
    })
}

fn put(job: ArchivePut, engine: &Engine, container: &Container, root: &OwnedFd) -> Result<()> {
    let ArchivePut { container: name, path, no_overwrite_dir_non_dir, copy_uid_gid, mut body } = job;
    let record = container.record();
    let user = record.config.user.clone();
    let owner = if copy_uid_gid && !user.is_empty() {
        let user = libcontainer::container::resolve_user(root, &user, &[]);
        let user = user.map_err(|error| Error::invalid(error.to_string()))?;
        Some((user.uid, user.gid))
    } else {
        None
    };
    let options = transfer::Options { no_overwrite_dir_non_dir, owner, owners: record.users.as_ref() };
    let cancelled = body.cancelled();
    let mut magic = [0; 4];
    let length =
        read_up_to(&mut body, &mut magic).map_err(|error| Error::system(format!("read the archive: {error}")))?;
    let mut body = BufReader::with_capacity(64 << 10, io::Cursor::new(&magic[..length]).chain(body));
    let mut body = Cancellable { stream: gantry_graph::decompress(&magic[..length], &mut body)?, cancelled };
    let unpacked = transfer::unpack(root.as_fd(), path.as_bytes(), &mut body, options);
    publish(engine, container, "extract-to-dir", &path);
    match unpacked {
        Ok(_) => Ok(()),
        Err(transfer::Error::NotDirectory(_)) => Err(Error::invalid("extraction point is not a directory")),
        Err(transfer::Error::ReadOnly(_)) => Err(Error::forbidden(read_only(container, &path))),
        Err(transfer::Error::System(error)) if is_damage(&error.source) => {
            Err(Error::invalid(format!("refused archive: {error}")))
        }
        Err(error) => Err(missing(error, &name, &path)),
    }
}

/// Whether a compressed stream was found to be damaged or cut short.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) && error.raw_os_error().is_none()
}

/// Fills the buffer unless the stream ends before.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

/// What is read-only: a volume that the path is in, or the root.
fn read_only(container: &Container, path: &str) -> &'static str {
    let path = String::from_utf8_lossy(&transfer::normal(path.as_bytes())).into_owned();
    let record = container.record();
    let within =
        |destination: &str| path.strip_prefix(destination).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if record.mounts.iter().any(|point| !point.rw && within(&point.destination)) {
        "mounted volume is marked read-only"
    } else {
        "container rootfs is marked read-only"
    }
}

/// Docker's sentence where nothing is.
fn missing(error: transfer::Error, name: &str, path: &str) -> Error {
    match error {
        transfer::Error::NotFound(_) => Error::not_found(format!("Could not find the file {path} in container {name}")),
        other => translate(other),
    }
}

fn publish(engine: &Engine, container: &Container, action: &str, path: &str) {
    let mut attributes = container.record().event_attributes();
    if !path.is_empty() {
        attributes.insert("path".into(), path.to_owned());
    }
    engine.events.publish("container", action, container.id(), attributes);
}

/// Writes an archive to the caller, in pieces; a caller that has gone away is no failure.
fn send(
    outlet: Outlet,
    cancelled: CancellationToken,
    pack: impl FnOnce(&mut dyn Write) -> std::result::Result<(), transfer::Error>,
) -> Result<()> {
    let output = Cancellable { stream: outlet.into_writer(), cancelled };
    let mut output = BufWriter::with_capacity(128 << 10, output);
    match pack(&mut output) {
        Err(transfer::Error::System(error)) if is_gone(&error.source) => Ok(()),
        Err(error) => Err(translate(error)),
        Ok(()) => match output.flush() {
            Err(error) if !is_gone(&error) => Err(Error::system(format!("send an archive: {error}"))),
            _ => Ok(()),
        },
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
