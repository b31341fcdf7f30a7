//! `prune` of containers, images, volumes, networks, and of everything.

use std::fmt::Write as _;
use std::io::BufRead as _;

use gantry_api::prune::{PrunedContainers, PrunedImages, PrunedNetworks, PrunedVolumes};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{filter_text, filters};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query};
use crate::failure::{Failure, Result};
use crate::flags::checks;
use crate::format::size;
use crate::printer::{self, Output};

const FORCE: Flag = Flag::switch("force", "Do not prompt for confirmation").short('f');
const FILTER: Flag =
    Flag::many("filter", "filter", "Provide filter values (e.g. \"until=<timestamp>\")").check(checks::filter);

/// `container prune`.
pub static CONTAINERS: Command =
    Command::new(&["[OPTIONS]"], "Remove all stopped containers", Arity::None, |context, flags| {
        Box::pin(containers(context, flags))
    })
    .flags(&[&[FILTER, FORCE]]);

/// `image prune`.
pub static IMAGES: Command = Command::new(&["[OPTIONS]"], "Remove unused images", Arity::None, |context, flags| {
    Box::pin(images(context, flags))
})
.flags(&[&[Flag::switch("all", "Remove all unused images, not just dangling ones").short('a'), FILTER, FORCE]]);

/// `volume prune`.
pub static VOLUMES: Command =
    Command::new(&["[OPTIONS]"], "Remove unused local volumes", Arity::None, |context, flags| {
        Box::pin(volumes(context, flags))
    })
    .flags(&[&[
        Flag::switch("all", "Remove all unused volumes, not just anonymous ones").short('a'),
        FILTER,
        FORCE,
    ]]);

/// `network prune`.
pub static NETWORKS: Command =
    Command::new(&["[OPTIONS]"], "Remove all unused networks", Arity::None, |context, flags| {
        Box::pin(networks(context, flags))
    })
    .flags(&[&[FILTER, FORCE]]);

/// `system prune`.
pub static SYSTEM: Command =
    Command::new(&["[OPTIONS]"], "Remove unused data", Arity::None, |context, flags| Box::pin(system(context, flags)))
        .flags(&[&[
            Flag::switch("all", "Remove all unused images not just dangling ones").short('a'),
            FILTER,
            FORCE,
            Flag::switch("volumes", "Prune anonymous volumes"),
        ]]);

const CONTAINERS_WARNING: &str = "WARNING! This will remove all stopped containers.";
const DANGLING_WARNING: &str = "WARNING! This will remove all dangling images.";
const UNUSED_WARNING: &str = "WARNING! This will remove all images without at least one container associated to them.";
const ANONYMOUS_WARNING: &str = "WARNING! This will remove anonymous local volumes not used by at least one container.";
const VOLUMES_WARNING: &str = "WARNING! This will remove all local volumes not used by at least one container.";
const NETWORKS_WARNING: &str = "WARNING! This will remove all custom networks not used by at least one container.";

/// What was removed, as text, and the bytes that came back.
type Report = (String, u64);

async fn containers(context: Context, flags: Parsed) -> Result<u8> {
    confirm(&flags, CONTAINERS_WARNING)?;
    let daemon = context.daemon().await?;
    let report = prune_containers(&daemon, &flags).await?;
    print(report)
}

async fn images(context: Context, flags: Parsed) -> Result<u8> {
    confirm(&flags, if flags.on("all") { UNUSED_WARNING } else { DANGLING_WARNING })?;
    let daemon = context.daemon().await?;
    let report = prune_images(&daemon, &flags).await?;
    print(report)
}

async fn volumes(context: Context, flags: Parsed) -> Result<u8> {
    let all = flags.on("all");
    confirm(&flags, if all { VOLUMES_WARNING } else { ANONYMOUS_WARNING })?;
    let daemon = context.daemon().await?;
    let report = prune_volumes(&daemon, &flags, all).await?;
    print(report)
}

async fn networks(context: Context, flags: Parsed) -> Result<u8> {
    confirm(&flags, NETWORKS_WARNING)?;
    let daemon = context.daemon().await?;
    printer::text(&prune_networks(&daemon, &flags).await?.0)?;
    Ok(0)
}

async fn system(context: Context, flags: Parsed) -> Result<u8> {
    let (all, with_volumes) = (flags.on("all"), flags.on("volumes"));
    if with_volumes && flags.list("filter").iter().any(|filter| filter.starts_with("until=")) {
        return Err(Failure::new("ERROR: The \"until\" filter is not supported with \"--volumes\""));
    }
    let mut warning =
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
                       container\n"
            .to_owned();
    if with_volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    confirm(&flags, &warning)?;
    let daemon = context.daemon().await?;
    let mut whole = prune_containers(&daemon, &flags).await?;
    let mut add = |(text, bytes): Report| {
        whole.0.push_str(&text);
        whole.1 += bytes;
    };
    add(prune_networks(&daemon, &flags).await?);
    if with_volumes {
        add(prune_volumes(&daemon, &flags, false).await?);
    }
    add(prune_images(&daemon, &flags).await?);
    print(whole)
}

async fn prune_containers(daemon: &Daemon, flags: &Parsed) -> Result<Report> {
    let pruned: PrunedContainers = post(daemon, "/containers/prune", flags, &[]).await?;
    Ok((list("Deleted Containers", pruned.containers_deleted), pruned.space_reclaimed))
}

async fn prune_networks(daemon: &Daemon, flags: &Parsed) -> Result<Report> {
    let pruned: PrunedNetworks = post(daemon, "/networks/prune", flags, &[]).await?;
    Ok((list("Deleted Networks", pruned.networks_deleted), 0))
}

async fn prune_volumes(daemon: &Daemon, flags: &Parsed, all: bool) -> Result<Report> {
    let more: &[_] = if all { &[("all", "1")] } else { &[] };
    let pruned: PrunedVolumes = post(daemon, "/volumes/prune", flags, more).await?;
    Ok((list("Deleted Volumes", pruned.volumes_deleted), pruned.space_reclaimed))
}

async fn prune_images(daemon: &Daemon, flags: &Parsed) -> Result<Report> {
    let dangling = if flags.on("all") { "false" } else { "true" };
    let pruned: PrunedImages = post(daemon, "/images/prune", flags, &[("dangling", dangling)]).await?;
    let lines = pruned.images_deleted.map(|steps| {
        let line = |step: gantry_api::image::ImageDeleted| {
            if step.deleted.is_empty() {
                format!("untagged: {}", step.untagged)
            } else {
                format!("deleted: {}", step.deleted)
            }
        };
        steps.into_iter().map(line).collect()
    });
    Ok((list("Deleted Images", lines), pruned.space_reclaimed))
}

async fn post<T: DeserializeOwned>(daemon: &Daemon, path: &str, flags: &Parsed, more: &[(&str, &str)]) -> Result<T> {
    let mut filters = filters(flags.list("filter"));
    for (name, value) in more {
        filters.add(*name, *value);
    }
    let query = Query::new().with_text("filters", filter_text(&filters));
    daemon.post_json(path, &query, &Value::Null).await
}

fn list(heading: &str, names: Option<Vec<String>>) -> String {
    let Some(names) = names.filter(|names| !names.is_empty()) else { return String::new() };
    let mut text = format!("{heading}:\n");
    for name in names {
        // A string takes everything.
        let _ = writeln!(text, "{name}");
    }
    text.push('\n');
    text
}

fn print((text, bytes): Report) -> Result<u8> {
    let reclaimed = size::human(i64::try_from(bytes).unwrap_or(i64::MAX));
    printer::text(&format!("{text}Total reclaimed space: {reclaimed}\n"))?;
    Ok(0)
}

/// Asks, unless told not to; everything but yes is no.
fn confirm(flags: &Parsed, warning: &str) -> Result<()> {
    if flags.on("force") {
        return Ok(());
    }
    Output::Out.write(format!("{warning}\nAre you sure you want to continue? [y/N] ").as_bytes())?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" | "Yes" => Ok(()),
        _ => Err(Failure::silent(0)),
    }
}
