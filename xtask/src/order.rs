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
/// Their names, as the compiler gave them that was in use when they were recorded.
const FILE: &str = "crates/gantry/start.order";
/// So many instances of one generic function are taken for the one that was recorded.
const MOST_ALIKE: usize = 3;
/// Of one operation.
const LIMIT: Duration = Duration::from_secs(60);

/// The symbols of a built binary in the order in which they are to be.
///
/// Another compiler gives a function another hash: then whatever has the name is meant, unless that is many.
pub fn of(binary: &Path) -> Result<String> {
    let path = build::root().join(FILE);
    let wanted = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let symbols = symbols(binary)?;
    let mut exact: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut like = exact.clone();
    for (_, name) in &symbols {
        exact.entry(without_number(name)).or_default().push(name);
        like.entry(plain(name)).or_default().push(name);
    }
    let mut ordered = String::new();
    let mut known = HashSet::new();
    for line in wanted.lines().filter(|line| !line.starts_with('#')) {
        let like = || like.get(plain(line)).filter(|names| names.len() <= MOST_ALIKE);
        for name in exact.get(line).or_else(like).into_iter().flatten().filter(|name| known.insert(**name)) {
            ordered.extend([name, "\n"]);
        }
    }
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
            if known.insert(without_number(name).to_owned()) {
                names.push(without_number(name).to_owned());
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

/// Without `.llvm.` and a number, which tell parts of one compilation from each other.
fn without_number(name: &str) -> &str {
    name.split(".llvm.").next().unwrap_or(name)
}

/// Without the hash at the end of a mangled name, which is another one for each instance of a generic function, and for each compiler.
fn plain(name: &str) -> &str {
    let name = without_number(name);
    let hash = name.len().checked_sub("17h0123456789abcdefE".len()).and_then(|at| name.get(at..));
    match hash {
        Some(hash) if hash.starts_with("17h") && hash.ends_with('E') => &name[..name.len() - hash.len()],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_whatever_compiler_made_them() {
        assert_eq!(plain("_ZN4core3fmt5write17h8d6b1a1b2c3d4e5fE"), "_ZN4core3fmt5write");
        assert_eq!(plain("_ZN4core3fmt5write17h8d6b1a1b2c3d4e5fE.llvm.123"), "_ZN4core3fmt5write");
        assert_eq!(plain("memcpy"), "memcpy");
        assert_eq!(without_number("_ZN1a17h8d6b1a1b2c3d4e5fE.llvm.123"), "_ZN1a17h8d6b1a1b2c3d4e5fE");
    }
}
