//! `pause` and `unpause`.

use super::for_each;
use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::Result;

/// `pause`.
pub static PAUSE: Command = Command::new(
    &["CONTAINER [CONTAINER...]"],
    "Pause all processes within one or more containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags, "pause")),
);

/// `unpause`.
pub static UNPAUSE: Command = Command::new(
    &["CONTAINER [CONTAINER...]"],
    "Unpause all processes within one or more containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags, "unpause")),
);

async fn run(context: Context, flags: Parsed, verb: &'static str) -> Result<u8> {
    let daemon = context.daemon().await?;
    for_each(&flags.args, |name| {
        let daemon = daemon.clone();
        async move { daemon.post(&format!("/containers/{}/{verb}", segment(&name)), &Query::new()).await.map(drop) }
    })
    .await
}
