//! `rm`.

use super::for_each;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::printer;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER [CONTAINER...]"],
    "Remove one or more containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::switch("force", "Force the removal of a running container (uses SIGKILL)").short('f'),
    Flag::switch("link", "Remove the specified link").short('l'),
    Flag::switch("volumes", "Remove anonymous volumes associated with the container").short('v'),
]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let force = flags.on("force");
    let query =
        Query::new().with_flag("force", force).with_flag("link", flags.on("link")).with_flag("v", flags.on("volumes"));
    let daemon = context.daemon().await?;
    let names: Vec<_> = flags.args.iter().map(|name| name.trim_matches('/').to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(Failure::new("container name cannot be empty"));
    }
    for_each(&names, |name| {
        let (daemon, query) = (daemon.clone(), query.clone());
        async move {
            match daemon.delete(&format!("/containers/{}", segment(&name)), &query).await {
                // By force: what is not there is as it should be, but it is said.
                Err(failure) if force && failure.is_not_found() => {
                    printer::error_line(&failure.message);
                    Err(Failure::silent(0))
                }
                other => other.map(drop),
            }
        }
    })
    .await
}
