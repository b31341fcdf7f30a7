//! The order of the binary's functions: those that a container's start calls lie together at its beginning, then those that a
//! daemon calls besides.
//!
//! The kernel maps a program in pieces of 64 KB around every function that is called. Strewn over the whole binary the
//! thousand functions of a start are 5 MB of mapped program, of which 0.5 MB are executed; together they are less than one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gantry_tests::{Daemon, Options, command, image, paths};

use crate::{bench, build};

/// The linker that rustc brings along takes an order, as the system's of old does not.
pub const LINKER_CAN: bool = cfg!(all(target_arch = "x86_64", target_env = "gnu"));
/// Their names without what another compiler or directory changes.
const FILE: &str = "crates/gantry/start.order";
/// So many functions of one name are taken for the one that was recorded.
const MOST_ALIKE: usize = 3;
/// Of one operation.
const LIMIT: Duration = Duration::from_secs(60);

/// The symbols of a built binary in the order in which they are to be.
pub fn of(binary: &Path) -> Result<String> {
    let path = build::root().join(FILE);
    let wanted = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let symbols = symbols(binary)?;
    let mut alike: HashMap<String, Vec<&str>> = HashMap::new();
    for (_, name) in &symbols {
        alike.entry(plain(name)).or_default().push(name);
    }
    let found = wanted.lines().filter_map(|line| alike.remove(line)).filter(|names| names.len() <= MOST_ALIKE);
    let ordered: String = found.flatten().flat_map(|name| [name, "\n"]).collect();
    if ordered.is_empty() {
        bail!("{} has none of the functions in {FILE}; `cargo xtask order` records them again", binary.display());
    }
    Ok(ordered)
}

/// Records which functions are called, by running the runtime and then a daemon with a breakpoint on each.
pub fn record() -> Result<()> {
    let binary = build::gantry(build::PROFILE)?;
    let store = build::root().join("target/bench");
    fs::create_dir_all(&store).with_context(|| format!("make {}", store.display()))?;
    let (calls, functions, seen) = (tracer(&store)?, store.join("functions"), store.join("calls.seen"));
    let offsets: String = symbols(&binary)?.iter().map(|(address, _)| format!("{address:x}\n")).collect();
    for (path, content) in [(&functions, &*offsets), (&seen, "")] {
        fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    }
    let entry = entry_point(&binary)?;
    bench::lives(&binary, &mut |operation, command, directory| {
        // What `create` leaves waiting could not be followed to its end; `run` does all that it does.
        if operation == "create" {
            let mut plain = Command::new(command.get_program());
            return bench::run_within(plain.args(command.get_args()), directory, LIMIT);
        }
        println!("{operation}, call by call");
        let mut traced = Command::new(&calls);
        traced.args([&seen, &functions]).arg(format!("{entry:x}"));
        bench::run_within(traced.arg(command.get_program()).args(command.get_args()), directory, LIMIT)
    })?;
    serve(
        &binary,
        &[
            &calls.display().to_string(),
            &seen.display().to_string(),
            &functions.display().to_string(),
            &format!("{entry:x}"),
        ],
    )?;
    let names = called(&binary, &fs::read_to_string(&seen).context("read the calls")?)?;
    let head = "# Functions in the order in which a container's start, and then a daemon's day, first calls them.\n\
                # `cargo xtask order` writes this file.\n";
    let path = build::root().join(FILE);
    println!("{} functions", names.len());
    fs::write(&path, format!("{head}{}\n", names.join("\n"))).with_context(|| format!("write {}", path.display()))
}

/// What a daemon mostly does: it starts, is asked, and has a container.
fn serve(program: &Path, tracer: &[&str]) -> Result<()> {
    println!("a daemon, call by call");
    let before = tracer.iter().map(|word| (*word).to_owned()).collect();
    let binary = Some(program.to_owned());
    let daemon = Daemon::with(Options { bridge: Some("gbench"), before, binary, ..Options::default() })?;
    let files = tempfile::tempdir().context("make a directory")?;
    let root = files.path().join("root.tar");
    fs::write(&root, image::busybox_layer()?).context("write a root file system")?;
    let root = root.display().to_string();
    for arguments in [
        &["version"][..],
        &["info"],
        &["import", &root, "image:latest"],
        &["images"],
        &["run", "--rm", "image", "true"],
        &["run", "-d", "--name", "one", "-p", "127.0.0.1::80", "image", "sleep", "1000"],
        &["exec", "one", "true"],
        &["ps"],
        &["logs", "one"],
        &["inspect", "one"],
        &["stop", "-t", "1", "one"],
        &["rm", "one"],
        &["rmi", "image"],
    ] {
        command::succeed(daemon.client(program).args(arguments), LIMIT)?;
    }
    Ok(())
}

fn tracer(store: &Path) -> Result<PathBuf> {
    let program = store.join("calls");
    let mut compiler = Command::new(paths::need("cc")?);
    compiler.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&program).arg(build::root().join("xtask/src/order/calls.c"));
    command::succeed(&mut compiler, command::LIMIT)?;
    Ok(program)
}

/// Of a 64-bit ELF file for machines that write the lowest byte first.
fn entry_point(binary: &Path) -> Result<u64> {
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    let field = bytes.get(24..32).context("the binary is cut short")?;
    Ok(u64::from_le_bytes(field.try_into()?))
}

/// The names of the functions that these offsets lie in, each once.
fn called(binary: &Path, offsets: &str) -> Result<Vec<String>> {
    let symbols = symbols(binary)?;
    let mut names = Vec::new();
    let mut known = HashSet::new();
    for line in offsets.lines() {
        let offset = u64::from_str_radix(line, 16).with_context(|| format!("{line:?} is no offset"))?;
        let after = symbols.partition_point(|(address, _)| *address <= offset);
        let Some((address, _)) = after.checked_sub(1).map(|last| &symbols[last]) else { continue };
        let first = symbols.partition_point(|(other, _)| other < address);
        for (_, name) in &symbols[first..after] {
            let name = plain(name);
            if known.insert(name.clone()) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// Functions by their address.
fn symbols(binary: &Path) -> Result<Vec<(u64, String)>> {
    let mut nm = Command::new(paths::need("nm")?);
    let output = command::succeed(nm.args(["--defined-only", "--numeric-sort"]).arg(binary), command::LIMIT)?;
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        let address = u64::from_str_radix(address, 16).ok()?;
        matches!(kind, "t" | "T" | "w" | "W" | "i").then(|| (address, name.to_owned()))
    };
    Ok(output.stdout.lines().filter_map(parse).collect())
}

/// Without what is another for each compiler and directory: `.llvm.` and a number, the hash of a crate, and by how many bytes
/// a name looks back at its own beginning (rustc's "v0" mangling); the hash at the end of a name of old, as in the
/// standard library.
fn plain(name: &str) -> String {
    let name = name.split(".llvm.").next().unwrap_or(name);
    if !name.starts_with("_R") {
        let end = name.len().checked_sub("17h0123456789abcdefE".len());
        let hash = end.and_then(|end| name.get(end..)).filter(|hash| hash.starts_with("17h") && hash.ends_with('E'));
        return name.strip_suffix(hash.unwrap_or_default()).unwrap_or(name).to_owned();
    }
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(['B', 'C']) {
        let (before, after) = rest.split_at(at + 1);
        plain.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(0);
        // A place in the name has few digits, in base 62; a crate's hash has 64 bits.
        let is_number = if before.ends_with('C') { after.starts_with('s') && end <= 12 } else { end <= 3 };
        rest = if is_number && after[end..].starts_with('_') { &after[end..] } else { after };
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_whatever_compiler_made_them_and_wherever() {
        assert_eq!(plain("_ZN4core3fmt5write17h8d6b1a1b2c3d4e5fE"), "_ZN4core3fmt5write");
        assert_eq!(plain("_ZN4core3fmt5write17h8d6b1a1b2c3d4e5fE.llvm.123"), "_ZN4core3fmt5write");
        assert_eq!(plain("memcpy"), "memcpy");
        let here =
            plain("_RNvMs_NtCs4fqI2P2rA04_5alloc3vecINtB4_3VecNtNtB6_6string6StringE3newCs1kRwsXLpYVc_6gantry.llvm.9");
        assert_eq!(
            here,
            plain("_RNvMs_NtCsaaaaaaaaa_5alloc3vecINtB3_3VecNtNtB5_6string6StringE3newCs22222222222_6gantry")
        );
        assert_ne!(
            here,
            plain("_RNvMs_NtCsaaaaaaaaa_5alloc3vecINtB3_3VecNtNtB5_6string6StringE3oldCs22222222222_6gantry")
        );
    }
}
