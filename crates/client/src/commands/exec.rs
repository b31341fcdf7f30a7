//! `exec`: a command in a running container.

use gantry_api::exec::{ExecConfig, ExecInspect, ExecStart};
use serde::Deserialize;

use super::attach::{detach_keys, resize};
use crate::body::Body;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query, collect, segment};
use crate::failure::{Failure, Result};
use crate::flags::{checks, env};
use crate::stream::{self, Ended, Wiring};
use crate::terminal::{self, RawMode, Signals};

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER COMMAND [ARG...]"],
    "Execute a command in a running container",
    Arity::AtLeast(2),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::switch("detach", "Detached mode: run command in the background").short('d'),
    Flag::one("detach-keys", "string", "Override the key sequence for detaching a container"),
    Flag::many("env", "list", "Set environment variables").short('e').check(checks::env),
    Flag::many("env-file", "list", "Read in a file of environment variables"),
    Flag::switch("interactive", "Keep STDIN open even if not attached").short('i'),
    Flag::switch("privileged", "Give extended privileges to the command"),
    Flag::switch("tty", "Allocate a pseudo-TTY").short('t'),
    Flag::one("user", "string", "Username or UID (format: \"<name|uid>[:<group|gid>]\")").short('u'),
    Flag::one("workdir", "string", "Working directory inside the container").short('w'),
]])
.flags_first();

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExecId {
    #[serde(rename = "Id")]
    id: String,
}

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let detached = flags.on("detach");
    let tty = flags.on("tty");
    let stdin = flags.on("interactive") && !detached;
    terminal::check_input(stdin, tty)?;
    let keys = detach_keys(&context, &flags)?;
    let console_size = tty.then(terminal::size).flatten().map(|(height, width)| [height, width]);
    let environment = env::environment(flags.list("env-file"), flags.list("env")).map_err(Failure::new)?;
    let config = ExecConfig {
        user: flags.text_or_empty("user").to_owned(),
        privileged: flags.on("privileged"),
        tty,
        console_size,
        attach_stdin: stdin,
        attach_stderr: !detached,
        attach_stdout: !detached,
        detach: detached,
        detach_keys: flags.text_or_empty("detach-keys").to_owned(),
        env: Some(environment),
        working_dir: flags.text_or_empty("workdir").to_owned(),
        cmd: Some(flags.args[1..].to_vec()),
    };
    let daemon = context.daemon().await?;
    let path = format!("/containers/{}/exec", segment(&flags.args[0]));
    let ExecId { id } = daemon.post_json(&path, &Query::new(), &config).await?;
    let path = format!("/exec/{}", segment(&id));
    let start = ExecStart { detach: detached, tty, console_size };
    let body = serde_json::to_vec(&start)?;
    let started = async {
        if detached {
            let headers = [("content-type", "application/json")];
            collect(daemon.post_stream(&format!("{path}/start"), &Query::new(), Body::bytes(body), &headers).await?)
                .await?;
            return Ok(None);
        }
        daemon.hijack(&format!("{path}/start"), &Query::new(), Some(body)).await.map(|(_, stream)| Some(stream))
    };
    let stream = started.await.map_err(|failure: Failure| Failure {
        // As `run`: what cannot be executed has the statuses of shells.
        code: match super::run::start_status(&failure.message) {
            125 => failure.code,
            code => code,
        },
        ..failure
    })?;
    let Some(stream) = stream else { return Ok(0) };
    let keys = (tty && stdin && terminal::stdin_is_terminal()).then_some(keys);
    let ended = interact(&daemon, &path, stream, Wiring { tty, stdin, output: true, detach: keys }).await?;
    if ended == Ended::Detached {
        return Ok(0);
    }
    status(&daemon, &path).await
}

async fn interact(daemon: &Daemon, path: &str, stream: gantry_transport::Hijacked, wiring: Wiring) -> Result<Ended> {
    let raw = wiring.tty && wiring.stdin;
    let tty = wiring.tty;
    // Only to give the terminal back: signals are not for the container's first process here.
    let mut signals = if raw { Some(Signals::catch()?) } else { None };
    let raw = if raw { Some(RawMode::enter()?) } else { None };
    let killed = async {
        match &mut signals {
            Some(signals) => signals.next().await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        ended = stream::connect(stream, wiring) => ended,
        never = resize(daemon, path, tty) => match never { },
        (_, number) = killed => Err(Failure::silent(u8::try_from(128 + number).unwrap_or(255))),
    };
    drop(raw);
    outcome
}

async fn status(daemon: &Daemon, path: &str) -> Result<u8> {
    let exec: ExecInspect = daemon.get(&format!("{path}/json"), &Query::new()).await?;
    Ok(exec.exit_code.map_or(0, |code| u8::try_from(code & 0xff).unwrap_or(125)))
}
