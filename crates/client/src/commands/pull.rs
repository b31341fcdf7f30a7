//! `pull`.

use gantry_api::reference::Reference;

use crate::body::Body;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query};
use crate::failure::{Failure, Result};
use crate::flags::table::NO_TRUST;
use crate::printer::{self, Output};
use crate::progress;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] NAME[:TAG|@DIGEST]"],
    "Download an image from a registry",
    Arity::Exactly(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::switch("all-tags", "Download all tagged images in the repository").short('a'),
    Flag::one("platform", "string", "Set platform of the image: os[/arch[/variant]]"),
    Flag::switch("quiet", "Suppress verbose output").short('q'),
    NO_TRUST,
]]);

/// The name of a command that takes one tag, or all of them.
pub fn one_or_all(flags: &Parsed, all: bool, quiet: bool) -> Result<Reference> {
    let reference = Reference::parse(&flags.args[0]).map_err(|error| Failure::new(error.to_string()))?;
    if all && (reference.tag().is_some() || reference.digest().is_some()) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    if !all && reference.tag().is_none() && reference.digest().is_none() {
        if !quiet {
            printer::line("Using default tag: latest")?;
        }
        return Ok(reference.with_default_tag());
    }
    Ok(reference)
}

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let all = flags.on("all-tags");
    let quiet = flags.on("quiet");
    let reference = one_or_all(&flags, all, quiet)?;
    let daemon = context.daemon().await?;
    pull(&context, &daemon, &reference, flags.text_or_empty("platform"), quiet, Output::Out).await?;
    printer::line(&reference.to_string())?;
    Ok(0)
}

/// Pulls an image; a reference without tag and digest means all tags.
pub async fn pull(
    context: &Context,
    daemon: &Daemon,
    reference: &Reference,
    platform: &str,
    quiet: bool,
    output: Output,
) -> Result<()> {
    let tag = match reference.digest() {
        Some(digest) => digest.as_str(),
        None => reference.tag().unwrap_or_default(),
    };
    let query =
        Query::new().with("fromImage", reference.repository()).with_text("tag", tag).with_text("platform", platform);
    let auth = context.config.registry_auth(reference);
    let headers: Vec<_> = auth.iter().map(|auth| ("x-registry-auth", auth.as_str())).collect();
    let answer = daemon.post_stream("/images/create", &query, Body::empty(), &headers).await?;
    progress::show(answer.into_body(), output, quiet).await
}
