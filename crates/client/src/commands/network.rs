//! `network ls`.

use gantry_api::network::Network;

use super::{filter_text, filters};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::Result;
use crate::flags::checks;
use crate::format::rows::{Columns, Listing};
use crate::format::short_id;
use crate::printer;
use crate::template::{HIDDEN, Value};

/// `network ls`.
pub static LIST: Command =
    Command::new(&["[OPTIONS]"], "List networks", Arity::None, |context, flags| Box::pin(list(context, flags))).flags(
        &[&[
            Flag::many("filter", "filter", "Provide filter values (e.g. \"driver=bridge\")")
                .short('f')
                .check(checks::filter),
            Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
            Flag::switch("no-trunc", "Do not truncate the output"),
            Flag::switch("quiet", "Only display network IDs").short('q'),
        ]],
    );

const COLUMNS: Columns = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

async fn list(context: Context, flags: Parsed) -> Result<u8> {
    let query = Query::new().with_text("filters", filter_text(&filters(flags.list("filter"))));
    let mut networks: Vec<Network> = context.daemon().await?.get("/networks", &query).await?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<_> = networks.iter().map(|network| row(network, flags.on("no-trunc"))).collect();
    let listing = Listing { columns: COLUMNS, table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}", quiet: "{{.ID}}" };
    printer::text(&listing.render(flags.text_or_empty("format"), flags.on("quiet"), &rows)?)?;
    Ok(0)
}

fn row(network: &Network, whole: bool) -> Value {
    let labels: Vec<_> = network.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let pairs = [
        ("CreatedAt", Value::from(network.created.as_str())),
        ("Driver", network.driver.as_str().into()),
        ("ID", if whole { network.id.as_str() } else { short_id(&network.id) }.into()),
        ("IPv4", network.enable_ipv4.to_string().into()),
        ("IPv6", network.enable_ipv6.to_string().into()),
        ("Internal", network.internal.to_string().into()),
        ("Labels", labels.join(",").into()),
        ("Name", network.name.as_str().into()),
        ("Scope", network.scope.as_str().into()),
    ];
    let mut pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let labels = network.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    pairs.push((format!("{HIDDEN}Label"), Value::Map(labels)));
    Value::Map(pairs)
}
