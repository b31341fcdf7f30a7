//! `stop` and `restart`.

use super::for_each;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::Result;
use crate::flags::checks;

static FLAGS: &[Flag] = &[
    Flag::one("signal", "string", "Signal to send to the container").short('s'),
    Flag::one("timeout", "int", "Seconds to wait before killing the container").short('t').check(checks::int),
    Flag::one("time", "int", "").alias_of("timeout").check(checks::int),
];

/// `stop`.
pub static STOP: Command = Command::new(
    &["[OPTIONS] CONTAINER [CONTAINER...]"],
    "Stop one or more running containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags, "stop")),
)
.flags(&[FLAGS]);

/// `restart`.
pub static RESTART: Command = Command::new(
    &["[OPTIONS] CONTAINER [CONTAINER...]"],
    "Restart one or more containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags, "restart")),
)
.flags(&[FLAGS]);

async fn run(context: Context, flags: Parsed, verb: &'static str) -> Result<u8> {
    let query =
        Query::new().with_text("signal", flags.text_or_empty("signal")).with_text("t", flags.text_or_empty("timeout"));
    let daemon = context.daemon().await?;
    for_each(&flags.args, |name| {
        let (daemon, query) = (daemon.clone(), query.clone());
        async move { daemon.post(&format!("/containers/{}/{verb}", segment(&name)), &query).await.map(drop) }
    })
    .await
}
