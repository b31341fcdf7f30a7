//! The library's side: a keeper for each handle, asked through a socket of its own for each call, so that threads do not
//! wait for each other here.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gantry_linux::{ResultExt, executable, socket};
use libcontainer::runtime::{Container, Runtime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::call::{Answer, Call, Kind, Refusal, What};
use crate::keeper;

#[cfg(keeper_inside)]
const KEEPER: &[u8] = include_bytes!(env!("LIBCONTAINER_KEEPER"));
#[cfg(not(keeper_inside))]
const KEEPER: &[u8] = &[];

/// So long a keeper may take to begin.
const BEGINNING: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Refusal>;

/// The containers below one directory, and their keeper.
#[derive(Debug)]
pub struct Handle {
    root: String,
    control: OwnedFd,
}

impl Handle {
    /// Starts the keeper. It ends when the handle is dropped; the containers do not.
    pub fn open(root: String) -> Result<Self> {
        let control = start(&root)?;
        Ok(Self { root, control })
    }

    /// A container, looked at without the keeper.
    pub fn container(&self, id: &str) -> Result<Container> {
        Runtime::new(&self.root).open(id).map_err(|error| Refusal::from(error).of(id))
    }

    /// Asks the keeper. `limit` is for the answer, not for what is done.
    pub fn call(&self, id: &str, what: What, streams: &[OwnedFd], limit: Option<Duration>) -> Answer {
        let (reply, theirs) = socket::pair()?;
        let call = Call { root: self.root.clone(), id: id.to_owned(), what };
        let text = serde_json::to_vec(&call).map_err(|error| Refusal::invalid(error.to_string()))?;
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd()).chain(streams.iter().map(AsFd::as_fd)).collect();
        socket::send(&self.control, &text, &fds).map_err(|error| gone(&error.to_string()))?;
        drop(theirs);
        if !is_readable(&reply, limit)? {
            return Err(Refusal::new(Kind::Timeout, format!("wait for {id}: it has not ended in time")));
        }
        let packet = socket::receive(&reply)?.ok_or_else(|| gone("no answer"))?;
        let answer: Answer = serde_json::from_slice(&packet.data).map_err(|error| gone(&error.to_string()))?;
        answer.map_err(|refusal| refusal.of(id))
    }
}

fn gone(why: &str) -> Refusal {
    let text = format!("ask the keeper of this handle: {why}: it was killed; open the directory again");
    Refusal::new(Kind::Internal, text)
}

/// Waits until there is something to read; false when there is not in time.
pub fn is_readable(fd: impl AsFd, limit: Option<Duration>) -> Result<bool> {
    let end = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(gantry_linux::Error::new("wait for", "answer", error).into()),
        }
    }
}

/// Starts the keeper from memory; the socket on which it listens. The caller may have any number of threads: the C
/// library starts the program without running anything of theirs in between.
fn start(root: &str) -> Result<OwnedFd> {
    if KEEPER.is_empty() {
        let text = "this build of the library has no keeper inside; build it with `cargo xtask c-library`";
        return Err(Refusal::new(Kind::Internal, text));
    }
    let program = high(executable::sealed(keeper::NAME, KEEPER)?)?;
    let (control, theirs) = socket::pair()?;
    let null = || -> Result<Stdio> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        Ok(Stdio::from(high(null.during("open", "/dev/null")?)?))
    };
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0(keeper::NAME).arg(root).env_clear();
    command.stdin(Stdio::from(high(theirs)?)).stdout(null()?).stderr(null()?);
    let mut first = command.spawn().during("start", keeper::NAME)?;
    // Else this end of the keeper's socket stays open here.
    drop(command);
    // It has left its work to a child of its own and ended. Somebody else in this process may have reaped it.
    let _ = first.wait();
    let control = high(control)?;
    if !is_readable(&control, Some(BEGINNING))? {
        return Err(gone("it does not begin"));
    }
    match socket::receive(&control)? {
        Some(packet) if packet.data.is_empty() => Ok(control),
        Some(packet) => Err(Refusal::new(Kind::System, String::from_utf8_lossy(&packet.data))),
        None => Err(gone("it ended at once")),
    }
}

/// A descriptor that is none of the standard streams', which the caller may have closed.
fn high(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3).during("duplicate", "descriptor")?)
}
