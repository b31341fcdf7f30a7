//! `tag`.

use gantry_api::reference::Reference;

use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};

/// The command.
pub static COMMAND: Command = Command::new(
    &["SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]"],
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    Arity::Exactly(2),
    |context, flags| Box::pin(run(context, flags)),
);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let bad = |name: &str, error| {
        Failure::new(format!("Error parsing reference: {name:?} is not a valid repository/tag: {error}"))
    };
    let target = Reference::parse(&flags.args[1]).map_err(|error| bad(&flags.args[1], error))?;
    if target.digest().is_some() {
        return Err(Failure::new("refusing to create a tag with a digest reference"));
    }
    let target = target.with_default_tag();
    let query = Query::new().with("repo", target.repository()).with_text("tag", target.tag().unwrap_or_default());
    let daemon = context.daemon().await?;
    daemon.post(&format!("/images/{}/tag", segment(&flags.args[0])), &query).await?;
    Ok(0)
}
