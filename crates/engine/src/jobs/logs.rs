//! `logs`: a container's output so far, and with `follow` what comes.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::container::{Container, State};
use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::logs::{Query, Reader};
use crate::policy::{Known, Subject};
use crate::stream::{Opening, Outlet};

/// Streams a container's log.
pub struct Logs {
    /// Name or id.
    pub container: String,
    /// Which lines.
    pub query: Query,
    /// Go on until the container ends.
    pub follow: bool,
    /// Gets the bytes.
    pub outlet: Outlet,
}

impl Job for Logs {
    const NAME: &'static str = "logs";
    const DOC: &'static str = "streams a container's output";
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
        format!("{}{}", self.container, if self.follow { " --follow" } else { "" })
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        let record = container.record();
        if !self.query.stdout && !self.query.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        if record.host_config.log_config.kind == "none" {
            return Err(Error::not_implemented("configured logging driver does not support reading"));
        }
        let path = record.log_path(&context.engine.options.data_root);
        let watch = self.follow.then(|| Watch::on(&record.directory(&context.engine.options.data_root))).transpose()?;
        let query = Query { framed: !record.config.tty, ..self.query.clone() };
        let reader = blocking(move || Reader::open(path, query)).await?;
        self.outlet.open(Opening { terminal: record.config.tty });
        tokio::select! {
            () = context.cancelled.cancelled() => Ok(()),
            result = stream(&mut self.outlet, reader, watch, &container) => result,
        }
    }
}

async fn stream(
    outlet: &mut Outlet,
    mut reader: Reader,
    watch: Option<Watch>,
    container: &Arc<Container>,
) -> Result<()> {
    let mut phases = container.phases();
    loop {
        // Looked at before reading: an end that is seen here has all its lines in the file.
        let (active, removed) = {
            let phase = phases.borrow_and_update();
            (phase.active, phase.removed)
        };
        // One that never ran is waited for.
        let over = removed || (!active && !matches!(container.record().state, State::Created { failure: None }));
        let (batch, returned) = blocking(move || Ok((reader.batch()?, reader))).await?;
        reader = returned;
        if !batch.is_empty() {
            if !outlet.send(batch).await {
                return Ok(());
            }
            continue;
        }
        let Some(watch) = watch.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            changed = watch.changed() => changed?,
            _ = phases.changed() => {}
            () = outlet.closed() => return Ok(()),
        }
    }
}

/// Wakes when something is written in a container's directory.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn on(directory: &Path) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| Error::system(format!("watch {}: {e}", directory.display()));
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).map_err(|e| failed(&e))?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, directory, events).map_err(|e| failed(&e))?;
        #[allow(
            deprecated,
            reason = "the newer constructor is unsafe for types whose descriptor may change; an OwnedFd's cannot"
        )]
        let watched = AsyncFd::new(fd).map_err(|e| failed(&e))?;
        Ok(Self(watched))
    }

    async fn changed(&self) -> Result<()> {
        let failed = |e: std::io::Error| Error::system(format!("watch a log: {e}"));
        let mut ready = self.0.readable().await.map_err(failed)?;
        let mut buffer = [0_u8; 4096];
        // What changed does not matter, only that something did.
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|length| length > 0) {}
        ready.clear_ready();
        Ok(())
    }
}
