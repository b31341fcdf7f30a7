//! `search`.

use gantry_api::reference::DEFAULT_DOMAIN;
use gantry_api::registry::SearchResult;

use super::{filter_text, filters};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::Result;
use crate::flags::checks;
use crate::format::ellipsis;
use crate::format::rows::{Columns, Listing};
use crate::printer;
use crate::template::Value;

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS] TERM"], "Search Docker Hub for images", Arity::Exactly(1), |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::many("filter", "filter", "Filter output based on conditions provided").short('f').check(checks::filter),
        Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
        Flag::one("limit", "int", "Max number of search results").check(checks::int),
        Flag::switch("no-trunc", "Don't truncate output"),
    ]]);

const COLUMNS: Columns = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];
const TABLE: &str = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
/// How much of a description is shown.
const WIDTH: usize = 45;

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let term = &flags.args[0];
    let domain = match term.split_once('/') {
        Some((first, _)) if first == "localhost" || first.contains(['.', ':']) => first,
        _ => DEFAULT_DOMAIN,
    };
    let auth = match format!("{domain}/x").parse() {
        Ok(reference) => context.config.registry_auth(&reference),
        Err(_) => None,
    };
    let query = Query::new()
        .with("term", term)
        .with_text("limit", flags.text_or_empty("limit"))
        .with_text("filters", filter_text(&filters(flags.list("filter"))));
    let headers: Vec<_> = auth.iter().map(|auth| ("x-registry-auth", auth.as_str())).collect();
    let found: Vec<SearchResult> = context.daemon().await?.get_with("/images/search", &query, &headers).await?;
    let rows: Vec<_> = found.iter().map(|found| row(found, flags.on("no-trunc"))).collect();
    let listing = Listing { columns: COLUMNS, table: TABLE, quiet: TABLE };
    printer::text(&listing.render(flags.text_or_empty("format"), false, &rows)?)?;
    Ok(0)
}

fn row(found: &SearchResult, whole: bool) -> Value {
    let description = found.description.replace(['\n', '\r'], " ");
    let description = if whole { description } else { ellipsis(&description, WIDTH) };
    let ok = |is: bool| if is { "[OK]" } else { "" };
    let pairs = [
        ("Name", Value::from(found.name.clone())),
        ("Description", description.into()),
        ("StarCount", found.star_count.to_string().into()),
        ("IsOfficial", ok(found.is_official).into()),
        ("IsAutomated", ok(found.is_automated).into()),
    ];
    Value::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
