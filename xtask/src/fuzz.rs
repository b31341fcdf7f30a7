//! `cargo xtask fuzz [target] [seconds]`: feeds random input to the parsers, one target after the other.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// As in `fuzz/Cargo.toml`.
const TARGETS: [&str; 4] = ["config_json", "seccomp_bpf", "passwd_group", "mount_options"];
/// For one target, where no other time is given.
const SECONDS: u64 = 60;

/// Runs the target of that name, or all; a number is the seconds for each.
pub fn run(words: &[&str]) -> Result<()> {
    let (mut targets, mut seconds) = (TARGETS.to_vec(), SECONDS);
    for word in words {
        match (word.parse(), TARGETS.iter().find(|target| *target == word)) {
            (Ok(number), _) => seconds = number,
            (_, Some(target)) => targets = vec![target],
            _ => bail!("no such target: {word}; there are {}", TARGETS.join(", ")),
        }
    }
    if !succeeds(Command::new("cargo").args(["fuzz", "--version"]))? {
        check(Command::new("cargo").args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in no workspace")?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    for target in targets {
        println!("fuzzing {target} for {seconds} s");
        std::fs::create_dir_all(root.join("fuzz/corpus").join(target))?;
        let mut command = Command::new("cargo");
        // The main workspace's static linking is for sanitizers no place to live; the variable goes before its file.
        command.current_dir(root).env("RUSTFLAGS", "-C target-feature=-crt-static");
        command.args(["+nightly", "fuzz", "run", "--target", &triple, target]);
        command.arg(format!("fuzz/corpus/{target}")).arg(format!("fuzz/seeds/{target}"));
        command.args(["--", &format!("-max_total_time={seconds}"), "-max_len=16384", "-print_final_stats=1"]);
        check(&mut command)?;
    }
    Ok(())
}

fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(command.output().with_context(|| format!("run {command:?}"))?.status.success())
}

fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
