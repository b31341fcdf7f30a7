//! `rename`.

use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};

/// The command.
pub static COMMAND: Command =
    Command::new(&["CONTAINER NEW_NAME"], "Rename a container", Arity::Exactly(2), |context, flags| {
        Box::pin(run(context, flags))
    });

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let [old, new] = flags.args.as_slice() else { return Ok(1) };
    if old.trim().is_empty() || new.trim().is_empty() {
        return Err(Failure::new("Error: Neither old nor new names may be empty"));
    }
    let daemon = context.daemon().await?;
    let query = Query::new().with("name", new.trim());
    if let Err(failure) = daemon.post(&format!("/containers/{}/rename", segment(old.trim())), &query).await {
        crate::printer::error_line(&failure.message);
        return Err(Failure::new(format!("Error: failed to rename container named {old}")));
    }
    Ok(0)
}
