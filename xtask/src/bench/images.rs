//! `cargo xtask bench images`: what moving images costs, ours and the peers', interleaved, on an ext4 of its own.

pub(super) mod content;
mod registry;
mod stack;
mod table;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_tests::{command, paths};

use super::measure::{Account, Cost, Results, cost_then};
use super::{report, value};
use crate::interrupt::Interrupt;
use crate::{build, setup};

use content::Archives;
use registry::Registry;

/// The section of docs/benchmarks.md.
const SECTION: &str = "bench images";
/// Where the file system of its own is mounted, for the process inside.
const PLACE: &str = "GANTRY_BENCH_IMAGES";
/// The loop file has so many times the bytes of the images: they are in it as archives, in a registry, and with everybody in
/// several forms.
const COPIES: u64 = 16;
/// What a small file takes.
const SMALL: u64 = 4096;

/// What is measured; the numbers order the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Load,
    Save,
    Remove,
    Pull,
    Import,
    Commit,
}

impl Operation {
    const ALL: [Self; 6] = [Self::Load, Self::Save, Self::Pull, Self::Import, Self::Commit, Self::Remove];

    const fn name(self) -> &'static str {
        match self {
            Self::Load => "`load`",
            Self::Save => "`save`",
            Self::Remove => "`rmi`",
            Self::Pull => "`pull`",
            Self::Import => "`import`",
            Self::Commit => "`commit`",
        }
    }

    /// Whether it leaves something on the disk of the engine.
    const fn writes(self) -> bool {
        matches!(self, Self::Load | Self::Pull | Self::Import | Self::Commit)
    }
}

/// `--rounds N`; `--megabytes N` and `--files N` are the sizes of the two images; `--release` measures what is shipped.
pub fn images(options: &[&str]) -> Result<()> {
    match std::env::var_os(PLACE) {
        Some(place) => inside(Path::new(&place), options),
        None => outside(options),
    }
}

/// Makes a file system and runs this program again where it is mounted, in a mount namespace that takes it along.
fn outside(options: &[&str]) -> Result<()> {
    setup::for_tests()?;
    setup::install_peer("unshare", "util-linux", "a mount namespace for a file system of its own")?;
    setup::install_peer("mkfs.ext4", "e2fsprogs", "the file system")?;
    let directory = tempfile::Builder::new().prefix("gantry-bench-").tempdir().context("make a directory")?;
    let (file, place) = (directory.path().join("ext4"), directory.path().join("mounted"));
    std::fs::create_dir(&place).context("make a directory to mount at")?;
    let (megabytes, files) = sizes(options)?;
    let room = ((megabytes as u64) << 20).saturating_add(files as u64 * SMALL).saturating_mul(COPIES);
    println!("making a file system of {} MiB", room >> 20);
    write_out(&file, room).context("make the file of a file system")?;
    let mut mkfs = Command::new(paths::need("mkfs.ext4")?);
    // The blocks stay written, and nothing is left to be done in the background.
    mkfs.args(["-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]).arg(&file);
    command::succeed(&mut mkfs, LIMIT)?;
    let mut again = Command::new(paths::need("unshare")?);
    again.args(["--mount", "--propagation", "private", "sh", "-c"]);
    again.arg("mount -o loop \"$1\" \"$2\" && shift 2 && exec \"$@\"").arg("sh").arg(&file).arg(&place);
    again.arg(std::env::current_exe().context("find the running program")?).args(std::env::args_os().skip(1));
    // Daemons of the tests live in the directory for temporary files.
    build::run(again.env("TMPDIR", &place).env(PLACE, &place))
}

/// Every block is written, and on the disk: what the host of a sparse file has to do when a block is written for the first time
/// would be paid by whoever is measured first, and waits.
fn write_out(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
    file.sync_all()
}

fn number(options: &[&str], name: &str, usual: usize) -> Result<usize> {
    value(options, name).map_or(Ok(usual), str::parse).with_context(|| format!("{name} takes a number"))
}

/// Megabytes of the large image, and files of the other.
fn sizes(options: &[&str]) -> Result<(usize, usize)> {
    Ok((number(options, "--megabytes", 300)?, number(options, "--files", 50_000)?))
}

fn inside(place: &Path, options: &[&str]) -> Result<()> {
    let (rounds, (megabytes, files)) = (number(options, "--rounds", 5)?, sizes(options)?);
    let profile = if options.contains(&"--release") { "release" } else { build::PROFILE };
    let label = if std::env::var_os("GANTRY_BIN").is_some() { "given by GANTRY_BIN" } else { profile };
    let interrupt = Interrupt::catch()?;
    let binary = build::gantry(profile)?;
    println!("making the images");
    let images = [content::layers(place, megabytes)?, content::small_files(place, files)?];
    let store = place.join("registry");
    {
        let registry = Registry::serve(&store, &|program| Ok(Command::new(program)))?;
        images.iter().try_for_each(|image| registry.push(image))?;
    }
    let (stacks, skipped) = stack::all(&binary, place, &store)?;
    let mut results = Results::default();
    let mut besides = table::Besides::new();
    for round in 0..rounds {
        for (number, image) in images.iter().enumerate() {
            for (index, stack) in stacks.iter().enumerate() {
                println!("round {} of {rounds}: {}, {}", round + 1, image.title, stack.name());
                interrupt.check()?;
                let mut keep = |operation: Operation, measured: Measured, peak: Option<u64>| {
                    let row = number * Operation::ALL.len()
                        + Operation::ALL.iter().position(|known| *known == operation).unwrap_or(0);
                    results.add((row, &format!("{}, {}", operation.name(), image.title)), index, measured.cost);
                    let beside = besides.entry((row, index)).or_default();
                    beside.peak = peak.max(beside.peak);
                    beside.on_disk.extend(operation.writes().then_some(measured.on_disk));
                };
                stack.round(image, place, &mut keep).with_context(|| stack.name().to_owned())?;
            }
        }
    }
    let sizes: Vec<String> = images.iter().map(Archives::describe).collect();
    let table = table::table(&stacks, &results, &besides, &skipped, &sizes, rounds, label);
    println!("\n{table}");
    report::write(SECTION, &table)
}

/// What one operation took.
struct Measured {
    cost: Cost,
    /// Wall time until what it wrote is on the disk.
    on_disk: Duration,
}

/// Runs one operation; what was written before it is on the disk first.
fn measure(account: &Account, place: &Path, work: impl FnOnce() -> Result<()>) -> Result<Measured> {
    let directory = std::fs::File::open(place).context("open the file system")?;
    let sync = || rustix::fs::syncfs(&directory).context("wait for the disk");
    sync()?;
    account.enter()?;
    let mut on_disk = Duration::ZERO;
    let cost = cost_then(account, work, |began| {
        account.leave()?;
        sync()?;
        on_disk = began.elapsed();
        Ok(())
    });
    account.leave()?;
    Ok(Measured { cost: cost?, on_disk })
}

/// How long one operation may take.
const LIMIT: Duration = Duration::from_secs(600);

/// A file with a name in the file system of its own.
fn file(place: &Path, name: &str) -> PathBuf {
    place.join(name)
}
