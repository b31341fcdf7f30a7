//! `ps`.

use std::collections::BTreeMap;

use gantry_api::container::{ContainerSummary, PortSummary};

use super::{filter_text, filters};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::Result;
use crate::flags::checks;
use crate::format::rows::{Columns, Listing};
use crate::format::{ellipsis, short_id, size, time};
use crate::printer;
use crate::template::{HIDDEN, Value};

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS]"], "List containers", Arity::None, |context, flags| Box::pin(run(context, flags))).flags(
        &[&[
            Flag::switch("all", "Show all containers (default shows just running)").short('a'),
            Flag::many("filter", "filter", "Filter output based on conditions provided")
                .short('f')
                .check(checks::filter),
            Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
            Flag::one("last", "int", "Show n last created containers (includes all states)")
                .short('n')
                .default("-1")
                .check(checks::int),
            Flag::switch("latest", "Show the latest created container (includes all states)").short('l'),
            Flag::switch("no-trunc", "Don't truncate output"),
            Flag::switch("quiet", "Only display container IDs").short('q'),
            Flag::switch("size", "Display total file sizes").short('s'),
        ]],
    );

const COLUMNS: Columns = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];
const TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let format = flags.text("format").unwrap_or(&context.config.ps_format).to_owned();
    let with_size = flags.on("size") || format.contains(".Size");
    let last = if flags.on("latest") { 1 } else { flags.int("last").unwrap_or(-1) };
    let query = Query::new()
        .with_flag("all", flags.on("all") || last > 0)
        .with_flag("size", with_size)
        .with_text("limit", if last > 0 { last.to_string() } else { String::new() })
        .with_text("filters", filter_text(&filters(flags.list("filter"))));
    let containers: Vec<ContainerSummary> = context.daemon().await?.get("/containers/json", &query).await?;
    let rows: Vec<_> = containers.iter().map(|container| row(container, flags.on("no-trunc"))).collect();
    let table = if flags.on("size") { format!("{TABLE}\t{{{{.Size}}}}") } else { TABLE.to_owned() };
    let listing = Listing { columns: COLUMNS, table: &table, quiet: "{{.ID}}" };
    printer::text(&listing.render(&format, flags.on("quiet"), &rows)?)?;
    Ok(0)
}

/// The table of `system df -v`.
pub(super) fn usage(containers: &[ContainerSummary]) -> Result<String> {
    let table =
        "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
    let own: Vec<_> = containers.iter().map(|one| ContainerSummary { size_root_fs: None, ..one.clone() }).collect();
    let rows: Vec<_> = own.iter().map(|container| row(container, false)).collect();
    Listing { columns: COLUMNS, table, quiet: table }.render("", false, &rows)
}

fn row(container: &ContainerSummary, whole: bool) -> Value {
    let cut = |text: &str, width| if whole { text.to_owned() } else { ellipsis(text, width) };
    let id = if whole { container.id.as_str() } else { short_id(&container.id) };
    let names: Vec<_> = container
        .names
        .iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        // A name with another slash is a link of another container.
        .filter(|name| whole || !name.contains('/'))
        .collect();
    let image = match container.image.as_str() {
        "" => "<no image>",
        image if !whole && image == container.image_id => short_id(image),
        image => image,
    };
    let mounts: Vec<_> = container
        .mounts
        .iter()
        .map(|mount| cut(if mount.name.is_empty() { &mount.source } else { &mount.name }, 15))
        .collect();
    let volumes = container.mounts.iter().filter(|mount| mount.driver == "local").count();
    let labels: Vec<_> = container.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let networks: Vec<_> = container.network_settings.networks.keys().map(String::as_str).collect();
    let pairs = [
        ("Command", Value::from(format!("{:?}", cut(&container.command, 20)))),
        ("CreatedAt", time::of_unix(container.created).into()),
        ("ID", id.into()),
        ("Image", image.into()),
        ("Labels", labels.join(",").into()),
        ("LocalVolumes", volumes.to_string().into()),
        ("Mounts", mounts.join(",").into()),
        ("Names", names.join(",").into()),
        ("Networks", networks.join(",").into()),
        ("Platform", Value::Null),
        ("Ports", ports(&container.ports).into()),
        ("RunningFor", time::ago(container.created).into()),
        ("Size", sizes(container).into()),
        ("State", container.state.as_str().into()),
        ("Status", container.status.as_str().into()),
    ];
    let mut pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let labels = container.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    pairs.push((format!("{HIDDEN}Label"), Value::Map(labels)));
    Value::Map(pairs)
}

fn sizes(container: &ContainerSummary) -> String {
    let own = size::human(container.size_rw.unwrap_or(0));
    match container.size_root_fs {
        Some(all) if all > 0 => format!("{own} (virtual {})", size::human(all)),
        _ => own,
    }
}

/// `0.0.0.0:8080->80/tcp`, neighbours joined to ranges, as Docker shows them.
pub fn ports(ports: &[PortSummary]) -> String {
    let mut sorted = ports.to_vec();
    sorted.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.kind).cmp(&(b.private_port, &b.ip, b.public_port, &b.kind))
    });
    // Ports that are published to another number stand alone; the others form ranges by address and protocol.
    let mut ranges: BTreeMap<(String, bool, String), (u16, u16)> = BTreeMap::new();
    let (mut shown, mut moved) = (Vec::new(), Vec::new());
    for port in &sorted {
        let published = port.public_port > 0;
        if published && port.public_port != port.private_port {
            let address = host(&port.ip);
            moved.push(format!("{address}:{}->{}/{}", port.public_port, port.private_port, port.kind));
            continue;
        }
        let key = (if published { port.ip.clone() } else { String::new() }, published, port.kind.clone());
        match ranges.get_mut(&key) {
            Some((_, last)) if port.private_port == *last || port.private_port == last.saturating_add(1) => {
                *last = port.private_port;
            }
            Some(range) => {
                shown.push(show_range(&key, *range));
                *range = (port.private_port, port.private_port);
            }
            None => {
                ranges.insert(key, (port.private_port, port.private_port));
            }
        }
    }
    shown.extend(ranges.iter().map(|(key, range)| show_range(key, *range)));
    shown.extend(moved);
    shown.join(", ")
}

fn show_range((ip, published, kind): &(String, bool, String), (first, last): (u16, u16)) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    if *published { format!("{}:{range}->{range}/{kind}", host(ip)) } else { format!("{range}/{kind}") }
}

fn host(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private_port: u16, public_port: u16, kind: &str) -> PortSummary {
        PortSummary { ip: ip.into(), private_port, public_port, kind: kind.into() }
    }

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        assert_eq!(
            ports(&[port("0.0.0.0", 80, 8080, "tcp"), port("::", 80, 8080, "tcp")]),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(ports(&[port("", 443, 0, "tcp"), port("", 80, 0, "tcp")]), "80/tcp, 443/tcp");
        assert_eq!(ports(&[port("", 80, 0, "tcp"), port("", 81, 0, "tcp"), port("", 82, 0, "tcp")]), "80-82/tcp");
        assert_eq!(
            ports(&[port("127.0.0.1", 90, 90, "udp"), port("127.0.0.1", 91, 91, "udp")]),
            "127.0.0.1:90-91->90-91/udp"
        );
    }

    #[test]
    fn the_table_is_dockers_to_the_character() {
        let container = ContainerSummary {
            id: "0123456789abcdef0123".into(),
            names: vec!["/web".into(), "/other/alias".into()],
            image: "debian:12".into(),
            command: "/usr/bin/sleep 1000000 seconds".into(),
            created: jiff::Timestamp::now().as_second() - 125,
            state: "running".into(),
            status: "Up 2 minutes".into(),
            ports: vec![port("0.0.0.0", 80, 8080, "tcp")],
            ..ContainerSummary::default()
        };
        let listing = Listing { columns: COLUMNS, table: TABLE, quiet: "{{.ID}}" };
        let rows = [row(&container, false)];
        assert_eq!(
            listing.render("", false, &rows).unwrap(),
            "CONTAINER ID   IMAGE       COMMAND                  CREATED         STATUS         PORTS                  NAMES\n\
             0123456789ab   debian:12   \"/usr/bin/sleep 1000…\"   2 minutes ago   Up 2 minutes   0.0.0.0:8080->80/tcp   web\n"
        );
    }
}
