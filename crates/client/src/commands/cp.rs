//! `cp`: files between a container and this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use gantry_api::container::PathStat;
use http::HeaderMap;
use http_body_util::BodyExt as _;

use crate::archive::{self, Place, base_of, parent_of};
use crate::body::{self, Body, BodyReader};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query, broken, segment};
use crate::failure::{Failure, Result, reason};
use crate::format::size;
use crate::printer::{self, Output};

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-", "[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"],
    "Copy files/folders between a container and the local filesystem",
    Arity::Exactly(2),
    |context, flags| Box::pin(run(context, flags)),
)
.details(
    "With '-' as the source, a tar archive is read from stdin and extracted in a\ndirectory of the container. \
     With '-' as the destination, what is in the container\nis written to stdout as a tar archive.",
)
.flags(&[&[
    Flag::switch("archive", "Archive mode (copy all uid/gid information)").short('a'),
    Flag::switch("follow-link", "Always follow symbol link in SRC_PATH").short('L'),
    Flag::switch("quiet", "Suppress the message after a copy (there is none without a terminal)").short('q'),
]]);

/// Bits of Go's file modes.
const GO_DIRECTORY: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
/// How many links are followed.
const LINKS: usize = 40;

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let source = split(&flags.args[0]);
    let destination = split(&flags.args[1]);
    for (container, path) in [source, destination] {
        if let (Some(container), "") = (container, path) {
            return Err(Failure::new(format!("{container}: a path must follow the colon")));
        }
    }
    match (source, destination) {
        ((Some(_), _), (Some(_), _)) => Err(Failure::new("copying between containers is not supported")),
        ((None, _), (None, _)) => Err(Failure::new("must specify at least one container source")),
        ((Some(container), source), (None, destination)) => {
            let daemon = context.daemon().await?;
            from_container(&daemon, container, source, destination, &flags).await
        }
        ((None, source), (Some(container), destination)) => {
            let daemon = context.daemon().await?;
            to_container(&daemon, source, container, destination, &flags).await
        }
    }
}

/// `container:path`; what begins with a slash or a dot is a local path, whatever follows.
fn split(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with(['/', '.']) {
        return (None, argument);
    }
    match argument.split_once(':') {
        Some((container, path)) if !container.is_empty() => (Some(container), path),
        _ => (None, argument),
    }
}

fn path_of(container: &str) -> String {
    format!("/containers/{}/archive", segment(container))
}

fn stat_of(headers: &HeaderMap) -> Result<PathStat> {
    let lost = || Failure::new("the daemon's answer does not say what is at the path");
    let header = headers.get("x-docker-container-path-stat").ok_or_else(lost)?;
    let json = base64::engine::general_purpose::STANDARD.decode(header).map_err(|_| lost())?;
    Ok(serde_json::from_slice(&json)?)
}

async fn stat(daemon: &Daemon, container: &str, path: &str) -> Result<PathStat> {
    stat_of(&daemon.head(&path_of(container), &Query::new().with("path", path)).await?)
}

/// Where a link that is at `path` leads.
fn link_target(path: &str, stat: &PathStat) -> String {
    if stat.link_target.starts_with('/') {
        return stat.link_target.clone();
    }
    let parent = parent_of(path);
    let target = PathBuf::from(if parent == "." { "/" } else { parent }).join(&stat.link_target);
    crate::flags::volumes::absolute(&target.to_string_lossy(), Path::new("/"))
}

async fn from_container(
    daemon: &Daemon,
    container: &str,
    source: &str,
    destination: &str,
    flags: &Parsed,
) -> Result<u8> {
    let mut path = source.to_owned();
    if flags.on("follow-link")
        && let Ok(found) = stat(daemon, container, source).await
        && found.mode & GO_SYMLINK != 0
    {
        path = link_target(source, &found);
    }
    let answer = daemon.get_stream(&path_of(container), &Query::new().with("path", &path)).await?;
    let found = stat_of(answer.headers())?;
    let mut stream = answer.into_body();
    if destination == "-" {
        while let Some(frame) = stream.frame().await {
            if let Ok(bytes) = frame.map_err(broken)?.into_data() {
                Output::Out.stream(&bytes).await?;
            }
        }
        return Ok(0);
    }
    let is_dir = found.mode & GO_DIRECTORY != 0;
    let place = Place { path: source.to_owned(), exists: true, is_dir };
    let target = local_destination(destination)?;
    let plan = archive::plan(&place, &target).map_err(Failure::new)?;
    let (reader, sender) = BodyReader::new();
    let feeding = tokio::spawn(body::feed(stream, sender));
    let archive_mode = flags.on("archive");
    // The stream's topmost name: that of what the daemon archived, unless only what is inside was asked for.
    let top = match base_of(&path) {
        // What that is only the daemon knows; the root has no name at all.
        Some("..") => Some(found.name).filter(|name| name != "/"),
        base => base.map(str::to_owned),
    };
    let directory = PathBuf::from(&plan.directory);
    let name = plan.name.clone();
    let done = tokio::task::spawn_blocking(move || {
        archive::unpack(reader, top.as_deref(), name.as_deref(), &directory, archive_mode)
    })
    .await
    .map_err(|error| Failure::new(error.to_string()))?
    .map_err(|error| Failure::new(error.to_string()))?;
    feeding.abort();
    for device in &done.devices {
        let device = Path::new(&plan.directory).join(device);
        printer::error_line(&format!("{}: a device node is copied with --archive only", device.display()));
    }
    report(flags, done.bytes, destination);
    Ok(0)
}

/// What is at the local destination, through a link if it is one.
fn local_destination(path: &str) -> Result<Place> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Place { path: path.to_owned(), exists: true, is_dir: metadata.is_dir() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = parent_of(path);
            if std::fs::metadata(parent).is_ok_and(|metadata| metadata.is_dir()) {
                return Ok(Place { path: path.to_owned(), exists: false, is_dir: false });
            }
            Err(Failure::new(format!("invalid output path: directory {parent:?} does not exist")))
        }
        Err(error) => Err(Failure::new(format!("{path}: {}", reason(&error)))),
    }
}

async fn to_container(daemon: &Daemon, source: &str, container: &str, destination: &str, flags: &Parsed) -> Result<u8> {
    let target = container_destination(daemon, container, destination).await?;
    let sent = Arc::new(AtomicU64::new(0));
    let (directory, body) = if source == "-" {
        if !target.is_dir {
            return Err(Failure::new(format!("destination \"{container}:{destination}\" must be a directory")));
        }
        (target.path.clone(), counted(std::io::stdin(), sent.clone()))
    } else {
        let (path, place) = local_source(source, flags.on("follow-link"))?;
        let plan = archive::plan(&place, &target).map_err(Failure::new)?;
        let (name, counter) = (plan.name, sent.clone());
        let body = Body::written(move |writer| {
            let mut counting = Counting { inner: writer, count: &counter };
            archive::pack(&path, name.as_deref(), &mut counting)
        });
        (plan.directory, body)
    };
    let query = Query::new()
        .with("path", if directory == "." { "/" } else { &directory })
        .with("noOverwriteDirNonDir", "true")
        .with_text("copyUIDGID", if flags.on("archive") { "true" } else { "" });
    daemon.put(&path_of(container), &query, body).await?;
    report(flags, sent.load(Ordering::Relaxed), &format!("{container}:{destination}"));
    Ok(0)
}

/// What is at the container's path, through links: they are followed here as inside the container.
async fn container_destination(daemon: &Daemon, container: &str, destination: &str) -> Result<Place> {
    let mut path = destination.to_owned();
    for _ in 0..LINKS {
        // Asked for with its slash, what is no directory would be an error without words: the answer to HEAD has none.
        let asked = Some(path.trim_end_matches('/')).filter(|path| !path.is_empty()).unwrap_or("/");
        match stat(daemon, container, asked).await {
            Ok(found) if found.mode & GO_SYMLINK != 0 => path = link_target(&path, &found),
            Ok(found) => return Ok(Place { path, exists: true, is_dir: found.mode & GO_DIRECTORY != 0 }),
            Err(failure) if failure.is_not_found() => return missing(daemon, container, path, failure).await,
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::new(format!("{container}:{destination}: too many links")))
}

/// Nothing is there: its directory decides whether something can be made there. A container that is not there itself
/// answers the same, and its message is the better one.
async fn missing(daemon: &Daemon, container: &str, path: String, failure: Failure) -> Result<Place> {
    let parent = match parent_of(&path) {
        "." => "/",
        parent => parent,
    };
    match daemon.get_stream(&path_of(container), &Query::new().with("path", parent)).await {
        Ok(_) => Ok(Place { path, exists: false, is_dir: false }),
        Err(better) if better.is_not_found() => Err(better),
        Err(_) => Err(failure),
    }
}

/// The local source: what to read, and what the rules should think of it.
fn local_source(source: &str, follow: bool) -> Result<(PathBuf, Place)> {
    let failed = |error: std::io::Error| Failure::new(format!("lstat {source}: {}", reason(&error)));
    let through = follow || source.ends_with('/') || source.ends_with("/.") || source == ".";
    let path = if through { std::fs::canonicalize(source).map_err(failed)? } else { PathBuf::from(source) };
    let metadata = std::fs::symlink_metadata(&path).map_err(failed)?;
    Ok((path, Place { path: source.to_owned(), exists: true, is_dir: metadata.is_dir() }))
}

struct Counting<'a, W> {
    inner: W,
    count: &'a AtomicU64,
}

impl<W: std::io::Write> std::io::Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn counted(mut reader: impl std::io::Read + Send + 'static, count: Arc<AtomicU64>) -> Body {
    Body::written(move |writer| {
        let mut counting = Counting { inner: writer, count: &count };
        std::io::copy(&mut reader, &mut counting).map(drop)
    })
}

fn report(flags: &Parsed, bytes: u64, destination: &str) {
    if flags.on("quiet") || !Output::Err.is_terminal() {
        return;
    }
    let shown = size::human(i64::try_from(bytes).unwrap_or(i64::MAX));
    printer::error_line(&format!("Successfully copied {shown} to {destination}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_what_stands_before_the_colon() {
        assert_eq!(split("web:/etc"), (Some("web"), "/etc"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("-"), (None, "-"));
        assert_eq!(split("web:"), (Some("web"), ""));
    }

    #[test]
    fn links_of_a_container_are_resolved_inside_it() {
        let link = |target: &str| PathStat { link_target: target.into(), ..PathStat::default() };
        assert_eq!(link_target("/a/l", &link("b/c")), "/a/b/c");
        assert_eq!(link_target("/a/l", &link("../../../etc")), "/etc");
        assert_eq!(link_target("/a/l", &link("/x")), "/x");
    }
}
