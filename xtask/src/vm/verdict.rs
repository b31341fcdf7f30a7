//! Reads what the virtual machine says: `@vm …` lines of its init script, and the tests' own words between them.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::test::counts;

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// One of many.
    Line,
    /// The machine has nothing more to say.
    Done,
}

/// What was seen so far.
#[derive(Debug)]
pub struct Verdict {
    pub passed: u64,
    pub failed: u64,
    pub skips: Vec<String>,
    release: Option<String>,
    running: Option<Running>,
    /// Suites that have not begun.
    waiting: Vec<String>,
    log: Option<File>,
}

/// The suite that runs.
#[derive(Debug)]
struct Running {
    name: String,
    said: Vec<String>,
    passed: u64,
    failed: u64,
    counted: bool,
}

impl Verdict {
    /// For the given suites; everything that is said also goes to `log`.
    pub fn new(suites: &[&str], log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let waiting = suites.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { passed: 0, failed: 0, skips: Vec::new(), release: None, running: None, waiting, log: Some(log) })
    }

    /// Whether the machine came as far as our own script.
    pub fn booted(&self) -> bool {
        self.release.is_some()
    }

    /// Takes a line.
    pub fn line(&mut self, line: &str) -> Event {
        if let Some(log) = &mut self.log
            && writeln!(log, "{line}").is_err()
        {
            // A full disk must not change the verdict.
            self.log = None;
        }
        let Some(words) = line.strip_prefix("@vm ") else {
            if let Some(running) = &mut self.running {
                running.line(line);
            }
            return Event::Line;
        };
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        match word {
            "ready" => {
                let (release, seconds) = rest.split_once(' ').unwrap_or((rest, "?"));
                println!("the virtual machine runs Linux {release}; booted in {seconds} s");
                self.release = Some(release.to_owned());
            }
            "begin" => {
                self.waiting.retain(|name| name != rest);
                self.running =
                    Some(Running { name: rest.to_owned(), said: vec![], passed: 0, failed: 0, counted: false });
            }
            "left" => {
                if let Some(running) = &mut self.running {
                    running.failed += 1;
                    running.said.push(format!("it left behind, in its directory for temporary files: {rest}"));
                }
            }
            "end" => self.end(rest),
            "skip" => self.skips.push(format!("in the virtual machine: {rest}")),
            "note" => println!("the virtual machine: {rest}"),
            "done" => return Event::Done,
            _ => {}
        }
        Event::Line
    }

    fn end(&mut self, rest: &str) {
        let words: Vec<&str> = rest.split(' ').collect();
        let code = words.get(1).and_then(|word| word.parse::<i32>().ok()).unwrap_or(-1);
        let time = |index: usize| words.get(index).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        if let Some(running) = self.running.take() {
            self.close(running, code, time(3) - time(2));
        }
    }

    fn close(&mut self, mut running: Running, code: i32, seconds: f64) {
        if code != 0 && running.failed == 0 {
            running.failed = 1;
            let why = if code == 137 {
                "it was killed: too slow, or by itself".to_owned()
            } else {
                format!("it ended with code {code}")
            };
            running.said.push(why);
        } else if !running.counted {
            // A test without a runner is one test.
            running.passed += 1;
        }
        let verdict = if running.failed == 0 { "ok" } else { "FAILED" };
        let Running { name, passed, failed, .. } = &running;
        println!("{verdict:<6} {name:<24} {passed:>4} passed, {failed} failed  {seconds:>6.1} s");
        if running.failed > 0 {
            for line in running.said.iter().filter(|line| !passed_test(line)) {
                println!("       {line}");
            }
        }
        self.passed += running.passed;
        self.failed += running.failed;
    }

    /// The machine ended, or hangs, before it was done: what ran and what did not come to run has failed.
    pub fn dead(&mut self, why: &str) {
        println!("FAILED the virtual machine: {why}");
        match self.running.take() {
            Some(running) => self.close(running, -1, 0.0),
            None => self.failed += 1,
        }
        for name in std::mem::take(&mut self.waiting) {
            println!("FAILED {name:<24} did not run");
            self.failed += 1;
        }
    }
}

impl Running {
    fn line(&mut self, line: &str) {
        let (passed, failed) = counts(line);
        self.passed += passed;
        self.failed += failed;
        self.counted |= line.starts_with("test result:");
        self.said.push(line.to_owned());
    }
}

fn passed_test(line: &str) -> bool {
    line.starts_with("test ") && (line.ends_with("... ok") || line.contains("... ignored"))
}

#[cfg(test)]
mod tests {
    use super::{Event, Verdict};

    fn verdict(lines: &[&str]) -> (Verdict, bool) {
        let mut verdict = Verdict::new(&["a", "b"], std::path::Path::new("/dev/null")).unwrap();
        let done = lines.iter().any(|line| verdict.line(line) == Event::Done);
        (verdict, done)
    }

    #[test]
    fn tests_are_counted_by_the_runners_closing_line() {
        let (verdict, done) = verdict(&[
            "@vm ready 6.1 5.0",
            "@vm begin a",
            "test x ... ok",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "@vm end a 101 1.0 2.5",
            "@vm skip x: no hardware",
            "@vm begin b",
            "@vm end b 0 2.5 2.6",
            "@vm done",
        ]);
        assert_eq!((verdict.passed, verdict.failed, done), (4, 1, true));
        assert_eq!(verdict.skips, ["in the virtual machine: x: no hardware"]);
    }

    #[test]
    fn a_suite_that_dies_fails_though_it_said_nothing() {
        let (verdict, _) = verdict(&["@vm begin a", "@vm end a 139 0 0"]);
        assert_eq!((verdict.passed, verdict.failed), (0, 1));
    }

    #[test]
    fn what_did_not_come_to_run_has_failed() {
        let (mut verdict, _) = verdict(&["@vm begin a"]);
        verdict.dead("panic");
        assert_eq!(verdict.failed, 2);
    }
}
