//! `jobs`: what the daemon is doing, and ending it.

use gantry_api::jobs::JobSummary;

use super::for_each;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::format::rows::{Columns, Listing};
use crate::format::{duration, ellipsis};
use crate::printer;
use crate::template::Value;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS]", "cancel JOB [JOB...]"],
    "List the jobs of the daemon, or cancel some",
    Arity::AtLeast(0),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::switch("all", "Show also the last jobs that ended").short('a'),
    Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag::switch("no-trunc", "Don't truncate output"),
    Flag::switch("quiet", "Only display job IDs").short('q'),
]]);

const COLUMNS: Columns = &[
    ("ID", "JOB"),
    ("Parent", "PARENT"),
    ("Name", "NAME"),
    ("Arguments", "ARGUMENTS"),
    ("Caller", "CALLER"),
    ("Status", "STATUS"),
    ("Cancellable", "CANCELLABLE"),
    ("StartedAt", "STARTED AT"),
    ("Duration", "DURATION"),
    ("Error", "ERROR"),
];

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    match flags.args.split_first() {
        None => list(context, &flags).await,
        Some((verb, [])) if verb == "cancel" => Err(Failure::new("name the jobs to cancel, as 'jobs' lists them")),
        Some((verb, ids)) if verb == "cancel" => {
            let daemon = context.daemon().await?;
            for_each(ids, |id| {
                let daemon = daemon.clone();
                async move { daemon.delete(&format!("/jobs/{}", segment(&id)), &Query::new()).await.map(drop) }
            })
            .await
        }
        Some((verb, _)) => Err(Failure::new(format!("unknown action {verb:?}: want 'jobs' or 'jobs cancel JOB'"))),
    }
}

async fn list(context: Context, flags: &Parsed) -> Result<u8> {
    let query = Query::new().with_flag("all", flags.on("all"));
    let jobs: Vec<JobSummary> = serde_json::from_slice(&context.daemon().await?.get_bytes("/jobs", &query).await?)?;
    let rows: Vec<_> = jobs.iter().map(|job| row(job, flags.on("no-trunc"))).collect();
    let table = "{{.ID}}\t{{.Parent}}\t{{.Name}}\t{{.Status}}\t{{.Duration}}\t{{.Caller}}\t{{.Arguments}}";
    let table = if flags.on("all") { format!("{table}\t{{{{.Error}}}}") } else { table.to_owned() };
    let listing = Listing { columns: COLUMNS, table: &table, quiet: "{{.ID}}" };
    printer::text(&listing.render(flags.text_or_empty("format"), flags.on("quiet"), &rows)?)?;
    Ok(0)
}

fn row(job: &JobSummary, whole: bool) -> Value {
    let cut = |text: &str, width| if whole { text.to_owned() } else { ellipsis(text, width) };
    let pairs = [
        ("Arguments", Value::from(cut(&job.arguments, 50))),
        ("Caller", job.caller.as_str().into()),
        ("Cancellable", Value::Bool(job.cancellable)),
        ("Duration", span(job.duration_ms).into()),
        ("Error", cut(job.error.as_deref().unwrap_or_default(), 60).into()),
        ("ID", job.id.to_string().into()),
        ("Name", job.name.as_str().into()),
        ("Parent", job.parent.map(|parent| parent.to_string()).unwrap_or_default().into()),
        ("StartedAt", job.started_at.as_str().into()),
        ("Status", job.status.as_str().into()),
    ];
    Value::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn span(milliseconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "whole seconds of a job")]
    match milliseconds {
        ..10.0 => format!("{milliseconds:.2}ms"),
        ..1000.0 => format!("{milliseconds:.0}ms"),
        ..60_000.0 => format!("{:.1}s", milliseconds / 1000.0),
        _ => duration::human((milliseconds / 1000.0) as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_who_does_what_for_how_long() {
        let job = JobSummary {
            id: 7,
            parent: Some(6),
            name: "pull".into(),
            arguments: "debian:12".into(),
            caller: "uid=0 pid=12".into(),
            status: "running".into(),
            cancellable: true,
            started_at: String::new(),
            duration_ms: 1234.0,
            error: None,
        };
        let table = "{{.ID}}\t{{.Parent}}\t{{.Name}}\t{{.Status}}\t{{.Duration}}\t{{.Caller}}\t{{.Arguments}}";
        let listing = Listing { columns: COLUMNS, table, quiet: "{{.ID}}" };
        assert_eq!(
            listing.render("", false, &[row(&job, false)]).unwrap(),
            "JOB       PARENT    NAME      STATUS    DURATION   CALLER         ARGUMENTS\n\
             7         6         pull      running   1.2s       uid=0 pid=12   debian:12\n"
        );
    }
}
