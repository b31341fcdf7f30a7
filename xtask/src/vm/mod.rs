//! `cargo xtask vm-test`: tests on Debian 12's kernel in a virtual machine, for what this machine's kernel may lack:
//! cgroup v2 alone, AppArmor, device mapper; and for the ways of older kernels that a new one never takes.

mod cpio;
mod kernel;
mod machine;
mod pack;
mod programs;
mod table;
mod verdict;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{build, setup};
use table::{SUITES, Suite};

pub use table::{HOST, SYSTEM_TOOLS, TOOLS};
pub use verdict::Verdict;

/// The verb. The first filter may name suites; the others, and a first one that names none, are names of tests.
pub fn run(filters: &[&str]) -> Result<()> {
    setup::for_vm().context("install what the virtual machine needs")?;
    let machine = Prepared::new()?;
    let verdict = machine.run(filters)?;
    for skip in &verdict.skips {
        println!("skipped: {skip}");
    }
    println!("\n{} passed, {} failed", verdict.passed, verdict.failed);
    if verdict.failed > 0 {
        bail!("not every test passed; all that was said is in {}", machine.work.join("tests.log").display());
    }
    if verdict.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Everything that has to be had from elsewhere.
#[derive(Debug)]
pub struct Prepared {
    kernel: kernel::Kernel,
    work: PathBuf,
}

impl Prepared {
    /// Gets the kernel; fails where there is none to be had.
    pub fn new() -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the virtual machine is an x86-64 one, and so must be the tests that run in it");
        }
        let work = gantry_tests::paths::target()?.join("vm");
        std::fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
        Ok(Self { kernel: kernel::Kernel::get(&work.join("kernel"))?, work })
    }

    /// Builds the tests, packs and runs them.
    pub fn run(&self, filters: &[&str]) -> Result<Verdict> {
        let (suites, filters) = choose(filters);
        let programs = programs::build(&suites)?;
        let system = suites.iter().any(|suite| suite.package == build::SYSTEM);
        let gantry = if system { Some(build::gantry(build::PROFILE)?) } else { None };
        let contents = pack::Contents {
            kernel: &self.kernel,
            suites: &suites,
            programs: &programs,
            gantry: gantry.as_deref(),
            filters,
        };
        let initial = self.work.join("initial.cpio");
        let size = pack::pack(&contents, &self.work, &initial)?;
        println!("packed {} suites, {} MiB", suites.len(), size >> 20);
        let names: Vec<&str> = suites.iter().map(|suite| suite.name).collect();
        let verdict = Verdict::new(&names, &self.work.join("tests.log"))?;
        machine::run(&self.kernel.image, &initial, &self.console(), verdict)
    }

    fn console(&self) -> PathBuf {
        self.work.join("console.log")
    }
}

/// The suites that the first filter names, or all; and what remains for the tests' own filter.
fn choose<'a>(filters: &'a [&'a str]) -> (Vec<Suite>, &'a [&'a str]) {
    if let Some((first, rest)) = filters.split_first() {
        let named: Vec<Suite> = SUITES.iter().copied().filter(|suite| suite.name.contains(first)).collect();
        if !named.is_empty() {
            return (named, rest);
        }
    }
    (SUITES.to_vec(), filters)
}
