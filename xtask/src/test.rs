//! `cargo xtask test`: installs what is needed, runs every test, counts them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use gantry_tests::paths::program;

use crate::artifacts::{self, Artifact};
use crate::prepare::Preparation;
use crate::{build, c_library, lint, museum, setup, vm, walls};

/// Runs everything, or only tests whose names contain one of `filters`.
pub fn run(filters: &[&str]) -> Result<()> {
    setup::for_tests()?;
    let mut count = Count::default();
    if filters.is_empty() {
        count.check("formatting", lint::format());
        count.check("the walls between crates", walls::check());
    }
    let preparation = if filters.is_empty() { Some(Preparation::begin()?) } else { None };
    let built = build();
    // Before the first test, for some are in a hurry; and whatever became of the build: nothing goes on without us.
    let machine = preparation.map(Preparation::end);
    let (suites, binary, library) = built?;
    let skips = tempfile::NamedTempFile::new().context("make a file for skipped tests")?;
    // Not for the system tests: they share places below the usual one with all that run on this machine.
    let temporary = tempfile::tempdir().context("make a directory for the temporary files of the tests")?;
    let nextest = program("cargo-nextest").is_some() || nextest();
    let mut command = if nextest { units_by_nextest() } else { units_by_cargo() };
    command.args(filters).env("GANTRY_C_LIBRARY", library).env("TMPDIR", temporary.path());
    count.add(&mut command, &binary, skips.path())?;
    count.check("the tests' temporary files", left_behind(temporary.path()));
    if nextest {
        // It does not run the examples of the documentation.
        let mut examples = build::cargo(&["test", "--quiet", "--doc", build::ALL, "--profile", build::PROFILE]);
        examples.args(["--no-fail-fast", "--"]).args(filters);
        count.add(&mut examples, &binary, skips.path())?;
    }
    // Tests of one file share a daemon, so they run as threads of one process.
    for suite in suites {
        println!("\n     Running {}", suite.name);
        let mut command = Command::new(&suite.executable);
        command.args(filters).current_dir(build::root().join("tests"));
        count.add(&mut command, &binary, skips.path())?;
    }
    if let Some(machine) = machine {
        count.museum(skips.path())?;
        count.machine(machine, skips.path())?;
    }
    report(&count, skips.path())
}

fn units_by_nextest() -> Command {
    let mut command = build::cargo(&["nextest", "run", "--no-tests", "pass", "--no-fail-fast"]);
    command.args(["--status-level", "fail", "--final-status-level", "fail"]);
    command.args([build::ALL, "--cargo-profile", build::PROFILE]);
    command.args(["--filterset", &format!("not package({})", build::SYSTEM)]);
    command
}

fn units_by_cargo() -> Command {
    build::cargo(&["test", build::ALL, "--exclude", build::SYSTEM, "--profile", build::PROFILE, "--no-fail-fast", "--"])
}

/// The system's files of tests, the product, and the C library.
fn build() -> Result<(Vec<Artifact>, PathBuf, PathBuf)> {
    Ok((system()?, build::gantry(build::PROFILE)?, c_library::build(build::PROFILE)?))
}

/// Builds all tests at once, which keeps every processor busy; the system's files of them, in the order of their names.
fn system() -> Result<Vec<Artifact>> {
    let mut command = build::cargo(&["test", "--no-run", "--quiet", build::ALL, "--profile", build::PROFILE]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let mut suites = artifacts::built(&mut command)?;
    suites.retain(|artifact| artifact.package == build::SYSTEM && artifact.test);
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

/// Tests remove what they make, outside the machine's kernel too.
fn left_behind(temporary: &Path) -> Result<()> {
    let entries = std::fs::read_dir(temporary).with_context(|| format!("read {}", temporary.display()))?;
    let names: Vec<_> = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    if !names.is_empty() {
        bail!("left behind: {names:?}");
    }
    Ok(())
}

fn report(count: &Count, skips: &Path) -> Result<()> {
    let skipped = std::fs::read_to_string(skips).unwrap_or_default();
    if !skipped.is_empty() {
        println!("\nskipped, or skipped in part:");
        let mut lines: Vec<&str> = skipped.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        for line in lines {
            println!("  {line}");
        }
    }
    for complaint in &count.complaints {
        println!("\n{complaint}");
    }
    println!("\n{} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 || count.broken {
        bail!("not every test passed");
    }
    if count.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// What the runners said, summed.
#[derive(Debug, Default)]
struct Count {
    passed: u64,
    failed: u64,
    broken: bool,
    complaints: Vec<String>,
}

impl Count {
    /// A check of the house counts as a test, so that one broken rule does not hide what the tests say.
    fn check(&mut self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                self.complaints.push(format!("FAILED: {what}: {error:#}"));
            }
        }
    }

    /// Every proof that a test fails without its protection counts as a test.
    fn museum(&mut self, skips: &Path) -> Result<()> {
        let verdict = museum::prove(&[])?;
        self.passed += verdict.proved;
        self.failed += verdict.complaints.len() as u64;
        self.complaints.extend(verdict.complaints.into_iter().map(|complaint| format!("FAILED: museum: {complaint}")));
        note(skips, &verdict.skips)
    }

    /// Runs the virtual machine's suites; where it cannot be had, that is said among what was skipped.
    fn machine(&mut self, machine: Result<vm::Prepared>, skips: &Path) -> Result<()> {
        let lines = match machine {
            Ok(machine) => {
                let verdict = machine.run(&[])?;
                self.passed += verdict.passed;
                self.failed += verdict.failed;
                verdict.skips
            }
            Err(error) => vec![format!("EVERY TEST OF THE VIRTUAL MACHINE: {error:#}")],
        };
        note(skips, &lines)
    }

    /// Runs a runner, shows what it says, and counts. A failing runner that names no failed test broke before.
    fn add(&mut self, command: &mut Command, binary: &Path, skips: &Path) -> Result<()> {
        command.env("GANTRY_BIN", binary).env("GANTRY_SKIPS", skips).env("CARGO_TERM_COLOR", "never");
        // Both streams in one pipe: nextest speaks on standard error, cargo test on standard output.
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .context("start a runner of tests")?;
        // The command holds the pipe's other end open until it is replaced.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let before = self.failed;
        for line in BufReader::new(reader).lines() {
            let line = line.context("read what the tests say")?;
            println!("{line}");
            let (passed, failed) = counts(&line);
            self.passed += passed;
            self.failed += failed;
        }
        let status = child.wait().context("wait for a runner of tests")?;
        self.broken |= !status.success() && self.failed == before;
        Ok(())
    }
}

/// Adds to what was skipped.
fn note(skips: &Path, lines: &[String]) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(skips).context("open the file for skipped tests")?;
    lines.iter().try_for_each(|line| writeln!(file, "{line}")).context("write the skipped tests")
}

/// Passed and failed tests of a runner's closing line; zeros for any other line. What nextest repeats of a failed test
/// is indented and was counted already.
pub fn counts(line: &str) -> (u64, u64) {
    if !line.starts_with("test result:") && !line.trim_start().starts_with("Summary [") {
        return (0, 0);
    }
    let words: Vec<&str> =
        line.split(|c: char| c.is_whitespace() || ",;()".contains(c)).filter(|w| !w.is_empty()).collect();
    let before = |name: &str| {
        words.windows(2).filter(|pair| pair[1] == name).filter_map(|pair| pair[0].parse::<u64>().ok()).sum::<u64>()
    };
    (before("passed"), before("failed") + before("timed"))
}

fn nextest() -> bool {
    let mut command = build::cargo(&["nextest", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn closing_lines_of_both_runners_are_counted() {
        let libtest =
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(counts(libtest), (12, 1));
        let nextest = "     Summary [   0.105s] 10 tests run: 8 passed (1 slow), 2 failed, 3 skipped";
        assert_eq!(counts(nextest), (8, 2));
        assert_eq!(counts("test a_test_that_says_3 passed ... ok"), (0, 0));
    }
}
