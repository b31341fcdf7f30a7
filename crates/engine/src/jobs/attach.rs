//! `attach`: gives a client's connection to a container's supervisor. The daemon is not in the data path after that.

use gantry_execdriver::Attach as DriverAttach;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::logs::{Query, Reader};
use crate::policy::{Known, Subject};
use crate::stream::{Connection, Hijack, Opening};

/// Attaches a client.
pub struct Attach {
    /// Name or id.
    pub container: String,
    /// Which streams.
    pub stdin: bool,
    /// See `stdin`.
    pub stdout: bool,
    /// See `stdin`.
    pub stderr: bool,
    /// Send what was logged so far first.
    pub logs: bool,
    /// Stay attached.
    pub stream: bool,
    /// The connection.
    pub hijack: Hijack,
}

impl Job for Attach {
    const NAME: &'static str = "attach";
    const DOC: &'static str = "connects a client with a container's standard streams";
    const CLASS: Class = Class::Stream;
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
        let engine = &context.engine;
        let container = engine.containers.get(&self.container)?;
        let record = container.record();
        if record.state.to_api().paused {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                self.container
            )));
        }
        self.hijack.check_input(self.stdin && self.stream && record.config.open_stdin)?;
        let arrival = container.arrival();
        let mut phases = container.phases();
        let ends = phases.borrow_and_update().ends;
        let connection = self.hijack.take(Opening { terminal: record.config.tty }).await?;
        if self.logs || container.running().is_some() {
            // Something may be sent at once.
            connection.head_taken().await;
        }
        let Connection { stream, early } = connection;
        if self.logs {
            let path = record.log_path(&engine.options.data_root);
            let query =
                Query { stdout: self.stdout, stderr: self.stderr, framed: !record.config.tty, ..Query::default() };
            let copy = stream.try_clone().map_err(|e| Error::system(format!("duplicate the connection: {e}")))?;
            replay(path, query, copy).await?;
        }
        if !self.stream {
            return Ok(());
        }
        engine.events.publish("container", "attach", container.id(), record.event_attributes());
        let watched = stream.try_clone().map_err(|e| Error::system(format!("duplicate the connection: {e}")))?;
        let attach = DriverAttach {
            stream,
            early_input: early,
            stdin: self.stdin && record.config.open_stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        };
        let subject = std::sync::Arc::clone(&container);
        let waiting = blocking(move || Ok(subject.attach(attach)?)).await?;
        drop(arrival);
        let over = async move { phases.wait_for(|phase| phase.ends > ends || phase.removed).await.map(|_| ()) };
        let ended = super::exec_start::until_over(watched, &context.cancelled, over).await;
        if let Some(number) = waiting {
            container.forget_waiting(number);
        }
        ended
    }
}

/// Sends the log so far.
async fn replay(path: std::path::PathBuf, query: Query, connection: std::os::fd::OwnedFd) -> Result<()> {
    blocking(move || {
        let mut reader = Reader::open(path, query)?;
        loop {
            let batch = reader.batch()?;
            if batch.is_empty() {
                return Ok(());
            }
            send_all(&connection, &batch)?;
        }
    })
    .await
}

/// Writes everything to a non-blocking socket; a client that takes nothing for ten seconds is cut off.
pub(super) fn send_all(connection: &std::os::fd::OwnedFd, mut bytes: &[u8]) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let failed = |e: rustix::io::Errno| Error::system(format!("write to the client: {e}"));
    while !bytes.is_empty() {
        match rustix::net::send(connection, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(length) => bytes = &bytes[length..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
                if poll(&mut [PollFd::new(connection, PollFlags::OUT)], Some(&timeout)).map_err(failed)? == 0 {
                    return Err(Error::system("write to the client: it has taken nothing for 10 s"));
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
