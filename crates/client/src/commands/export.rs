//! `export`: a container's files as a tar archive.

use http_body_util::BodyExt as _;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, broken, segment};
use crate::failure::{Failure, Result, reason};
use crate::printer::Output;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER"],
    "Export a container's filesystem as a tar archive",
    Arity::Exactly(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[Flag::one("output", "string", "Write to a file, instead of STDOUT").short('o')]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let path = format!("/containers/{}/export", segment(&flags.args[0]));
    receive(&context, &path, &Query::new(), flags.text_or_empty("output")).await
}

/// Writes an answer to the file `output`, or to standard output where it is empty.
pub(super) async fn receive(context: &Context, path: &str, query: &Query, output: &str) -> Result<u8> {
    if output.is_empty() && Output::Out.is_terminal() {
        return Err(Failure::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let answer = context.daemon().await?.get_stream(path, query).await?;
    let failed = |error: std::io::Error| Failure::new(format!("{output}: {}", reason(&error)));
    let mut file = if output.is_empty() { None } else { Some(tokio::fs::File::create(output).await.map_err(failed)?) };
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
        match &mut file {
            Some(file) => tokio::io::AsyncWriteExt::write_all(file, &bytes).await.map_err(failed)?,
            None => Output::Out.stream(&bytes).await?,
        }
    }
    if let Some(file) = &mut file {
        tokio::io::AsyncWriteExt::flush(file).await.map_err(failed)?;
    }
    Ok(0)
}
