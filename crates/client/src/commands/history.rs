//! `history`.

use gantry_api::image::HistoryItem;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::Result;
use crate::format::rows::{Columns, Listing};
use crate::format::{ellipsis, short_id, size, time};
use crate::printer;
use crate::template::Value;

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS] IMAGE"], "Show the history of an image", Arity::Exactly(1), |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
        Flag::switch_on("human", "Print sizes and dates in human readable format").short('H'),
        Flag::switch("no-trunc", "Don't truncate output"),
        Flag::switch("quiet", "Only show image IDs").short('q'),
        Flag::one("platform", "string", "Show history of the given platform: os[/arch[/variant]]"),
    ]]);

const COLUMNS: Columns = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let path = format!("/images/{}/history", segment(&flags.args[0]));
    let query = Query::new().with_text("platform", flags.text_or_empty("platform"));
    let steps: Vec<HistoryItem> = context.daemon().await?.get(&path, &query).await?;
    let human = flags.not_off("human");
    let rows: Vec<_> = steps.iter().map(|step| row(step, flags.on("no-trunc"), human)).collect();
    let created = if human { "{{.CreatedSince}}" } else { "{{.CreatedAt}}" };
    let table = format!("{{{{.ID}}}}\t{created}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}");
    let listing = Listing { columns: COLUMNS, table: &table, quiet: "{{.ID}}" };
    printer::text(&listing.render(flags.text_or_empty("format"), flags.on("quiet"), &rows)?)?;
    Ok(0)
}

fn row(step: &HistoryItem, whole: bool, human: bool) -> Value {
    let made_by = step.created_by.replace('\t', " ");
    let at = jiff::Timestamp::from_second(step.created).map(|at| at.to_string()).unwrap_or_default();
    let pairs = [
        ("Comment", Value::from(step.comment.as_str())),
        ("CreatedAt", at.into()),
        ("CreatedBy", if whole { made_by } else { ellipsis(&made_by, 45) }.into()),
        ("CreatedSince", time::ago(step.created).into()),
        ("ID", if whole { step.id.as_str() } else { short_id(&step.id) }.into()),
        ("Size", if human { size::human(step.size) } else { step.size.to_string() }.into()),
    ];
    Value::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
