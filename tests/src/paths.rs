//! Where things are: cargo's target directory, the binary under test, programs on the PATH.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Cargo's target directory: the outermost directory above the running program that cargo has tagged as a cache.
pub fn target() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find the running program")?;
    let found = program.ancestors().filter(|directory| directory.join("CACHEDIR.TAG").is_file()).last();
    found.map(Path::to_owned).with_context(|| format!("no target directory above {}", program.display()))
}

/// The binary under test: `GANTRY_BIN`, or the newest one that cargo built.
pub fn gantry() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GANTRY_BIN") {
        return Ok(path.into());
    }
    let program = std::env::current_exe().context("find the running program")?;
    let built = program.ancestors().flat_map(|directory| {
        ["fast-release", "release", "debug"].into_iter().map(|profile| directory.join(profile).join("gantry"))
    });
    let newest = built.filter(|path| path.is_file()).max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
    match newest {
        Some(path) => Ok(path),
        None => bail!("the binary under test is not built: run `cargo build -p gantry`, or set GANTRY_BIN"),
    }
}

/// Finds a program on the PATH, `/usr/sbin` and `/sbin` included.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// As [`program`], with an error that says what to do.
pub fn need(name: &str) -> Result<PathBuf> {
    program(name).with_context(|| format!("{name} is not installed: `cargo xtask test` installs what the tests need"))
}
