//! `kill`.

use super::for_each;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::Result;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER [CONTAINER...]"],
    "Kill one or more running containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[Flag::one("signal", "string", "Signal to send to the container").short('s')]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let query = Query::new().with_text("signal", flags.text_or_empty("signal"));
    let daemon = context.daemon().await?;
    for_each(&flags.args, |name| {
        let (daemon, query) = (daemon.clone(), query.clone());
        async move { daemon.post(&format!("/containers/{}/kill", segment(&name)), &query).await.map(drop) }
    })
    .await
}
