//! Builds the test binaries that the table names, and finds them in what cargo says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::table::{Suite, Target};
use crate::artifacts::{self, Artifact};
use crate::build;

/// What cargo built of the chosen suites' packages.
#[derive(Debug)]
pub struct Programs {
    /// The test binaries, in the order of the suites.
    pub tests: Vec<PathBuf>,
    /// Programs and examples of the same packages, which tests start by the paths that cargo compiled into them.
    pub others: Vec<PathBuf>,
}

/// Builds the suites' packages with all their tests.
pub fn build(suites: &[Suite]) -> Result<Programs> {
    let packages: BTreeSet<&str> = suites.iter().map(|suite| suite.package).collect();
    // Two commands with the features that `cargo xtask test` builds them with, so that nothing is built twice.
    let mut artifacts = Vec::new();
    for system in [false, true] {
        let chosen: Vec<&str> = packages.iter().copied().filter(|name| (*name == SYSTEM) == system).collect();
        if !chosen.is_empty() {
            artifacts.extend(artifacts_of(&chosen)?);
        }
    }
    let tests = suites.iter().map(|suite| find(&artifacts, suite)).collect::<Result<Vec<_>>>()?;
    let is_other = |artifact: &&Artifact| !artifact.test && ["bin", "example"].contains(&artifact.kind.as_str());
    let others = artifacts.iter().filter(is_other).map(|artifact| artifact.executable.clone()).collect();
    Ok(Programs { tests, others })
}

/// The package of the system tests.
pub const SYSTEM: &str = "gantry-tests";

fn artifacts_of(packages: &[&str]) -> Result<Vec<Artifact>> {
    let arguments = ["test", "--no-run", "--quiet", "--profile", build::PROFILE];
    let mut command = build::cargo(&[&arguments[..], &["--message-format", "json-render-diagnostics"]].concat());
    for package in packages {
        command.args(["-p", package]);
    }
    artifacts::built(&mut command)
}

fn find(artifacts: &[Artifact], suite: &Suite) -> Result<PathBuf> {
    let fits = |artifact: &&Artifact| {
        let of = artifact.package == suite.package && artifact.test;
        of && match suite.target {
            Target::Unit => artifact.kind == "lib",
            Target::Test(name) => artifact.kind == "test" && artifact.name == name,
        }
    };
    let found = artifacts.iter().find(fits).map(|artifact| artifact.executable.clone());
    found.with_context(|| format!("suite {}: {} has no such test: {:?}", suite.name, suite.package, suite.target))
}

/// The directory in which cargo runs a package's tests.
pub fn directory(package: &str) -> PathBuf {
    let name = package.strip_prefix("gantry-").unwrap_or(package);
    if name == "tests" { build::root().join("tests") } else { build::root().join("crates").join(name) }
}

/// Copies a program without its symbols, if that was not done already, and returns the copy.
pub fn strip(program: &Path, cache: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program's name")?;
    let copy = cache.join(name);
    let newer = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if newer(&copy) > newer(program) {
        return Ok(copy);
    }
    std::fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
    let mut command = std::process::Command::new("strip");
    command.arg("-o").arg(&copy).arg(program);
    build::run(&mut command)?;
    Ok(copy)
}
