//! `system fsck`: is everything that is stored as it should be?

use gantry_api::system::Finding;

use crate::body::Body;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::{Failure, Result};
use crate::{printer, progress};

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS]"],
    "Check every stored layer and document against its digest",
    Arity::None,
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[Flag::switch(
    "repair",
    "Delete litter, and remove images that are not whole, so that they can be pulled again",
)]])
.details("Prints a line for each finding. The exit code is 0 when nothing is wrong (any more), else 1.");

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let query = Query::new().with_flag("repair", flags.on("repair"));
    let answer = context.daemon().await?.post_stream("/system/fsck", &query, Body::empty(), &[]).await?;
    let (mut wrong, mut ended) = (false, false);
    progress::read(answer.into_body(), |message| {
        if let Some(aux) = &message.aux {
            let finding: Finding = serde_json::from_value(aux.clone())?;
            wrong |= !finding.repaired;
            let repair = if finding.repair.is_empty() { String::new() } else { format!(" ({})", finding.repair) };
            return printer::line(&format!("{}: {}{repair}", finding.subject, finding.problem));
        }
        ended |= !message.status.is_empty();
        printer::line(&message.status)
    })
    .await?;
    match (ended, wrong) {
        (false, _) => Err(Failure::new("the daemon broke off before everything was checked")),
        (true, wrong) => Ok(u8::from(wrong)),
    }
}
