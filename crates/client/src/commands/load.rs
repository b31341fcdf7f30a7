//! `load`: images from a tar archive.

use crate::body::Body;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::{Failure, Result, reason};
use crate::printer::Output;
use crate::{progress, terminal};

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS]"], "Load an image from a tar archive or STDIN", Arity::None, |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::one("input", "string", "Read from tar archive file, instead of STDIN").short('i'),
        Flag::switch("quiet", "Suppress the load output").short('q'),
        Flag::one("platform", "string", "Load only the given platform: os[/arch[/variant]]"),
    ]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let body = match flags.text_or_empty("input") {
        "" if terminal::stdin_is_terminal() => {
            return Err(Failure::new("requested load from stdin, but stdin is empty"));
        }
        "" => Body::read(std::io::stdin()),
        path => {
            let file = std::fs::File::open(path);
            Body::read(file.map_err(|error| Failure::new(format!("open {path}: {}", reason(&error))))?)
        }
    };
    let quiet = flags.on("quiet") || !Output::Out.is_terminal();
    let query = Query::new()
        .with("quiet", if quiet { "1" } else { "0" })
        .with_text("platform", flags.text_or_empty("platform"));
    let headers = [("content-type", "application/x-tar")];
    let answer = context.daemon().await?.post_stream("/images/load", &query, body, &headers).await?;
    progress::show(answer.into_body(), Output::Out, false).await?;
    Ok(0)
}
