//! `run`: create, attach, start, and stay until it ends.

use std::time::Duration;

use gantry_api::container::WaitResponse;

use super::attach::{Session, detach_keys, exit_status, wait};
use super::create::{create, explain};
use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query, collect};
use crate::failure::{Failure, Result};
use crate::flags::{self, Created};
use crate::printer;
use crate::terminal;

/// The longest wait for a container that failed to start to be removed.
const REMOVAL: Duration = Duration::from_secs(3);

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] IMAGE [COMMAND] [ARG...]"],
    "Create and run a new container from an image",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[flags::table::CREATE, flags::table::RUN, flags::table::LATER])
.flags_first();

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let detached = flags.on("detach");
    if detached && flags.given("attach") {
        return Err(Failure::new("conflicting options: cannot specify both --attach and --detach"));
    }
    let created = flags::request(&flags, detached).map_err(|text| explain(&context, &flags, Failure::new(text)))?;
    let config = &created.request.config;
    terminal::check_input(config.attach_stdin, config.tty)?;
    if detached {
        let started = async {
            let daemon = context.daemon().await?;
            let id = create(&context, &daemon, &flags, &created).await?;
            printer::line(&id)?;
            start(&daemon, &id, "").await
        };
        return started.await.map(|()| 0).map_err(|failure| start_failure(&context, &flags, failure));
    }
    let daemon = context.daemon().await.map_err(|failure| explain(&context, &flags, failure))?;
    let id = create(&context, &daemon, &flags, &created).await.map_err(|failure| explain(&context, &flags, failure))?;
    attached(&context, &daemon, &flags, &created, &id).await
}

async fn attached(context: &Context, daemon: &Daemon, flags: &Parsed, created: &Created, id: &str) -> Result<u8> {
    let config = &created.request.config;
    let keys = detach_keys(context, flags)?;
    let session = Session {
        tty: config.tty,
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        sig_proxy: flags.not_off("sig-proxy"),
        keys,
    };
    let failed = |failure| start_failure(context, flags, failure);
    let stream = session.attach(daemon, id, false).await.map_err(failed)?;
    let condition = if created.request.host_config.auto_remove { "removed" } else { "next-exit" };
    // The answer's head says that the daemon watches; only then may the container start.
    let waiting = wait(daemon, id, condition).await.map_err(failed)?;
    if let Err(failure) = start(daemon, id, flags.text_or_empty("detach-keys")).await {
        drop(stream);
        if created.request.host_config.auto_remove {
            // Its name is free again when we return; a daemon that never says so holds us up no longer than this.
            let _ = tokio::time::timeout(REMOVAL, collect(waiting)).await;
        }
        return Err(failed(failure));
    }
    if !session.stdout && !session.stderr {
        // Nothing is shown of it, so it is not waited for beyond its input.
        printer::line(id)?;
        if let Some(stream) = stream {
            session.run(daemon, id, Some(stream), waiting).await?;
        }
        return Ok(0);
    }
    let status: Option<WaitResponse> = session.run(daemon, id, stream, waiting).await?;
    status.map_or(Ok(0), |status| exit_status(&status))
}

async fn start(daemon: &Daemon, id: &str, keys: &str) -> Result<()> {
    let query = Query::new().with_text("detachKeys", keys);
    daemon.post(&format!("/containers/{id}/start"), &query).await.map(drop)
}

/// A command that is not there or cannot be executed has shells' own statuses.
fn start_failure(context: &Context, flags: &Parsed, failure: Failure) -> Failure {
    let code = start_status(&failure.message);
    Failure { code, ..explain(context, flags, failure) }
}

/// The exit status of a start that failed with this message.
pub fn start_status(message: &str) -> u8 {
    let has = |part: &str| message.contains(part);
    if has("executable file not found")
        || has("no such file or directory")
        || has("system cannot find the file specified")
    {
        127
    } else if has("permission denied") || has("is a directory") || has("exec format error") {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::start_status;

    #[test]
    fn a_failed_start_has_the_status_of_a_shell() {
        assert_eq!(start_status("exec: \"nosuch\": executable file not found in $PATH"), 127);
        assert_eq!(start_status("exec: \"/x\": stat /x: no such file or directory"), 127);
        assert_eq!(start_status("exec: \"/etc/passwd\": permission denied"), 126);
        assert_eq!(start_status("exec: \"/etc\": is a directory"), 126);
        assert_eq!(start_status("port is already allocated"), 125);
    }
}
