//! `exec_start`: runs a prepared process, with the client's connection as its streams.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use gantry_api::stream::{Stream, header};
use gantry_execdriver::{Attach, Error as ExecError, Exec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::watch::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::container::Container;
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::exec::ExecInstance;
use crate::job::{Class, Context, Job};
use crate::policy::Subject;
use crate::spec;
use crate::stream::{Connection, Hijack, Opening, writable};

/// Starts an exec.
pub struct ExecStart {
    /// The exec's id.
    pub exec: String,
    /// The connection; `None` runs it detached.
    pub hijack: Option<Hijack>,
    /// Lines and columns, where the start says them.
    pub console_size: Option<[u16; 2]>,
}

impl Job for ExecStart {
    const NAME: &'static str = "exec_start";
    const DOC: &'static str = "runs a prepared process in a container";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Exec(&self.exec)
    }

    fn arguments(&self) -> String {
        self.exec.clone()
    }

    async fn run(self, context: Context) -> Result<()> {
        let engine = &context.engine;
        let Some((container, exec)) = engine.containers.exec(&self.exec) else {
            return Err(Error::not_found(format!("No such exec instance: {}", self.exec)));
        };
        if container.running().is_none() {
            return Err(Error::conflict(format!("container {} is not running", container.id())));
        }
        if !exec.claim() {
            return Err(Error::conflict(format!("exec {} has already run", exec.id)));
        }
        let Some(hijack) = self.hijack else {
            return launch(engine, &container, &exec, None, self.console_size).await;
        };
        let connection = hijack.take(Opening { terminal: exec.config.tty }).await.inspect_err(|_| exec.ended(126))?;
        connection.head_taken().await;
        let Connection { stream, early } = connection;
        let duplicate = || stream.try_clone().map_err(|e| Error::system(format!("duplicate the connection: {e}")));
        let (watched, told) = (duplicate()?, duplicate()?);
        let attach = Attach {
            stream,
            early_input: early,
            stdin: exec.config.attach_stdin,
            stdout: exec.config.attach_stdout,
            stderr: exec.config.attach_stderr,
        };
        if let Err(error) = launch(engine, &container, &exec, Some(attach), self.console_size).await {
            // The answer's head is sent: the reason goes where the output would.
            let terminal = exec.config.tty;
            let message = error.message.clone();
            blocking(move || tell(&told, terminal, &message)).await?;
            return Err(error);
        }
        drop(told);
        let mut end = exec.end();
        let over = async move { end.wait_for(|ended| *ended).await.map(|_| ()) };
        until_over(watched, &context.cancelled, over).await
    }
}

async fn launch(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    exec: &Arc<ExecInstance>,
    attached: Option<Attach>,
    console_size: Option<[u16; 2]>,
) -> Result<()> {
    let (worker, subject, instance) = (Arc::clone(engine), Arc::clone(container), Arc::clone(exec));
    blocking(move || {
        let started = start(&worker, &subject, &instance, attached, console_size);
        if let Err((code, _)) = &started {
            instance.ended(*code);
        }
        started.map_err(|(_, error)| error)
    })
    .await
}

fn start(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    exec: &Arc<ExecInstance>,
    attached: Option<Attach>,
    console_size: Option<[u16; 2]>,
) -> std::result::Result<(), (i32, Error)> {
    let record = container.record();
    let mut config = exec.config.clone();
    config.console_size = console_size.or(config.console_size);
    let process = spec::exec_process(engine, &record, &config).map_err(|error| (126, error))?;
    let running =
        container.running().ok_or_else(|| (126, Error::conflict(format!("container {} is not running", record.id))))?;
    let request = Exec { id: exec.id.clone(), process, open_stdin: config.attach_stdin, attached };
    let started = running.exec(request).map_err(|error| {
        let code = if matches!(error, ExecError::CommandNotFound(_)) { 127 } else { 126 };
        (code, Error::from(error).context("OCI runtime exec failed: exec failed: unable to start container process"))
    })?;
    let mut attributes = record.event_attributes();
    attributes.insert("execID".into(), exec.id.clone());
    let action = format!("exec_start: {}", super::exec_create::shown_command(&config.cmd.unwrap_or_default()));
    engine.events.publish("container", &action, &record.id, attributes.clone());
    exec.started(Arc::clone(&started));
    let (instance, engine, id) = (Arc::clone(exec), Arc::downgrade(engine), record.id.clone());
    started.on_exit(Box::new(move |exit| {
        instance.ended(exit.code);
        if let Some(engine) = engine.upgrade() {
            attributes.insert("exitCode".into(), exit.code.to_string());
            engine.events.publish("container", "exec_die", &id, attributes);
        }
    }));
    Ok(())
}

/// Says why nothing runs, in the stream's own framing.
fn tell(connection: &OwnedFd, terminal: bool, message: &str) -> Result<()> {
    let text = format!("{message}\r\n");
    let mut bytes = Vec::with_capacity(8 + text.len());
    if !terminal {
        bytes.extend_from_slice(&header(Stream::Stdout, u32::try_from(text.len()).unwrap_or(u32::MAX)));
    }
    bytes.extend_from_slice(text.as_bytes());
    super::attach::send_all(connection, &bytes)?;
    rustix::net::shutdown(connection, rustix::net::Shutdown::Both)
        .map_err(|e| Error::system(format!("end the connection: {e}")))
}

/// Watches a connection that was given away: returns when both directions have ended, or when `over` says that the
/// last byte was sent, and then ends it; a cancellation ends it at once. What ends here ends for the supervisor as
/// well: it holds the same socket.
pub(super) async fn until_over(
    connection: OwnedFd,
    cancelled: &CancellationToken,
    over: impl Future<Output = std::result::Result<(), RecvError>>,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::system(format!("watch the connection: {e}"));
    let watched = writable(connection).map_err(failed)?;
    // Only the end of both directions is of interest. Readability would be set for ever once the client has closed its
    // half, which is how clients without standard input begin.
    tokio::pin!(over);
    let how = loop {
        tokio::select! {
            () = cancelled.cancelled() => break rustix::net::Shutdown::Both,
            _ = &mut over => break rustix::net::Shutdown::Write,
            ready = watched.writable() => {
                let mut ready = ready.map_err(failed)?;
                let mut poll_fd = [PollFd::new(&watched, PollFlags::empty())];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                poll(&mut poll_fd, Some(&now)).map_err(|e| failed(e.into()))?;
                if poll_fd[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                    return Ok(());
                }
                ready.clear_ready();
            }
        }
    };
    match rustix::net::shutdown(&watched, how) {
        // The other side was quicker.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(Error::system(format!("end the connection: {error}"))),
    }
}
