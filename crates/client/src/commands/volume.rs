//! `volume ls`, `create` and `rm`.

use gantry_api::volume::{Volume, VolumeCreate, VolumeList};

use super::{filter_text, filters, for_each};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::flags::{checks, env};
use crate::format::rows::{Columns, Listing};
use crate::format::size;
use crate::printer;
use crate::template::{HIDDEN, Value};

/// `volume ls`.
pub static LIST: Command =
    Command::new(&["[OPTIONS]"], "List volumes", Arity::None, |context, flags| Box::pin(list(context, flags))).flags(
        &[&[
            Flag::many("filter", "filter", "Provide filter values (e.g. \"dangling=true\")")
                .short('f')
                .check(checks::filter),
            Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
            Flag::switch("quiet", "Only display volume names").short('q'),
            Flag::later("cluster", ""),
        ]],
    );

/// `volume create`.
pub static CREATE: Command =
    Command::new(&["[OPTIONS] [VOLUME]"], "Create a volume", Arity::AtMost(1), |context, flags| {
        Box::pin(create(context, flags))
    })
    .flags(&[&[
        Flag::one("driver", "string", "Specify volume driver name").short('d').default("local"),
        Flag::many("label", "list", "Set metadata for a volume").check(checks::label),
        Flag::one("name", "string", "").alias_of("name"),
        Flag::many("opt", "map", "Set driver specific options").short('o'),
        Flag::later("availability", "string"),
        Flag::later("group", "string"),
        Flag::later("limit-bytes", "bytes"),
        Flag::later("required-bytes", "bytes"),
        Flag::later("scope", "string"),
        Flag::later("secret", "map"),
        Flag::later("sharing", "string"),
        Flag::later("topology-preferred", "list"),
        Flag::later("topology-required", "list"),
        Flag::later("type", "string"),
    ]]);

/// `volume rm`.
pub static REMOVE: Command = Command::new(
    &["[OPTIONS] VOLUME [VOLUME...]"],
    "Remove one or more volumes",
    Arity::AtLeast(1),
    |context, flags| Box::pin(remove(context, flags)),
)
.flags(&[&[Flag::switch("force", "Force the removal of one or more volumes").short('f')]])
.details("A volume that a container uses cannot be removed.");

const COLUMNS: Columns = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Status", "STATUS"),
];

async fn list(context: Context, flags: Parsed) -> Result<u8> {
    let query = Query::new().with_text("filters", filter_text(&filters(flags.list("filter"))));
    let mut answer: VolumeList = context.daemon().await?.get("/volumes", &query).await?;
    answer.volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<_> = answer.volumes.iter().map(row).collect();
    let listing = Listing { columns: COLUMNS, table: "{{.Driver}}\t{{.Name}}", quiet: "{{.Name}}" };
    printer::text(&listing.render(flags.text_or_empty("format"), flags.on("quiet"), &rows)?)?;
    for warning in answer.warnings.unwrap_or_default() {
        printer::error_line(&format!("WARNING: {warning}"));
    }
    Ok(0)
}

/// The table of `system df -v`.
pub(super) fn usage(volumes: &[Volume]) -> Result<String> {
    let table = "{{.Name}}\t{{.Links}}\t{{.Size}}";
    let rows: Vec<_> = volumes.iter().map(row).collect();
    Listing { columns: COLUMNS, table, quiet: table }.render("", false, &rows)
}

fn row(volume: &Volume) -> Value {
    let labels = volume.labels.clone().unwrap_or_default();
    let shown: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let measured = volume.usage_data.filter(|usage| usage.size >= 0);
    let pairs = [
        ("Availability", Value::from("N/A")),
        ("Driver", volume.driver.as_str().into()),
        ("Group", "N/A".into()),
        ("Labels", shown.join(",").into()),
        ("Links", volume.usage_data.map_or("N/A".to_owned(), |usage| usage.ref_count.to_string()).into()),
        ("Mountpoint", volume.mountpoint.as_str().into()),
        ("Name", volume.name.as_str().into()),
        ("Scope", volume.scope.as_str().into()),
        ("Size", measured.map_or("N/A".to_owned(), |usage| size::human(usage.size)).into()),
        ("Status", "N/A".into()),
    ];
    let mut pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let labels = labels.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    pairs.push((format!("{HIDDEN}Label"), Value::Map(labels)));
    Value::Map(pairs)
}

async fn create(context: Context, flags: Parsed) -> Result<u8> {
    let name = match (flags.text("name"), flags.args.first()) {
        (Some(_), Some(_)) => {
            return Err(Failure::new(
                "conflicting options: cannot specify a volume name through both --name and as a positional arg",
            ));
        }
        (Some(name), None) => name,
        (None, name) => name.map_or("", String::as_str),
    };
    let request = VolumeCreate {
        name: name.to_owned(),
        driver: flags.text("driver").unwrap_or("local").to_owned(),
        driver_opts: Some(env::pairs(flags.list("opt"))),
        labels: Some(env::pairs(flags.list("label"))),
    };
    let volume: Volume = context.daemon().await?.post_json("/volumes/create", &Query::new(), &request).await?;
    printer::line(&volume.name)?;
    Ok(0)
}

async fn remove(context: Context, flags: Parsed) -> Result<u8> {
    let query = Query::new().with_flag("force", flags.on("force"));
    let daemon = context.daemon().await?;
    for_each(&flags.args, |name| {
        let (daemon, query) = (daemon.clone(), query.clone());
        async move { daemon.delete(&format!("/volumes/{}", segment(&name)), &query).await.map(drop) }
    })
    .await
}
