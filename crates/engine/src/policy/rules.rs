//! What a policy says: which jobs, on what, and how much power a container may have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{Deed, Refusal, Subject};
use crate::Engine;
use crate::container::{Container, Record};
use crate::error::{Error, Result};
use crate::files::LONGEST_CHAIN;

/// Jobs that only end or hold up what runs: a container's own power does not matter to them.
const ENDS: [&str; 6] = ["stop", "kill", "delete", "pause", "rename", "resize"];
/// Reads that tell of everything at once: under a selector of labels they are for those who are given them by name.
const TELLS_ALL: [&str; 5] = ["jobs", "job_handlers", "system_df", "viz", "network_ports"];
/// The option by which a bridge network takes a bridge that is there.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
/// Reads of a container's files, among them those that it has mounted of the host.
const COPIES: [&str; 2] = ["container_copy", "container_stat_path"];

/// The rules of a policy, as its file has them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Rules {
    /// Names of jobs, as `gantry jobs --handlers` shows them; `read` stands for all that change nothing, `*` for all.
    pub jobs: Vec<String>,
    /// Labels that containers, volumes and networks must have, `key` or `key=value`; others are not there.
    pub labels: Vec<String>,
    /// Containers may have more power than the default gives.
    pub privileged: bool,
    /// Containers may share the host's namespaces.
    pub host_namespaces: bool,
    /// Paths of the host that containers may have mounted; one that ends in `/` stands for what lies below it, too.
    pub binds: Vec<PathBuf>,
}

impl Rules {
    /// Everything may be seen, and nothing changed.
    #[must_use]
    pub fn read_only() -> Self {
        Self { jobs: vec!["read".to_owned()], ..Self::default() }
    }

    /// The rules of a file.
    ///
    /// # Errors
    /// When it cannot be read, or says what no policy can.
    pub fn read(path: &Path) -> Result<Self> {
        let text = gantry_linux::fs::read(path)?;
        let wrong = |reason: String| Error::invalid(format!("policy {}: {reason}", path.display()));
        let rules: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if let Some(name) = rules.jobs.iter().find(|name| !is_job(name)) {
            return Err(wrong(format!(
                "there is no job {name:?}: 'gantry jobs --handlers' shows them, and read and * are others"
            )));
        }
        if let Some(bind) = rules.binds.iter().find(|bind| !bind.is_absolute() || super::plain(bind).is_none()) {
            return Err(wrong(format!("{}: want an absolute path without ..", bind.display())));
        }
        Ok(rules)
    }

    /// Whether something with these labels is there for this policy.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
            None => labels.contains_key(wanted),
        })
    }

    pub(super) const fn has_selector(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Whether a path without `.`, `..` and doubled slashes may be mounted, wherever it leads.
    pub(super) fn lists(&self, path: &Path) -> bool {
        self.binds.iter().any(|bind| {
            let below = bind.as_os_str().as_encoded_bytes().ends_with(b"/");
            let bind: PathBuf = bind.components().collect();
            path == bind || below && path.starts_with(&bind)
        })
    }

    pub(super) fn judge(&self, engine: &Engine, deed: &Deed<'_>) -> std::result::Result<(), Refusal> {
        let named = self.jobs.iter().any(|name| name == deed.job);
        if !(named || self.jobs.iter().any(|name| name == "*" || name == "read" && deed.reads)) {
            return Err(Refusal::new(if deed.reads { "it is not on the list" } else { "it changes something" }));
        }
        match deed.subject {
            Subject::Image => Ok(()),
            Subject::Daemon if !self.has_selector() || named => Ok(()),
            Subject::Daemon if deed.reads && !TELLS_ALL.contains(&deed.job) => Ok(()),
            Subject::Daemon => Err(Refusal::new("it is about everybody's containers")),
            Subject::Container(name) => {
                let container = self.container(engine, name)?;
                self.bounded(engine, deed, &container.record())
            }
            Subject::Exec(id) => {
                let gone = || Refusal::Hidden(Error::not_found(format!("No such exec instance: {id}")));
                let (container, exec) = engine.containers.exec(id).ok_or_else(gone)?;
                self.container(engine, container.id()).map_err(|_| gone())?;
                self.process(deed, exec.inspect().process_config.privileged)?;
                self.bounded(engine, deed, &container.record())
            }
            Subject::NewExec { container, config } => {
                let container = self.container(engine, container)?;
                self.process(deed, config.privileged)?;
                self.bounded(engine, deed, &container.record())
            }
            Subject::Volume(name) => self.volume(engine, name),
            Subject::Network(name) => self.network(engine, name),
            Subject::Place { network, container, links } => {
                self.container(engine, container)?;
                self.links(engine, links)?;
                self.network(engine, network)
            }
            // Clients take "not found" for the image, and pull it.
            Subject::NewContainer(request) => self.new_container(engine, request).map_err(|refusal| match refusal {
                Refusal::Hidden(error) => Refusal::Hidden(Error::invalid(error.message)),
                forbidden @ Refusal::Forbidden(_) => forbidden,
            }),
            Subject::NewVolume(request) => {
                self.labelled(request.labels.clone().unwrap_or_default())?;
                // An option of the local driver can make it a bind of anything.
                match request.driver_opts.as_ref().is_some_and(|options| !options.is_empty()) && !self.privileged {
                    true => Err(Refusal::new("a volume with options of its driver can be any directory of the host")),
                    false => Ok(()),
                }
            }
            Subject::NewNetwork(request) => {
                self.labelled(request.labels.clone())?;
                if self.host_namespaces {
                    return Ok(());
                }
                if !matches!(request.driver.as_str(), "" | "bridge") {
                    return Err(Refusal::new(format!("a network of the driver {} is the host's", request.driver)));
                }
                match request.options.contains_key(BRIDGE_NAME) {
                    true => Err(Refusal::new(format!("{BRIDGE_NAME} can be any bridge of the host"))),
                    false => Ok(()),
                }
            }
        }
    }

    /// A container that may be seen.
    pub(super) fn container(&self, engine: &Engine, name: &str) -> std::result::Result<Arc<Container>, Refusal> {
        let shown = |container: &Container| self.selects(&container.record().labels());
        engine.containers.get_among(name, shown).map_err(Refusal::Hidden)
    }

    pub(super) fn volume(&self, engine: &Engine, name: &str) -> std::result::Result<(), Refusal> {
        let volume = engine.volumes.get(name).map_err(Refusal::Hidden)?;
        if self.selects(&volume.labels.clone().unwrap_or_default()) {
            return Ok(());
        }
        Err(Refusal::Hidden(Error::not_found(format!("get {name}: no such volume"))))
    }

    pub(super) fn network(&self, engine: &Engine, name: &str) -> std::result::Result<(), Refusal> {
        if !self.has_selector() || crate::networks::is_predefined(name) {
            return Ok(());
        }
        let found = engine.networks.find_among(engine, name, |labels| self.selects(labels));
        found.map(drop).map_err(Refusal::Hidden)
    }

    pub(super) fn labelled(&self, labels: BTreeMap<String, String>) -> std::result::Result<(), Refusal> {
        if self.selects(&labels) {
            return Ok(());
        }
        Err(Refusal::new(format!("it must have the labels {}", self.labels.join(", "))))
    }

    fn process(&self, deed: &Deed<'_>, privileged: bool) -> std::result::Result<(), Refusal> {
        if privileged && !self.privileged && !deed.reads {
            return Err(Refusal::new("a privileged process"));
        }
        Ok(())
    }

    /// A container that somebody else made mighty is not for the hands of this policy.
    fn bounded(&self, engine: &Engine, deed: &Deed<'_>, record: &Record) -> std::result::Result<(), Refusal> {
        let reads = deed.reads && !(self.has_selector() && COPIES.contains(&deed.job));
        if reads || ENDS.contains(&deed.job) {
            return Ok(());
        }
        // Names that may be another's by now.
        for name in record.networks.keys() {
            self.mode(engine, "network", name, LONGEST_CHAIN)?;
            self.network(engine, name)?;
        }
        self.power(engine, &record.host_config, Some(record))
    }
}

/// Whether a job is judged by where paths of the host lead, which may mean to wait for a disk or a peer.
pub fn follows_paths(job: &str, reads: bool) -> bool {
    !reads || COPIES.contains(&job)
}

fn is_job(name: &str) -> bool {
    matches!(name, "*" | "read") || crate::handlers::HANDLERS.iter().any(|handler| handler.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rules> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.json");
        gantry_linux::fs::write(&path, text).unwrap();
        Rules::read(&path)
    }

    #[test]
    fn a_policy_says_only_what_can_be_kept() {
        let rules = read(r#"{"jobs": ["read", "start"], "labels": ["team=a"], "binds": ["/srv/a/"]}"#).unwrap();
        assert!(!rules.privileged && !rules.host_namespaces);
        for (text, says) in [
            (r#"{"jobs": ["statr"]}"#, "there is no job \"statr\""),
            (r#"{"job": ["start"]}"#, "unknown field"),
            (r#"{"binds": ["srv"]}"#, "absolute path"),
            (r#"{"binds": ["/srv/../etc"]}"#, "absolute path"),
            ("{", "EOF"),
        ] {
            let message = read(text).unwrap_err().message;
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn a_selector_wants_every_label() {
        let rules = Rules { labels: vec!["team=a".into(), "ci".into()], ..Rules::default() };
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(rules.selects(&labels(&[("team", "a"), ("ci", "")])));
        assert!(!rules.selects(&labels(&[("team", "b"), ("ci", "")])));
        assert!(!rules.selects(&labels(&[("team", "a")])));
        assert!(Rules::default().selects(&BTreeMap::new()));
    }
}
