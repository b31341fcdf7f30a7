//! `save`: images as a tar archive.

use super::export::receive;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::Result;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] IMAGE [IMAGE...]"],
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::one("output", "string", "Write to a file, instead of STDOUT").short('o'),
    Flag::one("platform", "string", "Save only the given platform: os[/arch[/variant]]"),
]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let mut query = Query::new().with_text("platform", flags.text_or_empty("platform"));
    for image in &flags.args {
        query = query.with("names", image);
    }
    receive(&context, "/images/get", &query, flags.text_or_empty("output")).await
}
