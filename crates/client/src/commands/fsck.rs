//! `system fsck`: is everything that is stored as it should be?

use gantry_api::system::{Finding, Outcome};

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
.flags(&[&[
    Flag::switch("repair", "Fetch damaged layers and documents again, and delete what nothing needs"),
    Flag::switch("remove", "With --repair: remove what cannot be repaired and nothing uses: images, and what has lost its record"),
    Flag::one("format", "string", "'json' prints each finding as a JSON document"),
]])
.details(
    "Prints a line for each finding. The exit code is 0 when nothing is wrong (any more), else 1.\n\nNothing is changed \
     without --repair. What is damaged is fetched again from the registry that its image was pulled from, and put in its \
     place in one step; containers that run on it keep the files that they have until they are restarted. An image that was \
     built or loaded has no registry: load it again, or remove it (--remove). A pull of a damaged image repairs it too.",
);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let (repair, remove) = (flags.on("repair"), flags.on("remove"));
    let json = match flags.text_or_empty("format") {
        "" => false,
        "json" => true,
        other => return Err(Failure::new(format!("format {other:?} is not supported: use json, or none"))),
    };
    if remove && !repair {
        return Err(Failure::new("--remove is for what --repair cannot repair: use both"));
    }
    let query = Query::new().with_flag("repair", repair).with_flag("remove", remove);
    let answer = context.daemon().await?.post_stream("/system/fsck", &query, Body::empty(), &[]).await?;
    let (mut wrong, mut ended) = (false, false);
    progress::read(answer.into_body(), |message| {
        if let Some(aux) = &message.aux {
            let finding: Finding = serde_json::from_value(aux.clone())?;
            wrong |= finding.outcome != Outcome::Repaired;
            return printer::line(&if json { serde_json::to_string(&finding)? } else { line(&finding) });
        }
        ended |= !message.status.is_empty();
        if json { Ok(()) } else { printer::line(&message.status) }
    })
    .await?;
    match (ended, wrong) {
        (false, _) => Err(Failure::new("the daemon broke off before everything was checked")),
        (true, wrong) => Ok(u8::from(wrong)),
    }
}

fn line(finding: &Finding) -> String {
    let Finding { kind, name, detail, action, .. } = finding;
    let action = if action.is_empty() { String::new() } else { format!(" ({action})") };
    format!("{kind} {name}: {detail}{action}")
}
