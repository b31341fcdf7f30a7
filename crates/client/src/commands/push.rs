//! `push`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use serde_json::Value;

use crate::body::Body;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::credentials::key_of;
use crate::daemon::{Daemon, Query, segment};
use crate::failure::Result;
use crate::flags::table::NO_TRUST;
use crate::printer::{self, Output};
use crate::progress;

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS] NAME[:TAG]"], "Upload an image to a registry", Arity::Exactly(1), |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::switch("all-tags", "Push all tags of an image to the repository").short('a'),
        Flag::one("platform", "string", "Push only what is for that platform: os[/arch[/variant]]"),
        Flag::switch("quiet", "Suppress verbose output").short('q'),
        NO_TRUST,
    ]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let (all, quiet) = (flags.on("all-tags"), flags.on("quiet"));
    let reference = super::pull::one_or_all(&flags, all, quiet)?;
    let daemon = context.daemon().await?;
    let tag = reference.digest().map(|digest| digest.as_str()).or(reference.tag()).unwrap_or_default();
    let query = Query::new().with_text("tag", tag).with_text("platform", flags.text_or_empty("platform"));
    let auth = context.config.registry_auth(&reference);
    let others = others(&context, &daemon, &reference).await;
    let mut headers = vec![("x-registry-auth", auth.as_deref().unwrap_or("e30="))];
    headers.extend(others.as_deref().map(|others| ("x-registry-config", others)));
    let path = format!("/images/{}/push", segment(&reference.familiar_repository()));
    let answer = daemon.post_stream(&path, &query, Body::empty(), &headers).await?;
    let mut notes = Vec::new();
    progress::show_with(answer.into_body(), Output::Out, quiet, |aux| notes.extend(note(aux))).await?;
    for note in notes {
        printer::error_line(&note);
    }
    if quiet {
        printer::line(&reference.to_string())?;
    }
    Ok(0)
}

/// What the daemon says beside the progress, for a person.
fn note(aux: &Value) -> Option<String> {
    if aux["manifestPushedInsteadOfIndex"] != true {
        return None;
    }
    let digest = |name: &str| aux[name]["digest"].as_str().unwrap_or("?").to_owned();
    Some(format!(
        "Note: not all multiplatform-content is present and only the available single-platform image was pushed\n{} -> {}",
        digest("originalIndex"),
        digest("selectedManifest")
    ))
}

/// Credentials for the registries that the image came from: the daemon may have to fetch layers there.
async fn others(context: &Context, daemon: &Daemon, reference: &Reference) -> Option<String> {
    let path = format!("/images/{}/json", segment(&reference.familiar()));
    // An image that is not there is for the push to tell.
    let image: Value = daemon.get(&path, &Query::new()).await.ok()?;
    let digests = image["RepoDigests"].as_array()?.iter().filter_map(|name| name.as_str()?.parse::<Reference>().ok());
    let mut found: BTreeMap<String, AuthConfig> = BTreeMap::new();
    for name in digests.filter(|name| name.domain() != reference.domain()) {
        if let Some(auth) = context.config.for_registry(name.domain()) {
            found.insert(key_of(name.domain()).to_owned(), auth);
        }
    }
    if found.is_empty() { None } else { Some(URL_SAFE.encode(serde_json::to_vec(&found).ok()?)) }
}
