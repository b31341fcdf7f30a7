//! `start`.

use gantry_api::inspect::ContainerInspect;

use super::attach::{Session, detach_keys, exit_status, wait};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query, segment};
use crate::failure::{Failure, Result};
use crate::terminal;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER [CONTAINER...]"],
    "Start one or more stopped containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::switch("attach", "Attach STDOUT/STDERR and forward signals").short('a'),
    Flag::one("detach-keys", "string", "Override the key sequence for detaching a container"),
    Flag::switch("interactive", "Attach container's STDIN").short('i'),
    Flag::switch_on("sig-proxy", "").alias_of("sig-proxy"),
    Flag::later("checkpoint", "string"),
    Flag::later("checkpoint-dir", "string"),
]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    if flags.on("attach") || flags.on("interactive") {
        if flags.args.len() > 1 {
            return Err(Failure::new("you cannot start and attach multiple containers at once"));
        }
        let daemon = context.daemon().await?;
        return attached(&context, &daemon, &flags).await;
    }
    let daemon = context.daemon().await?;
    let mut failed = Vec::new();
    for name in &flags.args {
        match daemon.post(&format!("/containers/{}/start", segment(name)), &Query::new()).await {
            Ok(_) => crate::printer::line(name)?,
            Err(failure) => {
                crate::printer::error_line(&failure.message);
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    Err(Failure::new(format!("Error: failed to start containers: {}", failed.join(", "))))
}

async fn attached(context: &Context, daemon: &Daemon, flags: &Parsed) -> Result<u8> {
    let keys = detach_keys(context, flags)?;
    let path = format!("/containers/{}", segment(&flags.args[0]));
    let container: ContainerInspect = daemon.get(&format!("{path}/json"), &Query::new()).await?;
    let stdin = flags.on("interactive") && container.config.open_stdin;
    terminal::check_input(stdin, container.config.tty)?;
    let session = Session {
        tty: container.config.tty,
        stdin,
        stdout: true,
        stderr: true,
        sig_proxy: flags.not_off("sig-proxy"),
        keys,
    };
    let stream = session.attach(daemon, &container.id, false).await?;
    let condition = if container.host_config.auto_remove { "removed" } else { "next-exit" };
    let waiting = wait(daemon, &container.id, condition).await?;
    daemon.post(&format!("{path}/start"), &Query::new()).await?;
    let status = session.run(daemon, &container.id, stream, waiting).await?;
    status.map_or(Ok(0), |status| exit_status(&status))
}
