//! `cargo xtask c-library`: libcontainer.a and libcontainer.so with their keeper inside, and the header.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build;

const PACKAGE: &str = "libcontainer-c";
const KEEPER: &str = "libcontainer-keeper";

/// With the profile that is named, or as it is shipped.
pub fn run(words: &[&str]) -> Result<()> {
    let profile = match words {
        [] => "release",
        [profile] => profile,
        _ => bail!("c-library takes the name of one profile"),
    };
    println!("{}", build(profile)?.display());
    Ok(())
}

/// Builds both and returns the directory that they are in: `target/<triple>/c-library`.
pub fn build(profile: &str) -> Result<PathBuf> {
    let target = build::target_triple()?;
    let directory = target.join("c-library");
    let build_directory = directory.join("build");
    // Static as everything else is: it does not need what the caller is linked against.
    build::run(&mut build::cargo(&["build", "--quiet", "--profile", profile, build::ALL, "--bin", KEEPER]))?;
    let stripped = build_directory.join("stripped").join(profile);
    let keeper = build::stripped(&target.join(profile).join(KEEPER), &stripped)?;
    let mut library = build::cargo(&["rustc", "--quiet", "--profile", profile, "-p", PACKAGE]);
    library.args(["--lib", "--crate-type", "staticlib,cdylib", "--target-dir"]).arg(&build_directory);
    // A shared library cannot be made for a static C library; the archive goes with either.
    library.env("RUSTFLAGS", "-C target-feature=-crt-static");
    library.env("LIBCONTAINER_KEEPER", keeper);
    build::run(&mut library)?;
    let triple = target.file_name().context("the target directory has no name")?;
    let built = build_directory.join(triple).join(profile);
    for name in ["libcontainer.a", "libcontainer.so"] {
        publish(&built.join(name), &directory.join(name))?;
    }
    publish(&build::root().join("crates/libcontainer-c/include/libcontainer.h"), &directory.join("libcontainer.h"))?;
    Ok(directory)
}

/// Copies in one step: somebody may be linking against what is there.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension(format!("new-{}", std::process::id()));
    std::fs::copy(from, &beside).with_context(|| format!("copy {}", from.display()))?;
    std::fs::rename(&beside, to).with_context(|| format!("rename {}", beside.display()))
}
