//! `rmi`.

use gantry_api::image::ImageDeleted;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::printer;

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS] IMAGE [IMAGE...]"], "Remove one or more images", Arity::AtLeast(1), |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::switch("force", "Force removal of the image").short('f'),
        Flag::switch("no-prune", "Do not delete untagged parents"),
        Flag::later("platform", "strings"),
    ]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let force = flags.on("force");
    let query = Query::new().with_flag("force", force).with_flag("noprune", flags.on("no-prune"));
    let daemon = context.daemon().await?;
    let mut failures = Vec::new();
    let mut fatal = false;
    for name in &flags.args {
        match daemon.delete(&format!("/images/{}", segment(name)), &query).await {
            Err(failure) => {
                fatal |= !(force && failure.is_not_found());
                failures.push(failure);
            }
            Ok(answer) => {
                let steps: Vec<ImageDeleted> = gantry_api::json::from_slice(&answer)?;
                for step in steps {
                    if step.deleted.is_empty() {
                        printer::line(&format!("Untagged: {}", step.untagged))?;
                    } else {
                        printer::line(&format!("Deleted: {}", step.deleted))?;
                    }
                }
            }
        }
    }
    if !fatal {
        // By force: what is not there is as it should be, but it is said.
        failures.iter().for_each(|failure| printer::error_line(&failure.message));
        return Ok(0);
    }
    Failure::join(failures)?;
    Ok(0)
}
