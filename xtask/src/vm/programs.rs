//! Builds the test binaries that the table names, and finds them in what cargo says.

use std::collections::BTreeSet;
use std::path::PathBuf;

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

/// Builds the tests that the suites name, and what tests of their packages start.
pub fn build(suites: &[Suite]) -> Result<Programs> {
    let targets: BTreeSet<String> = suites.iter().map(|suite| suite.target.argument()).collect();
    let mut artifacts = artifacts_of(&["test", "--no-run"], &targets)?;
    artifacts.extend(artifacts_of(&["build", "--examples"], &BTreeSet::new())?);
    let tests = suites.iter().map(|suite| find(&artifacts, suite)).collect::<Result<Vec<_>>>()?;
    let others = artifacts.iter().filter(|artifact| is_other(artifact, suites));
    Ok(Programs { tests, others: others.map(|artifact| artifact.executable.clone()).collect() })
}

fn artifacts_of(verb: &[&str], targets: &BTreeSet<String>) -> Result<Vec<Artifact>> {
    let mut command = build::cargo(verb);
    command.args(["--quiet", "--profile", build::PROFILE, "--message-format", "json-render-diagnostics", build::ALL]);
    artifacts::built(command.args(targets))
}

/// A program or an example of a suite's package.
fn is_other(artifact: &Artifact, suites: &[Suite]) -> bool {
    let kind = ["bin", "example"].contains(&artifact.kind.as_str());
    kind && !artifact.test && suites.iter().any(|suite| suite.package == artifact.package)
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
