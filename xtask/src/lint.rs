//! `cargo xtask lint`: what a reviewer should not have to say.

use anyhow::{Result, bail};
use gantry_tests::paths::program;

use crate::{build, walls};

/// Everything.
pub fn run() -> Result<()> {
    format()?;
    walls::check()?;
    build::run(&mut build::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    documentation()?;
    deny()
}

/// Formatting only.
pub fn format() -> Result<()> {
    let output = build::cargo(&["fmt", "--all", "--check"]).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        let files: Vec<&str> = text.lines().filter(|line| line.starts_with("Diff in ")).collect();
        bail!(
            "not formatted (run `cargo fmt --all`):\n{}\n{}",
            files.join("\n"),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Every public item is documented, and every link leads somewhere.
fn documentation() -> Result<()> {
    let mut doc = build::cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    build::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Bans, licences and sources. The advisory database is on the network, so it is left to whoever has one.
fn deny() -> Result<()> {
    if program("cargo-deny").is_none() {
        println!("skipped: cargo-deny is not installed (`cargo install cargo-deny`)");
        return Ok(());
    }
    build::run(&mut build::cargo(&["deny", "check", "bans", "licenses", "sources"]))
}
