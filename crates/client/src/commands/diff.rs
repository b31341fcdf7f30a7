//! `diff`.

use gantry_api::container::ContainerChange;

use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::Result;
use crate::printer;

/// The command.
pub static COMMAND: Command = Command::new(
    &["CONTAINER"],
    "Inspect changes to files or directories on a container's filesystem",
    Arity::Exactly(1),
    |context, flags| Box::pin(run(context, flags)),
);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let daemon = context.daemon().await?;
    let path = format!("/containers/{}/changes", segment(&flags.args[0]));
    // Nothing changed may also be written as null.
    let changes: Option<Vec<ContainerChange>> = daemon.get(&path, &Query::new()).await?;
    let mut text = String::new();
    for change in changes.unwrap_or_default() {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            2 => 'D',
            _ => '?',
        };
        text.push(letter);
        text.push(' ');
        text.push_str(&change.path);
        text.push('\n');
    }
    printer::text(&text)?;
    Ok(0)
}
