//! `stats`: what containers use, once or again and again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use gantry_api::container::ContainerSummary;
use http_body_util::BodyExt as _;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query, broken, segment};
use crate::failure::{Failure, Result};
use crate::format::rows::{Columns, Listing};
use crate::format::{short_id, size};
use crate::printer::{self, Output};
use crate::template::Value;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] [CONTAINER...]"],
    "Display a live stream of container(s) resource usage statistics",
    Arity::AtLeast(0),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::switch("all", "Show all containers (default shows just running)").short('a'),
    Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag::switch("no-stream", "Disable streaming stats and only pull the first result"),
    Flag::switch("no-trunc", "Do not truncate output"),
]]);

const COLUMNS: Columns = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
const REDRAW: Duration = Duration::from_millis(500);

/// The last sample of each container, in the order of the containers.
type Samples = Rc<RefCell<Vec<Option<Value>>>>;

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let daemon = context.daemon().await?;
    let names = if flags.args.is_empty() {
        let query = Query::new().with_flag("all", flags.on("all"));
        let all: Vec<ContainerSummary> = daemon.get("/containers/json", &query).await?;
        all.into_iter().map(|container| container.id).collect()
    } else {
        flags.args.clone()
    };
    let samples: Samples = Rc::new(RefCell::new(vec![None; names.len()]));
    let once = flags.on("no-stream");
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let tasks: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(place, name)| {
                    let (daemon, name, samples) = (daemon.clone(), name.clone(), samples.clone());
                    tokio::task::spawn_local(async move { follow(&daemon, &name, once, place, &samples).await })
                })
                .collect();
            let watching = async {
                let mut failures = Vec::new();
                for task in tasks {
                    let ended = task.await.unwrap_or_else(|error| Err(Failure::new(error.to_string())));
                    failures.extend(ended.err());
                }
                Failure::join(failures)
            };
            if once {
                let outcome = watching.await;
                printer::text(&render(&flags, &samples)?)?;
                return outcome;
            }
            tokio::select! {
                outcome = watching => outcome,
                failure = redraw(&flags, &samples) => Err(failure),
            }
        })
        .await?;
    Ok(0)
}

/// Takes samples until the container or the daemon ends.
async fn follow(daemon: &Daemon, name: &str, once: bool, place: usize, samples: &Samples) -> Result<()> {
    let query = Query::new().with("stream", if once { "0" } else { "1" });
    let mut body = daemon.get_stream(&format!("/containers/{}/stats", segment(name)), &query).await?.into_body();
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
        buffer.extend_from_slice(&bytes);
        let mut documents = serde_json::Deserializer::from_slice(&buffer).into_iter::<Value>();
        loop {
            match documents.next() {
                None => break,
                Some(Err(error)) if error.is_eof() => break,
                Some(sample) => samples.borrow_mut()[place] = Some(sample?),
            }
        }
        let done = documents.byte_offset();
        buffer.drain(..done);
    }
    Ok(())
}

async fn redraw(flags: &Parsed, samples: &Samples) -> Failure {
    let terminal = Output::Out.is_terminal();
    let mut ticks = tokio::time::interval(REDRAW);
    loop {
        ticks.tick().await;
        let drawn = render(flags, samples).and_then(|text| {
            // Home, each line to its end, then what is below.
            let text = if terminal { format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")) } else { text };
            printer::text(&text)
        });
        if let Err(failure) = drawn {
            return failure;
        }
    }
}

fn render(flags: &Parsed, samples: &Samples) -> Result<String> {
    let rows: Vec<_> = samples.borrow().iter().flatten().map(|sample| row(sample, flags.on("no-trunc"))).collect();
    let listing = Listing { columns: COLUMNS, table: TABLE, quiet: "{{.ID}}" };
    listing.render(flags.text_or_empty("format"), false, &rows)
}

fn at<'a>(sample: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(sample, |value, key| value.get(key))
}

fn int(sample: &Value, path: &[&str]) -> i64 {
    match at(sample, path) {
        Some(Value::Int(number)) => *number,
        _ => 0,
    }
}

#[allow(clippy::cast_precision_loss, reason = "shares with two digits")]
fn row(sample: &Value, whole: bool) -> Value {
    let cpu = {
        let delta = int(sample, &["cpu_stats", "cpu_usage", "total_usage"])
            - int(sample, &["precpu_stats", "cpu_usage", "total_usage"]);
        let system =
            int(sample, &["cpu_stats", "system_cpu_usage"]) - int(sample, &["precpu_stats", "system_cpu_usage"]);
        let cpus = int(sample, &["cpu_stats", "online_cpus"]).max(1);
        if delta > 0 && system > 0 { delta as f64 / system as f64 * cpus as f64 * 100.0 } else { 0.0 }
    };
    let inactive = ["total_inactive_file", "inactive_file"]
        .iter()
        .map(|name| int(sample, &["memory_stats", "stats", name]))
        .find(|bytes| *bytes > 0)
        .unwrap_or(0);
    let used = int(sample, &["memory_stats", "usage"]);
    let used = if inactive < used { used - inactive } else { used };
    let limit = int(sample, &["memory_stats", "limit"]);
    let memory = if limit > 0 { used as f64 / limit as f64 * 100.0 } else { 0.0 };
    let id = at(sample, &["id"]).and_then(Value::as_text).unwrap_or_default();
    let name = at(sample, &["name"]).and_then(Value::as_text).unwrap_or_default().trim_start_matches('/');
    let id = if whole { id } else { short_id(id) };
    let pair = |(a, b): (i64, i64)| format!("{} / {}", size::human(a), size::human(b));
    let pairs = [
        ("BlockIO", Value::from(pair(block_io(sample)))),
        ("CPUPerc", format!("{cpu:.2}%").into()),
        ("Container", id.into()),
        ("ID", id.into()),
        ("MemPerc", format!("{memory:.2}%").into()),
        ("MemUsage", format!("{} / {}", size::binary(used), size::binary(limit)).into()),
        ("Name", name.into()),
        ("NetIO", pair(network_io(sample)).into()),
        ("PIDs", int(sample, &["pids_stats", "current"]).to_string().into()),
    ];
    Value::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn network_io(sample: &Value) -> (i64, i64) {
    let Some(Value::Map(networks)) = at(sample, &["networks"]) else { return (0, 0) };
    let sum = |key: &str| networks.iter().map(|(_, network)| int(network, &[key])).sum();
    (sum("rx_bytes"), sum("tx_bytes"))
}

fn block_io(sample: &Value) -> (i64, i64) {
    let Some(Value::List(entries)) = at(sample, &["blkio_stats", "io_service_bytes_recursive"]) else { return (0, 0) };
    let sum = |wanted: &str| {
        let of = |entry: &&Value| {
            at(entry, &["op"]).and_then(Value::as_text).is_some_and(|op| op.eq_ignore_ascii_case(wanted))
        };
        entries.iter().filter(of).map(|entry| int(entry, &["value"])).sum()
    };
    (sum("read"), sum("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_computed_as_docker_computes_them() {
        let sample = r#"{"id":"0123456789abcdef","name":"/web","cpu_stats":{"cpu_usage":{"total_usage":300},
            "system_cpu_usage":2000,"online_cpus":2},"precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
            "memory_stats":{"usage":3145728,"limit":104857600,"stats":{"total_inactive_file":1048576}},
            "networks":{"eth0":{"rx_bytes":1000,"tx_bytes":20}},"pids_stats":{"current":3},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":4096},{"op":"write","value":1}]}}"#;
        let listing = Listing { columns: COLUMNS, table: TABLE, quiet: "" };
        let rows = [row(&serde_json::from_str(sample).unwrap(), false)];
        assert_eq!(
            listing
                .render(
                    "{{.ID}} {{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.NetIO}} {{.BlockIO}} {{.PIDs}}",
                    false,
                    &rows
                )
                .unwrap(),
            "0123456789ab web 40.00% 2MiB / 100MiB 2.00% 1kB / 20B 4.1kB / 1B 3\n"
        );
    }
}
