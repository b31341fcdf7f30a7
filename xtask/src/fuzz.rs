//! `cargo xtask fuzz [target] [seconds]`: feeds random input to what reads strangers' input, one target after the other.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// As in `fuzz/Cargo.toml`.
const TARGETS: [&str; 13] = [
    "config_json",
    "seccomp_bpf",
    "passwd_group",
    "mount_options",
    "layer_archive",
    "image_archive",
    "manifest",
    "image_config",
    "reference",
    "names",
    "www_authenticate",
    "byte_range",
    "uploads",
];
/// For one target, where no other time is given.
const SECONDS: u64 = 60;
/// What no input of 16 KiB may exceed: seconds for itself; MiB in one allocation (zstd's largest window is 128), and in all
/// (the address sanitizer keeps 256 of what was freed). Threads that are just ending look like leaks to the sanitizer.
const LIMITS: [&str; 5] =
    ["-max_len=16384", "-timeout=20", "-malloc_limit_mb=160", "-rss_limit_mb=1024", "-detect_leaks=0"];
/// Targets that make files leave them here, and it goes with them; in memory where there is a place.
const MEMORY: &str = "/dev/shm";

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
        let (corpus, seeds) = (root.join("fuzz/corpus").join(target), root.join("fuzz/seeds").join(target));
        std::fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
        let files = if Path::new(MEMORY).is_dir() { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() };
        let files = files.context("make a directory for the target's files")?;
        let mut command = Command::new("cargo");
        // The main workspace's static linking is for sanitizers no place to live; the variable goes before its file.
        command.current_dir(root).env("RUSTFLAGS", "-C target-feature=-crt-static").env("TMPDIR", files.path());
        command.args(["+nightly", "fuzz", "run", "--target", &triple, target]).args([&corpus, &seeds]);
        command.args(["--", &format!("-max_total_time={seconds}"), "-print_final_stats=1"]).args(LIMITS);
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
