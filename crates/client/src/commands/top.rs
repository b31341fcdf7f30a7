//! `top`.

use gantry_api::container::Top;

use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::Result;
use crate::format::table;
use crate::printer;

/// The command.
pub static COMMAND: Command = Command::new(
    &["CONTAINER [ps OPTIONS]"],
    "Display the running processes of a container",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags_first();

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let query = Query::new().with_text("ps_args", flags.args[1..].join(" "));
    let daemon = context.daemon().await?;
    let top: Top = daemon.get(&format!("/containers/{}/top", segment(&flags.args[0])), &query).await?;
    let mut text = top.titles.join("\t");
    text.push('\n');
    for process in &top.processes {
        text.push_str(&process.join("\t"));
        text.push('\n');
    }
    printer::text(&table::WIDE.align(&text))?;
    Ok(0)
}
