//! `cargo xtask bench doors`: what TLS costs beside a plain unix socket, with 64 clients; and memory after very many connections.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use gantry_tests::{Daemon, Options, command};
use gantry_transport::tls::Verification;
use gantry_transport::{ClientTls, Endpoint, HttpClient};
use http::Request;
use http_body_util::{BodyExt, Full};

use super::{report, value};
use crate::interrupt::Interrupt;
use crate::{build, setup};

const CLIENTS: usize = 64;
/// Containers that `ps` shows.
const CONTAINERS: usize = 20;
/// Connections that are open and say nothing.
const IDLE: usize = 10_000;
/// Requests of others meanwhile.
const OTHERS: usize = 500;
/// Connections of the test of memory; every tenth is encrypted.
const CONNECTIONS: usize = 100_000;

/// One way in.
struct Way {
    name: &'static str,
    endpoint: Endpoint,
    tls: Option<ClientTls>,
}

/// Measured with one way and one path.
#[derive(Default)]
struct Measured {
    rates: Vec<f64>,
    worst: Vec<Duration>,
}

/// What idle connections cost.
struct Idle {
    /// KiB resident for each.
    each: f64,
    /// Opening all of them.
    took: Duration,
    /// What 99 of 100 requests of others took at most meanwhile, by way in.
    others: Vec<Duration>,
}

/// `--seconds N` per row and round, `--rounds N`, `--connections N`, `--idle N`, `--release`.
pub fn doors(options: &[&str]) -> Result<()> {
    let seconds = value(options, "--seconds").map_or(Ok(4), str::parse).context("--seconds takes a number")?;
    let rounds = value(options, "--rounds").map_or(Ok(5), str::parse).context("--rounds takes a number")?;
    let many = value(options, "--connections").map_or(Ok(CONNECTIONS), str::parse).context("--connections")?;
    let silent = value(options, "--idle").map_or(Ok(IDLE), str::parse).context("--idle takes a number")?;
    let profile = if options.contains(&"--release") { "release" } else { build::PROFILE };
    setup::for_demo()?;
    let interrupt = Interrupt::catch()?;
    let binary = build::gantry(profile)?;
    let files = tempfile::Builder::new().prefix("gantry-bench-").tempdir().context("make a directory")?;
    let (daemon, ways) = start(&binary, files.path())?;
    prepare(&daemon, &binary)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let rows: Vec<(usize, &str, &str)> = ["/_ping", "/containers/json?all=1"]
        .into_iter()
        .zip(["`GET /_ping`", "`ps`, 20 containers"])
        .flat_map(|(path, shown)| (0..ways.len()).map(move |way| (way, path, shown)))
        .collect();
    let mut measured: Vec<Measured> = rows.iter().map(|_| Measured::default()).collect();
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for ((way, path, _), measured) in rows.iter().zip(&mut measured) {
            interrupt.check()?;
            let (rate, worst) = runtime.block_on(load(&ways[*way], path, Duration::from_secs(seconds)))?;
            measured.rates.push(rate);
            measured.worst.push(worst);
        }
    }
    more_descriptors()?;
    let mut idle = Vec::new();
    for way in &ways {
        println!("{silent} idle connections: {}", way.name);
        idle.push(runtime.block_on(be_idle(&daemon, way, &ways, silent))?);
    }
    let before = memory(&daemon)?;
    println!("{many} connections");
    runtime.block_on(come_and_go(&ways, many))?;
    let after = memory(&daemon)?;
    let mut table =
        format!("| {CLIENTS} clients | way in | requests/s | p99 ms | unix ÷ it |\n|---|---|---|---|---|\n");
    let median = |all: &[f64]| {
        let mut all = all.to_vec();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    for ((way, path, shown), own) in rows.iter().zip(&measured) {
        let unix = rows.iter().position(|(way, other, _)| *way == 0 && other == path).unwrap_or(0);
        let (rate, unix) = (median(&own.rates), median(&measured[unix].rates));
        let worst = super::measure::median(own.worst.clone());
        let _ = writeln!(
            table,
            "| {shown} | {} | {rate:.0} | {} | {:.1} |",
            ways[*way].name,
            report::millis(worst),
            unix / rate
        );
    }
    let _ = writeln!(
        table,
        "\n| {silent} connections that say nothing | KiB each | opened in s | p99 ms of others' `_ping`, unix | over TLS |\n|---|---|---|---|---|"
    );
    for (way, own) in ways.iter().zip(&idle) {
        let others: Vec<String> = own.others.iter().map(|worst| report::millis(*worst)).collect();
        let _ = writeln!(
            table,
            "| {} | {:.1} | {:.1} | {} |",
            way.name,
            own.each,
            own.took.as_secs_f64(),
            others.join(" | ")
        );
    }
    let version = command::succeed(Command::new(&binary).arg("--version"), command::LIMIT)?;
    let _ = write!(
        table,
        "\nMedians of {rounds} interleaved rounds of {seconds} s, connections kept, clients on the same machine, build: {profile}. \
         After {many} connections that each asked once and left, every tenth over TLS with a client's certificate: \
         {} MiB resident before, {} MiB after. {}.\n",
        before / 1024,
        after / 1024,
        version.stdout.trim(),
    );
    println!("\n{table}");
    report::write("bench doors", &table)?;
    if after > before + 16 * 1024 {
        bail!("memory grew from {before} KiB to {after} KiB");
    }
    Ok(())
}

fn start(binary: &Path, files: &Path) -> Result<(Daemon, Vec<Way>)> {
    let tls = files.join("tls");
    let mut init = Command::new(binary);
    command::succeed(init.args(["system", "tls-init", "--host", "127.0.0.1"]).arg(&tls), command::LIMIT)?;
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("a free port")?.port();
    let at = |name: &str| tls.join(name);
    let flag = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
    let flags = vec![
        format!("--host=tcp://127.0.0.1:{port}"),
        "--tlsverify".to_owned(),
        flag("tlscacert", at("ca.pem")),
        flag("tlscert", at("server-cert.pem")),
        flag("tlskey", at("server-key.pem")),
    ];
    let daemon =
        Daemon::with(Options { bridge: Some("gbench"), binary: Some(binary.to_owned()), flags, ..Options::default() })?;
    let client = ClientTls {
        verification: Verification::Authority(at("ca.pem")),
        identity: Some((at("cert.pem"), at("key.pem"))),
    };
    let ways = vec![
        Way { name: "unix", endpoint: Endpoint::unix(daemon.socket()), tls: None },
        Way {
            name: "tcp, TLS 1.3, client's certificate",
            endpoint: format!("tcp://127.0.0.1:{port}").parse()?,
            tls: Some(client),
        },
    ];
    Ok((daemon, ways))
}

/// Containers for the list.
fn prepare(daemon: &Daemon, binary: &Path) -> Result<()> {
    let files = tempfile::tempdir().context("make a directory")?;
    let root = files.path().join("root.tar");
    std::fs::write(&root, gantry_tests::image::busybox_layer()?).context("write the root file system")?;
    let ask = |arguments: &[&str]| command::succeed(daemon.client(binary).args(arguments), command::LIMIT);
    ask(&["import", &root.display().to_string(), "bench:latest"])?;
    for number in 0..CONTAINERS {
        ask(&["create", "--name", &format!("c{number}"), "bench:latest", "true"])?;
    }
    Ok(())
}

/// Requests per second of all clients, and the time that 99 of 100 answers took at most.
async fn load(way: &Way, path: &'static str, time: Duration) -> Result<(f64, Duration)> {
    let end = Instant::now() + time;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = HttpClient::new(way.endpoint.clone()).with_tls(way.tls.clone());
            tokio::spawn(async move {
                ask(&client, path).await?;
                let mut took = Vec::new();
                while Instant::now() < end {
                    let began = Instant::now();
                    ask(&client, path).await?;
                    took.push(began.elapsed());
                }
                Ok::<_, anyhow::Error>(took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.context("a client")??);
    }
    all.sort_unstable();
    let worst = all.get(all.len() * 99 / 100).copied().context("no answer came")?;
    Ok((all.len() as f64 / time.as_secs_f64(), worst))
}

async fn ask(client: &HttpClient, path: &str) -> Result<()> {
    let request = Request::get(path).body(Full::<Bytes>::default())?;
    let answer = client.request(request).await?;
    if answer.status() != 200 {
        bail!("{path}: {}", answer.status());
    }
    answer.into_body().collect().await?;
    Ok(())
}

/// Opens connections, past the handshake where there is one, and asks by others while they are there.
async fn be_idle(daemon: &Daemon, way: &Way, ways: &[Way], count: usize) -> Result<Idle> {
    let before = memory(daemon)?;
    let began = Instant::now();
    let workers: Vec<_> = (0..CLIENTS)
        .map(|worker| {
            let (endpoint, tls) = (way.endpoint.clone(), way.tls.clone());
            let own = count / CLIENTS + usize::from(worker < count % CLIENTS);
            tokio::spawn(async move {
                let mut open = Vec::with_capacity(own);
                for _ in 0..own {
                    open.push(gantry_transport::connect(&endpoint, tls.as_ref()).await?);
                }
                Ok::<_, gantry_transport::Error>(open)
            })
        })
        .collect();
    let mut open = Vec::with_capacity(count);
    for worker in workers {
        open.extend(worker.await.context("a worker")??);
    }
    let took = began.elapsed();
    let mut others = Vec::new();
    for way in ways {
        let client = HttpClient::new(way.endpoint.clone()).with_tls(way.tls.clone());
        let mut all = Vec::with_capacity(OTHERS);
        for _ in 0..OTHERS {
            let began = Instant::now();
            ask(&client, "/_ping").await?;
            all.push(began.elapsed());
        }
        all.sort_unstable();
        others.push(all[all.len() * 99 / 100]);
    }
    let each = memory(daemon)?.saturating_sub(before) as f64 / count as f64;
    // Those that say nothing are sent away after half a minute: what was measured had them all.
    if began.elapsed() > Duration::from_secs(28) {
        bail!("{count} connections took {took:?} to open, too long to have them all at once");
    }
    Ok(Idle { each, took, others })
}

/// Both ends of a connection need a descriptor.
fn more_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("have more open files")
}

async fn come_and_go(ways: &[Way], many: usize) -> Result<()> {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let workers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let next = Arc::clone(&next);
            let ways: Vec<_> = ways.iter().map(|way| (way.endpoint.clone(), way.tls.clone())).collect();
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= many {
                        return Ok::<_, anyhow::Error>(());
                    }
                    let (endpoint, tls) = ways[usize::from(number.is_multiple_of(10))].clone();
                    ask(&HttpClient::new(endpoint).with_tls(tls), "/_ping").await?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.context("a worker")??;
    }
    Ok(())
}

/// KiB that the daemon has resident.
fn memory(daemon: &Daemon) -> Result<u64> {
    let pid = daemon.pid().context("no daemon runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the daemon's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory in its status")?;
    line.trim().trim_end_matches(" kB").parse().context("read its memory")
}
