//! What cargo built, as it says itself.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// An executable that cargo built.
#[derive(Debug)]
pub struct Artifact {
    /// The package, as cargo's identifiers end: `path+file:///…/crates/linux#gantry-linux@0.1.0` or `…/libcontainer#0.1.0`.
    pub package: String,
    /// The target.
    pub name: String,
    /// `bin`, `example`, `lib`, `test` …
    pub kind: String,
    /// It runs tests.
    pub test: bool,
    /// Where it is.
    pub executable: PathBuf,
}

/// Runs a cargo that was told `--message-format json-render-diagnostics`; every executable that it built or had built.
pub fn built(command: &mut Command) -> Result<Vec<Artifact>> {
    let text = gantry_tests::command::describe(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {text}"))?;
    let out = BufReader::new(child.stdout.take().context("cargo's output")?);
    let messages = serde_json::Deserializer::from_reader(out).into_iter::<Value>();
    let artifacts = messages
        .filter_map(|message| message.map(|message| artifact(&message)).transpose())
        .collect::<Result<Vec<_>, _>>()
        .context("read what cargo says")?;
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(artifacts)
}

fn artifact(message: &Value) -> Option<Artifact> {
    let target = &message["target"];
    Some(Artifact {
        executable: message["executable"].as_str()?.into(),
        package: package_name(message["package_id"].as_str()?).to_owned(),
        name: target["name"].as_str()?.to_owned(),
        kind: target["kind"][0].as_str()?.to_owned(),
        test: message["profile"]["test"].as_bool()?,
    })
}

fn package_name(id: &str) -> &str {
    let (path, last) = id.rsplit_once('#').unwrap_or(("", id));
    match last.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    use super::package_name;

    #[test]
    fn a_packages_name_is_found_in_both_kinds_of_identifiers() {
        assert_eq!(package_name("path+file:///x/crates/linux#gantry-linux@0.1.0"), "gantry-linux");
        assert_eq!(package_name("path+file:///x/crates/libcontainer#0.1.0"), "libcontainer");
    }
}
