//! `import`: makes an image of one archive of a root file system.

use std::collections::BTreeMap;

use gantry_api::container::Config;
use gantry_api::progress::Progress;
use gantry_api::reference::Reference;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::stream::{Inlet, Outlet};

/// Imports an archive.
pub struct Import {
    /// The repository of its name; none where empty.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The comment.
    pub message: String,
    /// Dockerfile instructions for the configuration.
    pub changes: Vec<String>,
    /// `os/architecture`; this machine's where empty.
    pub platform: String,
    /// The archive, compressed or not.
    pub body: Inlet,
    /// Gets the id as a progress message.
    pub outlet: Outlet,
}

impl Job for Import {
    const NAME: &'static str = "import";
    const DOC: &'static str = "makes an image of an archive of a root file system";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn arguments(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let engine = context.engine;
        let name = match self.repository.as_str() {
            "" => None,
            text => {
                let name = Reference::parse(text)?;
                Some(if self.tag.is_empty() { name.with_default_tag() } else { name.with_tag(&self.tag)? })
            }
        };
        let mut config = Config::default();
        for change in &self.changes {
            apply_change(&mut config, change)?;
        }
        let architecture = match self.platform.split('/').collect::<Vec<_>>()[..] {
            [""] => super::version::architecture().to_owned(),
            ["linux", architecture, ..] => architecture.to_owned(),
            _ => return Err(Error::invalid(format!("invalid platform {:?}: want linux/ARCHITECTURE", self.platform))),
        };
        let shown = name.as_ref().map(Reference::familiar);
        let mut body = self.body;
        body.cancel_with(context.cancelled.clone());
        let message = Some(self.message).filter(|m| !m.is_empty()).unwrap_or_else(|| "Imported from -".into());
        let worker = std::sync::Arc::clone(&engine);
        let image = blocking(move || {
            let created = jiff::Timestamp::now().to_string();
            let import = gantry_graph::Import { name, config, architecture, created, message };
            Ok(worker.graph.import(&mut body, import)?)
        })
        .await?;
        let attributes = BTreeMap::from([("name".to_owned(), shown.unwrap_or_else(|| image.id.to_string()))]);
        engine.events.publish("image", "import", image.id.as_str(), attributes);
        self.outlet.send_json(&Progress::status(image.id.to_string())).await;
        Ok(())
    }
}

/// The Dockerfile instructions that `--change` takes.
fn apply_change(config: &mut Config, change: &str) -> Result<()> {
    let change = change.trim();
    let (instruction, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let rest = rest.trim();
    let pair = || {
        rest.split_once(['=', ' '])
            .map(|(key, value)| (key.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
    };
    let command = || match serde_json::from_str::<Vec<String>>(rest) {
        Ok(words) => words,
        Err(_) => vec!["/bin/sh".into(), "-c".into(), rest.to_owned()],
    };
    let invalid = || Error::invalid(format!("invalid change {change:?}"));
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command()),
        "ENTRYPOINT" => config.entrypoint = Some(command()),
        "ENV" => {
            let (key, value) = pair().ok_or_else(invalid)?;
            crate::spec::merge_environment(config.env.get_or_insert_default(), &[format!("{key}={value}")]);
        }
        "LABEL" => {
            let (key, value) = pair().ok_or_else(invalid)?;
            config.labels.get_or_insert_default().insert(key, value);
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                crate::networks::parse_port(port)?;
                let key = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                config.exposed_ports.get_or_insert_default().insert(key, Default::default());
            }
        }
        "VOLUME" => {
            let paths = serde_json::from_str::<Vec<String>>(rest)
                .unwrap_or_else(|_| rest.split_whitespace().map(str::to_owned).collect());
            config.volumes.get_or_insert_default().extend(paths.into_iter().map(|path| (path, Default::default())));
        }
        "USER" if !rest.is_empty() => rest.clone_into(&mut config.user),
        "WORKDIR" if !rest.is_empty() => rest.clone_into(&mut config.working_dir),
        "STOPSIGNAL" if !rest.is_empty() => rest.clone_into(&mut config.stop_signal),
        "ONBUILD" if !rest.is_empty() => config.on_build.get_or_insert_default().push(rest.to_owned()),
        other => return Err(Error::invalid(format!("{other} is not a valid change command"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_dockerfile_instructions() {
        let mut config = Config::default();
        for change in [
            "CMD [\"a\", \"b\"]",
            "ENV A=1",
            "env B 2",
            "EXPOSE 80 53/udp",
            "VOLUME /data",
            "USER me",
            "ENTRYPOINT x y",
        ] {
            apply_change(&mut config, change).unwrap();
        }
        assert_eq!(config.cmd.unwrap(), ["a", "b"]);
        assert_eq!(config.env.unwrap(), ["A=1", "B=2"]);
        assert_eq!(config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "x y"]);
        for bad in ["RUN x", "", "ENV", "EXPOSE x"] {
            assert!(apply_change(&mut Config::default(), bad).is_err(), "{bad}");
        }
    }
}
