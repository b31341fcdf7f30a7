//! `commit`: an image of a container.

use gantry_api::image::Committed;
use gantry_api::reference::Reference;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::{Failure, Result};
use crate::printer;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER [REPOSITORY[:TAG]]"],
    "Create a new image from a container's changes",
    Arity::Between(1, 2),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::one("author", "string", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")").short('a'),
    Flag::many("change", "list", "Apply Dockerfile instruction to the created image").short('c'),
    Flag::one("message", "string", "Commit message").short('m'),
    Flag::switch_on("pause", "Pause container during commit").short('p'),
]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let (repository, tag) = match flags.args.get(1) {
        None => (String::new(), String::new()),
        Some(name) => {
            let parsed = Reference::parse(name).map_err(|error| Failure::new(error.to_string()))?;
            if parsed.digest().is_some() {
                return Err(Failure::new("repository name must not have a digest"));
            }
            (parsed.familiar_repository(), parsed.tag().unwrap_or_default().to_owned())
        }
    };
    let mut query = Query::new()
        .with("container", &flags.args[0])
        .with_text("repo", repository)
        .with_text("tag", tag)
        .with_text("comment", flags.text_or_empty("message"))
        .with_text("author", flags.text_or_empty("author"))
        .with("pause", if flags.on("pause") { "1" } else { "0" });
    for change in flags.list("change") {
        query = query.with("changes", change);
    }
    let committed: Committed = context.daemon().await?.post_json("/commit", &query, &serde_json::Value::Null).await?;
    printer::line(&committed.id)?;
    Ok(0)
}
