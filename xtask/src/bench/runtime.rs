//! `cargo xtask bench runtime`: what OCI runtimes cost by themselves, on the same bundles, interleaved.

mod bundle;
mod life;
mod meter;
mod peers;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use gantry_tests::{cgroups, paths};

use super::{report, value};
use crate::interrupt::Interrupt;
use crate::{build, setup};

use bundle::{BUNDLES, Bundle};
pub use meter::run_within;
use meter::{Figures, Meter};
use peers::Peer;

/// The section of docs/benchmarks.md.
pub const SECTION: &str = "bench runtime";
/// Counts and sizes hardly differ from round to round.
const COUNTED_ROUNDS: usize = 3;

/// Results by bundle, operation and peer.
type Results = BTreeMap<(usize, usize, usize), Figures>;

/// `--rounds N`; `--release` measures what is shipped; `--sid DIR` is a Debian sid tree whose crun is measured too.
pub fn runtime(options: &[&str]) -> Result<()> {
    let rounds: usize = value(options, "--rounds").map_or(Ok(15), str::parse).context("--rounds takes a number")?;
    let profile = if options.contains(&"--release") { "release" } else { build::PROFILE };
    let label = if std::env::var_os("GANTRY_BIN").is_some() { "given by GANTRY_BIN" } else { profile };
    setup::install_peer("perf", "linux-perf", "times and counts")?;
    setup::install_peer("time", "time", "the peak of a program's memory")?;
    setup::install_peer("busybox", "busybox-static", "what the containers run")?;
    setup::install_peer("unshare", "util-linux", "a mount namespace without the mixture of cgroup versions")?;
    leave_hybrid_cgroups()?;
    let interrupt = Interrupt::catch()?;
    let directory = tempfile::Builder::new().prefix("gantry-bench-").tempdir().context("make a directory")?;
    let (mut peers, mut skipped) = peers::all(&build::gantry(profile)?, value(options, "--sid"))?;
    let bundles = bundle::prepare(directory.path(), &peers)?;
    skipped.extend(leave_out_failing(&mut peers, &bundles, directory.path()));
    let mut results = Results::new();
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        let meters: &[Meter] = if round < COUNTED_ROUNDS { &Meter::ALL } else { &[Meter::Time] };
        for (meter, (number, bundle)) in meters.iter().flat_map(|m| bundles.iter().enumerate().map(move |b| (m, b))) {
            for (index, peer) in peers.iter().enumerate() {
                interrupt.check()?;
                let mut keep = |operation: usize, seen: &meter::Seen| {
                    results.entry((number, operation, index)).or_default().add(seen);
                };
                life::measure(peer, bundle, *meter, directory.path(), &mut keep)
                    .with_context(|| format!("{} with the bundle {}", peer.name, bundle.name))?;
            }
        }
    }
    let table = table::table(&peers, &results, &skipped, rounds, label);
    println!("\n{table}");
    report::write(SECTION, &table)
}

/// Has `each` run every command of a container's life with every bundle, but for those whose cost nobody asks for: it is given
/// the operation's name, the command, and a directory for files.
pub fn lives(gantry: &Path, each: &mut dyn FnMut(&str, &Command, &Path) -> Result<()>) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("gantry-bench-").tempdir().context("make a directory")?;
    let directory = directory.path();
    let peers = [peers::ours(gantry)?];
    for bundle in bundle::prepare(directory, &peers)? {
        life::live(&peers[0], &bundle, directory, &mut |operation, command| {
            each(life::OPERATIONS[operation], command, directory)
        })?;
    }
    Ok(())
}

/// A peer that cannot do a whole round is told of and left out, for both bundles.
fn leave_out_failing(peers: &mut Vec<Peer>, bundles: &[Bundle], directory: &Path) -> Vec<String> {
    let mut skipped = Vec::new();
    let works =
        |peer: &Peer| bundles.iter().try_for_each(|b| life::measure(peer, b, Meter::Time, directory, &mut |_, _| {}));
    peers.retain(|peer| match works(peer) {
        Ok(()) => true,
        Err(error) => {
            println!("SKIPPED {}: {error:#}", peer.name);
            skipped.push(format!("{} ({})", peer.name, error.root_cause().to_string().replace('\n', " ")));
            false
        }
    });
    skipped
}

/// Not every runtime works beside a cgroup2 that has controllers, or knows where to look then: all are measured in a mount
/// namespace in which it is not mounted, where there is one beside version 1. Returns in it.
fn leave_hybrid_cgroups() -> Result<()> {
    let all = cgroups::hierarchies();
    let Some((_, unified)) = all.iter().find(|(controllers, _)| controllers.is_empty()) else { return Ok(()) };
    if all.len() == 1 {
        return Ok(());
    }
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(paths::need("unshare")?);
    command.args(["--mount", "--propagation", "private", "sh", "-c", "umount \"$1\" && shift && exec \"$@\"", "sh"]);
    command
        .arg(unified)
        .arg(std::env::current_exe().context("find the running program")?)
        .args(std::env::args_os().skip(1));
    bail!("start unshare: {}", command.exec())
}

/// The names of the bundles, for the table's heads.
fn heads() -> [&'static str; BUNDLES.len()] {
    BUNDLES.map(|(_, head)| head)
}

/// Reads a file of this machine, for the line below the tables; empty where there is none.
fn fact(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
