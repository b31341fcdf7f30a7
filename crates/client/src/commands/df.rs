//! `system df`: what takes how much of the disk.

use gantry_api::container::ContainerSummary;
use gantry_api::image::ImageSummary;
use gantry_api::usage::{DiskUsage, Usage};
use gantry_api::volume::Volume;
use serde::de::DeserializeOwned;

use super::{images, ps, volume};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::{Failure, Result};
use crate::format::rows::{Columns, Listing};
use crate::format::size;
use crate::printer;
use crate::template::Value;

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS]"], "Show disk usage", Arity::None, |context, flags| Box::pin(run(context, flags))).flags(
        &[&[
            Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
            Flag::switch("verbose", "Show detailed information on space usage").short('v'),
        ]],
    );

const COLUMNS: Columns = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

const KINDS: [(&str, &str); 4] = [
    ("ImageUsage", "Images"),
    ("ContainerUsage", "Containers"),
    ("VolumeUsage", "Local Volumes"),
    ("BuildCacheUsage", "Build Cache"),
];

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let verbose = flags.on("verbose");
    if verbose && flags.text("format").is_some() {
        return Err(Failure::new("the verbose and the format options conflict"));
    }
    let query = Query::new().with_flag("verbose", verbose);
    let usage: DiskUsage = context.daemon().await?.get("/system/df", &query).await?;
    if verbose {
        printer::text(&in_detail(&usage)?)?;
        return Ok(0);
    }
    let none = Usage::default();
    let rows = KINDS.map(|(field, shown)| row(shown, usage.newer.get(field).unwrap_or(&none)));
    let table = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let listing = Listing { columns: COLUMNS, table, quiet: table };
    printer::text(&listing.render(flags.text_or_empty("format"), false, &rows)?)?;
    Ok(0)
}

fn row(kind: &str, usage: &Usage) -> Value {
    let percent = if usage.total_size > 0 {
        format!(" ({}%)", usage.reclaimable * 100 / usage.total_size)
    } else {
        String::new()
    };
    let pairs = [
        ("Active", Value::from(usage.active_count.to_string())),
        ("Reclaimable", format!("{}{percent}", size::human(usage.reclaimable)).into()),
        ("Size", size::human(usage.total_size).into()),
        ("TotalCount", usage.total_count.to_string().into()),
        ("Type", kind.into()),
    ];
    Value::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A table for each kind.
fn in_detail(usage: &DiskUsage) -> Result<String> {
    let images: Vec<ImageSummary> = items(usage, "ImageUsage")?;
    let containers: Vec<ContainerSummary> = items(usage, "ContainerUsage")?;
    let volumes: Vec<Volume> = items(usage, "VolumeUsage")?;
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: 0B\n\n",
        images::usage(&images)?,
        ps::usage(&containers)?,
        volume::usage(&volumes)?,
    ))
}

fn items<T: DeserializeOwned>(usage: &DiskUsage, field: &str) -> Result<Vec<T>> {
    let items = usage.newer.get(field).and_then(|usage| usage.items.clone());
    items.map_or(Ok(Vec::new()), |items| serde_json::from_value(items).map_err(Into::into))
}
