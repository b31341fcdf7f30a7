//! `attach`, and the session that `run` and `start` share with it: streams, terminal, signals, exit status.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use gantry_api::container::WaitResponse;
use gantry_api::inspect::ContainerInspect;
use gantry_transport::Hijacked;
use http::Response;
use hyper::body::Incoming;

use crate::body::Body;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query, collect, segment};
use crate::failure::{Failure, Result};
use crate::printer;
use crate::stream::{self, Ended, Wiring};
use crate::terminal::{self, DetachKeys, RawMode, Signals};

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER"],
    "Attach local standard input, output, and error streams to a running container",
    Arity::Exactly(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::one("detach-keys", "string", "Override the key sequence for detaching a container"),
    Flag::switch("no-stdin", "Do not attach STDIN"),
    Flag::switch_on("sig-proxy", "Proxy all received signals to the process"),
]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let keys = detach_keys(&context, &flags)?;
    let daemon = context.daemon().await?;
    let name = &flags.args[0];
    let container: ContainerInspect = daemon.get(&format!("/containers/{}/json", segment(name)), &Query::new()).await?;
    let state = &container.state;
    for (on, message) in [
        (!state.running, "cannot attach to a stopped container, start it first"),
        (state.paused, "cannot attach to a paused container, unpause it first"),
        (state.restarting, "cannot attach to a restarting container, wait until it is running"),
    ] {
        if on {
            return Err(Failure::new(message));
        }
    }
    let stdin = !flags.on("no-stdin") && container.config.open_stdin;
    terminal::check_input(stdin, container.config.tty)?;
    let session = Session {
        tty: container.config.tty,
        stdin,
        stdout: true,
        stderr: true,
        sig_proxy: flags.not_off("sig-proxy"),
        keys,
    };
    let waiting = wait(&daemon, &container.id, "not-running").await?;
    let stream = session.attach(&daemon, &container.id, false).await?;
    let status = session.run(&daemon, &container.id, stream, waiting).await?;
    status.map_or(Ok(0), |status| exit_status(&status))
}

/// The keys to leave by: the flag's, the configuration's, or Docker's own.
pub fn detach_keys(context: &Context, flags: &Parsed) -> Result<DetachKeys> {
    DetachKeys::parse(flags.text("detach-keys").unwrap_or(&context.config.detach_keys))
}

/// The exit status that a wait reported.
pub fn exit_status(answer: &WaitResponse) -> Result<u8> {
    if let Some(error) = answer.error.as_ref().filter(|error| !error.message.is_empty()) {
        return Err(Failure::with_code(125, format!("Error waiting for container: {}", error.message)));
    }
    Ok(u8::try_from(answer.status_code & 0xff).unwrap_or(125))
}

/// How often a daemon that went away is looked for, and how many times after the streams have ended.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const PATIENCE: u32 = 100;

/// Begins to wait: the answer's head is there when the daemon watches, its body when the container ended.
pub async fn wait(daemon: &Daemon, id: &str, condition: &str) -> Result<Response<Incoming>> {
    let query = Query::new().with("condition", condition);
    daemon.post_stream(&format!("/containers/{}/wait", segment(id)), &query, Body::empty(), &[]).await
}

/// Waits to the end. A daemon that went away is asked again when it is back, which it should be soon once the streams
/// are `over`; until then the container talks to us without it.
async fn status(daemon: &Daemon, id: &str, waiting: Response<Incoming>, over: &Cell<bool>) -> Result<WaitResponse> {
    let mut answer = collect(waiting).await;
    let mut ticks = tokio::time::interval(ASK_AGAIN);
    let mut patience = PATIENCE;
    loop {
        let failure = match answer {
            Ok(bytes) => return Ok(gantry_api::json::from_slice(&bytes)?),
            Err(failure) => failure,
        };
        if failure.status.is_some() {
            return Err(failure);
        }
        if over.get() {
            patience = patience.checked_sub(1).ok_or(failure)?;
        }
        ticks.tick().await;
        answer = match wait(daemon, id, "not-running").await {
            Ok(waiting) => collect(waiting).await,
            Err(failure) => Err(failure),
        };
    }
}

/// What is attached, and how.
pub struct Session {
    /// The container has a terminal.
    pub tty: bool,
    /// Our input goes to it.
    pub stdin: bool,
    /// Its output comes to us.
    pub stdout: bool,
    /// Its errors come to us.
    pub stderr: bool,
    /// Signals go to it.
    pub sig_proxy: bool,
    /// The keys to leave by.
    pub keys: DetachKeys,
}

impl Session {
    /// Takes a connection over for the container's streams.
    pub async fn attach(&self, daemon: &Daemon, id: &str, logs: bool) -> Result<Option<Hijacked>> {
        if !self.stdin && !self.stdout && !self.stderr {
            return Ok(None);
        }
        let query = Query::new()
            .with_flag("stream", true)
            .with_flag("stdin", self.stdin)
            .with_flag("stdout", self.stdout)
            .with_flag("stderr", self.stderr)
            .with_flag("logs", logs);
        let (_, stream) = daemon.hijack(&format!("/containers/{}/attach", segment(id)), &query, None).await?;
        Ok(Some(stream))
    }

    /// Moves everything between us and the container until it ends; nothing when the person detached before.
    pub async fn run(
        &self,
        daemon: &Daemon,
        id: &str,
        stream: Option<Hijacked>,
        waiting: Response<Incoming>,
    ) -> Result<Option<WaitResponse>> {
        let mut signals = Signals::catch()?;
        let raw = if self.tty && self.stdin { Some(RawMode::enter()?) } else { None };
        let path = format!("/containers/{}", segment(id));
        let wiring = Wiring {
            tty: self.tty,
            stdin: self.stdin,
            output: self.stdout || self.stderr,
            detach: (self.tty && self.stdin && terminal::stdin_is_terminal()).then(|| self.keys.clone()),
        };
        let over = Cell::new(false);
        let streams = async {
            let ended = match stream {
                Some(stream) => stream::connect(stream, wiring).await,
                None => Ok(Ended::Output),
            };
            over.set(true);
            ended
        };
        let ended = async {
            let mut status = pin!(status(daemon, id, waiting, &over));
            let mut streams = pin!(streams);
            // Both from the beginning: an exit is not missed while the daemon is replaced under a running container.
            let known = tokio::select! {
                ended = &mut streams => return if ended? == Ended::Detached { Ok(None) } else { status.await.map(Some) },
                known = &mut status => known,
            };
            if streams.await? == Ended::Detached { Ok(None) } else { known.map(Some) }
        };
        let outcome = tokio::select! {
            ended = ended => ended,
            failure = self.forward(daemon, &path, &mut signals) => Err(failure),
            never = resize(daemon, &path, self.tty) => match never {},
        };
        drop(raw);
        if matches!(outcome, Ok(None)) {
            printer::error_line("read escape sequence");
        }
        outcome
    }

    /// Sends our signals on; without `--sig-proxy` the first one ends us, with the terminal as it was.
    async fn forward(&self, daemon: &Daemon, path: &str, signals: &mut Signals) -> Failure {
        loop {
            let (name, number) = signals.next().await;
            if !self.sig_proxy {
                return Failure::silent(u8::try_from(128 + number).unwrap_or(255));
            }
            let query = Query::new().with("signal", name);
            if let Err(failure) = daemon.post(&format!("{path}/kill"), &query).await
                && failure.status.is_none()
            {
                // Without a daemon nobody can stop the container through us.
                return failure;
            }
        }
    }
}

/// What never happens.
pub enum Never {}

/// Tells the daemon our terminal's size, now and whenever it changes. A container that has just been started may not
/// be ready for it: the next change tells again.
pub async fn resize(daemon: &Daemon, path: &str, tty: bool) -> Never {
    let changes = if tty { terminal::resizes().ok() } else { None };
    let Some(mut changes) = changes else { return std::future::pending().await };
    loop {
        if let Some((height, width)) = terminal::size() {
            let query = Query::new().with("h", height.to_string()).with("w", width.to_string());
            // Nothing depends on it, and the container may have ended.
            drop(daemon.post(&format!("{path}/resize"), &query).await);
        }
        changes.recv().await;
    }
}
