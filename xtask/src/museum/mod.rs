//! `cargo xtask museum`: every protection is switched off, one after the other, in a build that can do that, and each test
//! that is said to prove it must fail.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gantry_tests::command;

use crate::artifacts::{self, Artifact};
use crate::{build, setup};
use table::{Row, Test};

/// Suites that can be run with protections off: as the table has them, cargo's package, the file in `tests/`.
const SUITES: [(&str, &str, &str); 2] =
    [("runtime/museum", "gantry-runtime", "museum"), ("execdriver/native", "gantry-execdriver", "native")];
/// The runtime that the first of them tries.
const RUNTIME: &str = "gantry-runtime-broken";
/// What libtest says by its exit code when a test has failed; whatever else goes wrong has another.
const TEST_FAILED: i32 = 101;
/// So much of its words.
const SHOWN: usize = 150;
const LIMIT: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Default)]
pub struct Verdict {
    /// So many tests passed with everything intact, and failed without a protection.
    pub proved: u64,
    /// What this machine could not tell.
    pub skips: Vec<String>,
    pub complaints: Vec<String>,
}

/// The verb; only protections of these names, or all.
pub fn run(names: &[&str]) -> Result<()> {
    setup::for_tests()?;
    let verdict = prove(names)?;
    for skip in &verdict.skips {
        println!("skipped: {skip}");
    }
    for complaint in &verdict.complaints {
        println!("FAILED: {complaint}");
    }
    println!("\n{} proved, {} not", verdict.proved, verdict.complaints.len());
    if !verdict.complaints.is_empty() || verdict.proved == 0 {
        bail!("not every protection is proved");
    }
    Ok(())
}

/// Builds, and tries every test of the table on each of its protections.
pub fn prove(names: &[&str]) -> Result<Verdict> {
    let mut rows = table::read()?;
    table::check(&rows)?;
    if let Some(unknown) = names.iter().find(|name| rows.iter().all(|row| row.name.as_deref() != Some(**name))) {
        bail!("no such protection: {unknown}");
    }
    rows.retain(|row| row.name.as_deref().is_some_and(|name| names.is_empty() || names.contains(&name)));
    let museum = Museum::build()?;
    let mut verdict = Verdict::default();
    museum.with_everything_intact(&rows, &mut verdict)?;
    for row in &rows {
        museum.without(row, &mut verdict)?;
    }
    Ok(verdict)
}

/// The test binaries by suite, and the runtime.
struct Museum {
    suites: BTreeMap<&'static str, (PathBuf, PathBuf)>,
    runtime: PathBuf,
}

/// How a test ended.
enum Ended {
    Passed,
    /// With these words.
    Failed(String),
    /// It said why it tried nothing.
    Skipped(String),
}

impl Museum {
    fn build() -> Result<Self> {
        println!("building what protections can be switched off in");
        let mut artifacts = cargo(&["build", "--example", RUNTIME])?;
        let targets = SUITES.iter().flat_map(|(_, _, name)| ["--test", name]);
        artifacts.extend(cargo(&["test", "--no-run"].into_iter().chain(targets).collect::<Vec<_>>())?);
        let found = |package: &str, name: &str| {
            let fits = |artifact: &&Artifact| artifact.package == package && artifact.name == name;
            let artifact = artifacts.iter().find(fits).with_context(|| format!("cargo built no {name} of {package}"));
            artifact.map(|artifact| artifact.executable.clone())
        };
        let mut suites = BTreeMap::new();
        for (suite, package, name) in SUITES {
            let directory = build::root().join("crates").join(package.trim_start_matches("gantry-"));
            suites.insert(suite, (found(package, name)?, directory));
        }
        Ok(Self { suites, runtime: found("gantry-runtime", RUNTIME)? })
    }

    /// A test that fails anyway proves nothing.
    fn with_everything_intact(&self, rows: &[Row], verdict: &mut Verdict) -> Result<()> {
        let tests: BTreeSet<&Test> = rows.iter().flat_map(|row| &row.tests).collect();
        for test in tests.into_iter().filter(|test| self.has(test)) {
            if let Ended::Failed(why) = self.try_test(test, "")? {
                verdict.complaints.push(format!("{test} fails with every protection intact: {why}"));
            }
        }
        Ok(())
    }

    /// Of the row's tests those that can be tried, without its protection.
    fn without(&self, row: &Row, verdict: &mut Verdict) -> Result<()> {
        let Some(name) = &row.name else { return Ok(()) };
        let tests: Vec<&Test> = row.tests.iter().filter(|test| self.has(test)).collect();
        if tests.is_empty() {
            verdict.complaints.push(format!("{name}: none of its tests can be tried without it ({})", row.promise));
        }
        for test in tests {
            let said = match self.try_test(test, name)? {
                Ended::Failed(why) => {
                    verdict.proved += 1;
                    format!("failed, as it should: {why}")
                }
                Ended::Passed => {
                    verdict.complaints.push(format!("{test} passes although {name} is switched off"));
                    "PASSED".to_owned()
                }
                Ended::Skipped(why) => {
                    verdict.skips.push(format!("the proof of {name} by {test}: {why}"));
                    "skipped".to_owned()
                }
            };
            println!("  {name:<28} {test}\n  {:<28}   {said}", "");
        }
        Ok(())
    }

    fn has(&self, test: &Test) -> bool {
        self.suites.contains_key(test.suite.as_str())
    }

    /// Runs one test, with the protections of these names off.
    fn try_test(&self, test: &Test, off: &str) -> Result<Ended> {
        let (program, directory) = self.suites.get(test.suite.as_str()).context("a suite of the museum")?;
        let skips = tempfile::NamedTempFile::new().context("make a file for skipped tests")?;
        let output = self.command(program, directory, test, off, skips.path())?;
        let ran = output.stdout.contains("running 1 test\n");
        let skipped = std::fs::read_to_string(skips.path()).context("read what was skipped")?;
        match output.code {
            0 if ran && !skipped.is_empty() => Ok(Ended::Skipped(skipped.trim().replace('\n', "; "))),
            0 if ran => Ok(Ended::Passed),
            TEST_FAILED if ran => Ok(Ended::Failed(complaint(&output.stdout))),
            _ => bail!("{test} without {off:?} did not run to its end: {output}"),
        }
    }

    fn command(
        &self,
        program: &Path,
        directory: &Path,
        test: &Test,
        off: &str,
        skips: &Path,
    ) -> Result<command::Output> {
        let mut command = Command::new(program);
        command.args([&test.path, "--exact"]).current_dir(directory);
        command.env("GANTRY_RUNTIME_BIN", &self.runtime).env("GANTRY_BREAK", off).env("GANTRY_SKIPS", skips);
        command.env("RUST_BACKTRACE", "0");
        command::run(&mut command, None, LIMIT)
    }
}

/// The beginning of what a failed test said, below the line that says where it panicked.
fn complaint(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains(" panicked at ")).skip(1).map(str::trim);
    let text = lines.by_ref().take_while(|line| !line.starts_with("note:")).collect::<Vec<_>>().join(" ");
    text.chars().take(SHOWN).collect()
}

/// What cargo builds with switches; nothing else is built twice.
fn cargo(arguments: &[&str]) -> Result<Vec<Artifact>> {
    let mut command = build::cargo(arguments);
    command.args(["--quiet", "--profile", build::PROFILE, "--message-format", "json-render-diagnostics"]);
    command.args([build::ALL, "--features", "gantry-runtime/broken,gantry-execdriver/broken"]);
    artifacts::built(&mut command)
}
