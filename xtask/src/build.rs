//! Builds the product with the profile that tests and demonstration use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::order;

/// Optimised, but without link-time optimisation: a fifth of the build time of a real release.
pub const PROFILE: &str = "fast-release";

/// Packages are built by this choice, whatever of them is wanted: which are chosen decides which features what they depend on
/// gets, and for another choice half of it would be compiled anew. Only the product is built by itself, as it is shipped.
pub const ALL: &str = "--workspace";

/// The package of the system tests.
pub const SYSTEM: &str = "gantry-tests";

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Cargo, in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs with inherited output.
pub fn run(command: &mut Command) -> Result<()> {
    let text = gantry_tests::command::describe(command);
    let status = command.status().with_context(|| format!("start {text}"))?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// Builds `gantry` with the given profile and returns where it is; `GANTRY_BIN` names one that is there already.
///
/// Its functions are in the order of [`order`], by the names that this compiler gives them: they are known after a build, and
/// after the first one it is linked again.
pub fn gantry(profile: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GANTRY_BIN") {
        return Ok(path.into());
    }
    let directory = target_triple()?.join(profile);
    let (path, ordered) = (directory.join("gantry"), directory.join("gantry.order"));
    if !order::LINKER_CAN {
        compile(profile, &path, None)?;
        return Ok(path);
    }
    compile(profile, &path, Some(&ordered).filter(|ordered| ordered.is_file()))?;
    let names = order::of(&path)?;
    if fs::read_to_string(&ordered).ok().as_ref() != Some(&names) {
        fs::write(&ordered, names).with_context(|| format!("write {}", ordered.display()))?;
        compile(profile, &path, Some(&ordered))?;
    }
    Ok(path)
}

fn compile(profile: &str, path: &Path, ordered: Option<&PathBuf>) -> Result<()> {
    let mut command = cargo(&["build", "--quiet", "--profile", profile, "-p", "gantry"]);
    if let Some(ordered) = ordered {
        command.env("GANTRY_ORDER", ordered);
    }
    run(&mut command)?;
    if !path.is_file() {
        bail!("cargo built no {}", path.display());
    }
    Ok(())
}

/// Copies a program without its symbols into a directory, if that was not done already, and returns the copy.
pub fn stripped(program: &Path, directory: &Path) -> Result<PathBuf> {
    let copy = directory.join(program.file_name().context("a program's name")?);
    let newer = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if newer(&copy) > newer(program) {
        return Ok(copy);
    }
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    // In one step: somebody may be reading what is there.
    let beside = copy.with_extension(format!("new-{}", std::process::id()));
    run(Command::new("strip").arg("-o").arg(&beside).arg(program))?;
    fs::rename(&beside, &copy).with_context(|| format!("rename {}", beside.display()))?;
    Ok(copy)
}

/// `target/<triple>`: where this very program was built.
pub fn target_triple() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find the running program")?;
    Ok(program.ancestors().nth(2).context("xtask is not in a target directory")?.to_owned())
}
