//! `logs`.

use gantry_api::inspect::ContainerInspect;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::format::time;
use crate::stream;

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS] CONTAINER"], "Fetch the logs of a container", Arity::Exactly(1), |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::switch("details", "Show extra details provided to logs"),
        Flag::switch("follow", "Follow log output").short('f'),
        Flag::one(
            "since",
            "string",
            "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\")",
        ),
        Flag::one("tail", "string", "Number of lines to show from the end of the logs").short('n').default("all"),
        Flag::switch("timestamps", "Show timestamps").short('t'),
        Flag::one(
            "until",
            "string",
            "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\")",
        ),
    ]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let now = jiff::Timestamp::now();
    let moment = |name: &str| match flags.text_or_empty(name) {
        "" => Ok(String::new()),
        text => {
            time::parameter(text, now).map_err(|error| Failure::new(format!("invalid value for {name:?}: {error}")))
        }
    };
    let query = Query::new()
        .with_flag("stdout", true)
        .with_flag("stderr", true)
        .with_flag("follow", flags.on("follow"))
        .with_flag("timestamps", flags.on("timestamps"))
        .with_flag("details", flags.on("details"))
        .with_text("since", moment("since")?)
        .with_text("until", moment("until")?)
        .with("tail", flags.text("tail").unwrap_or("all"));
    let daemon = context.daemon().await?;
    let path = format!("/containers/{}", segment(&flags.args[0]));
    let answer = daemon.get_stream(&format!("{path}/logs"), &query).await?;
    let framed = match stream::is_framed(answer.headers()) {
        Some(framed) => framed,
        None => !daemon.get::<ContainerInspect>(&format!("{path}/json"), &Query::new()).await?.config.tty,
    };
    stream::show(answer.into_body(), framed).await?;
    Ok(0)
}
