//! `network ls`, `ports`, `doctor`, `create`, `rm`, `connect` and `disconnect`.

use std::collections::BTreeMap;

use gantry_api::network::{
    Diagnosis, EndpointIpam, EndpointSettings, Ipam, Network, NetworkConnect, NetworkCreate, NetworkCreated,
    NetworkDisconnect, Reachable,
};

use super::{filter_text, filters, for_each};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::flags::{checks, env, network};
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

/// `network ports`.
pub static PORTS: Command = Command::new(
    &["[OPTIONS]"],
    "List published ports, who reaches them, and the rule that says so",
    Arity::None,
    |context, flags| Box::pin(ports(context, flags)),
)
.flags(&[&[Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template")]]);

/// `network doctor`.
pub static DOCTOR: Command = Command::new(
    &["[OPTIONS] CONTAINER"],
    "Say what is wrong with a container's network, and what helps",
    Arity::Exactly(1),
    |context, flags| Box::pin(doctor(context, flags)),
)
.flags(&[&[Flag::one("format", "string", "Format output: 'json', or a Go template")]]);

/// `network create`.
pub static CREATE: Command =
    Command::new(&["[OPTIONS] NETWORK"], "Create a network", Arity::Exactly(1), |context, flags| {
        Box::pin(create(context, flags))
    })
    .flags(&[&[
        Flag::switch("attachable", "Enable manual container attachment"),
        Flag::many("aux-address", "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
        Flag::one("driver", "string", "Driver to manage the Network").short('d').default("bridge"),
        Flag::many("gateway", "strings", "IPv4 or IPv6 Gateway for the master subnet"),
        Flag::switch("internal", "Restrict external access to the network"),
        Flag::many("ip-range", "strings", "Allocate container ip from a sub-range"),
        Flag::one("ipam-driver", "string", "IP Address Management Driver").default("default"),
        Flag::many("ipam-opt", "map", "Set IPAM driver specific options"),
        Flag::switch_on("ipv4", "Enable or disable IPv4 address assignment"),
        Flag::switch("ipv6", "Enable or disable IPv6 address assignment"),
        Flag::many("label", "list", "Set metadata on a network").check(checks::label),
        Flag::many("opt", "map", "Set driver specific options").short('o'),
        Flag::many("subnet", "strings", "Subnet in CIDR format that represents a network segment"),
        Flag::later("config-from", "string"),
        Flag::later("config-only", ""),
        Flag::later("ingress", ""),
        Flag::later("scope", "string"),
    ]]);

/// `network rm`.
pub static REMOVE: Command =
    Command::new(&["NETWORK [NETWORK...]"], "Remove one or more networks", Arity::AtLeast(1), |context, flags| {
        Box::pin(remove(context, flags))
    })
    .flags(&[&[Flag::switch("force", "Do not error if the network does not exist").short('f')]]);

/// `network connect`.
pub static CONNECT: Command = Command::new(
    &["[OPTIONS] NETWORK CONTAINER"],
    "Connect a container to a network",
    Arity::Exactly(2),
    |context, flags| Box::pin(connect(context, flags)),
)
.flags(&[&[
    Flag::many("alias", "strings", "Add network-scoped alias for the container"),
    Flag::many("driver-opt", "strings", "driver options for the network"),
    Flag::one(
        "gw-priority",
        "int",
        "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
    )
    .check(checks::int),
    Flag::one("ip", "string", "IPv4 address (e.g., \"172.30.100.104\")"),
    Flag::one("ip6", "string", "IPv6 address (e.g., \"2001:db8::33\")"),
    Flag::many("link", "list", "Add link to another container"),
    Flag::many("link-local-ip", "strings", "Add a link-local address for the container"),
]]);

/// `network disconnect`.
pub static DISCONNECT: Command = Command::new(
    &["[OPTIONS] NETWORK CONTAINER"],
    "Disconnect a container from a network",
    Arity::Exactly(2),
    |context, flags| Box::pin(disconnect(context, flags)),
)
.flags(&[&[Flag::switch("force", "Force the container to disconnect from a network").short('f')]]);

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

const PORT_COLUMNS: Columns = &[
    ("Container", "CONTAINER"),
    ("Network", "NETWORK"),
    ("Host", "HOST"),
    ("Inside", "INSIDE"),
    ("Protocol", "PROTOCOL"),
    ("From", "REACHABLE FROM"),
    ("Rule", "RULE"),
];

async fn ports(context: Context, flags: Parsed) -> Result<u8> {
    let all: Vec<Reachable> = context.daemon().await?.get("/network-ports", &Query::new()).await?;
    let row = |port: &Reachable| {
        let pairs = [
            ("Container", &port.container),
            ("From", &port.from),
            ("Host", &port.host),
            ("Inside", &port.inside),
            ("Network", &port.network),
            ("Protocol", &port.protocol),
            ("Rule", &port.rule),
        ];
        Value::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value.as_str()))).collect())
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let table = "{{.Container}}\t{{.Host}}\t{{.Inside}}\t{{.Protocol}}\t{{.From}}\t{{.Rule}}";
    let listing = Listing { columns: PORT_COLUMNS, table, quiet: "{{.Host}}" };
    printer::text(&listing.render(flags.text_or_empty("format"), false, &rows)?)?;
    Ok(0)
}

async fn doctor(context: Context, flags: Parsed) -> Result<u8> {
    let path = format!("/network-doctor/{}", segment(&flags.args[0]));
    let told: Diagnosis = context.daemon().await?.get(&path, &Query::new()).await?;
    match flags.text_or_empty("format") {
        "" => printer::line(&sentence(&told))?,
        "json" => printer::line(&serde_json::to_string(&told).map_err(|error| Failure::new(error.to_string()))?)?,
        format => {
            let texts = [
                ("Check", told.check.clone()),
                ("Container", told.container.clone()),
                ("ContainerID", told.container_id.clone()),
                ("Finding", told.finding.clone()),
                ("Fix", told.fix.clone()),
                ("Healthy", told.healthy.to_string()),
                ("Network", told.network.clone()),
                ("Networks", told.networks.join(",")),
                ("Remedy", told.remedy.clone()),
            ];
            let row = texts.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text.as_str()))).collect();
            let listing = Listing { columns: &[], table: "", quiet: "" };
            printer::text(&listing.render(format, false, &[Value::Map(row)])?)?;
        }
    }
    Ok(u8::from(!told.healthy))
}

fn sentence(told: &Diagnosis) -> String {
    let Diagnosis { container, networks, network, finding, fix, .. } = told;
    if !told.healthy {
        let place = if network.is_empty() { String::new() } else { format!(", network {network}") };
        let command = match told.remedy.as_str() {
            "restart" => format!(": gantry restart {container}"),
            "reconnect" => format!(
                ": gantry network disconnect {network} {container} && gantry network connect {network} {container}"
            ),
            _ => String::new(),
        };
        return format!("{container}{place}: {finding}: {fix}{command}");
    }
    match networks.as_slice() {
        [] => format!("{container} has no network of its own, and wants none"),
        [one] => format!("{container}: all is well on network {one}"),
        several => format!("{container}: all is well on networks {}", several.join(", ")),
    }
}

async fn create(context: Context, flags: Parsed) -> Result<u8> {
    let ipam = Ipam {
        driver: flags.text("ipam-driver").unwrap_or("default").to_owned(),
        options: Some(env::pairs(flags.list("ipam-opt"))),
        config: network::pools(&flags).map_err(Failure::new)?,
    };
    let request = NetworkCreate {
        name: flags.args[0].clone(),
        driver: flags.text("driver").unwrap_or("bridge").to_owned(),
        enable_ipv4: flags.text("ipv4").map(|_| flags.on("ipv4")),
        enable_ipv6: flags.text("ipv6").map(|_| flags.on("ipv6")),
        ipam: Some(ipam),
        internal: flags.on("internal"),
        attachable: flags.on("attachable"),
        options: env::pairs(flags.list("opt")),
        labels: env::pairs(flags.list("label")),
        ..NetworkCreate::default()
    };
    let created: NetworkCreated =
        context.daemon().await?.post_json("/networks/create", &Query::new(), &request).await?;
    if !created.warning.is_empty() {
        printer::error_line(&format!("WARNING: {}", created.warning));
    }
    printer::line(&created.id)?;
    Ok(0)
}

async fn remove(context: Context, flags: Parsed) -> Result<u8> {
    let daemon = context.daemon().await?;
    let force = flags.on("force");
    for_each(&flags.args, |name| {
        let daemon = daemon.clone();
        async move {
            match daemon.delete(&format!("/networks/{}", segment(&name)), &Query::new()).await {
                Err(failure) if !(force && failure.is_not_found()) => Err(failure),
                _ => Ok(()),
            }
        }
    })
    .await
}

async fn connect(context: Context, flags: Parsed) -> Result<u8> {
    let options = flags.list("driver-opt").iter().map(|option| {
        let pair = option.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| Failure::new(format!("invalid key/value pair format in driver options: {option}")))
    });
    let options = options.collect::<Result<BTreeMap<_, _>>>()?;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let settings = EndpointSettings {
        ipam_config: Some(EndpointIpam {
            ipv4_address: flags.text_or_empty("ip").to_owned(),
            ipv6_address: flags.text_or_empty("ip6").to_owned(),
            link_local_ips: some(flags.list("link-local-ip")),
        }),
        links: some(flags.list("link")),
        aliases: some(flags.list("alias")),
        driver_opts: Some(options).filter(|options| !options.is_empty()),
        gw_priority: flags.text("gw-priority").and_then(|text| text.parse().ok()).unwrap_or_default(),
        ..EndpointSettings::default()
    };
    let request = NetworkConnect { container: flags.args[1].clone(), endpoint_config: Some(settings) };
    let path = format!("/networks/{}/connect", segment(&flags.args[0]));
    let _empty: serde_json::Value = context.daemon().await?.post_json(&path, &Query::new(), &request).await?;
    Ok(0)
}

async fn disconnect(context: Context, flags: Parsed) -> Result<u8> {
    let request = NetworkDisconnect { container: flags.args[1].clone(), force: flags.on("force") };
    let path = format!("/networks/{}/disconnect", segment(&flags.args[0]));
    let _empty: serde_json::Value = context.daemon().await?.post_json(&path, &Query::new(), &request).await?;
    Ok(0)
}
