//! The record of a container: one document, written to the database at each change, and what lists show of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gantry_api::container::Config;
use gantry_api::hostconfig::HostConfig;
use gantry_api::inspect::MountPoint;
use gantry_api::network::EndpointSettings;
use gantry_networkdriver::Endpoint;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::State;

/// Everything that is kept of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// The image as the caller named it.
    pub image_name: String,
    /// The caller's configuration over the image's.
    pub config: Config,
    /// As asked for, defaults filled in.
    pub host_config: HostConfig,
    /// Every network that it is to be on, with what is asked of its place there.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Binds, volumes and tmpfs, resolved.
    pub mounts: Vec<MountPoint>,
    /// What it is doing.
    pub state: State,
    /// How often its policy restarted it.
    pub restart_count: i64,
    /// A person stopped it: `unless-stopped` leaves it alone.
    pub stopped_by_user: bool,
    /// Its places on networks while it runs, by the networks' names.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Its one place, in a record of when there was only one; see [`Record::read`].
    #[serde(default, rename = "endpoint", skip_serializing)]
    pub only_endpoint: Option<Endpoint>,
    /// Written since `networks` holds every network that the container is to be on.
    #[serde(default)]
    pub several_networks: bool,
    /// The `local` volumes that were made for it without a name; `rm -v` removes them.
    pub anonymous_volumes: Vec<String>,
    /// Its user namespace's mapping, which it keeps whatever the daemon is told later; `None` is the host's users.
    #[serde(default)]
    pub users: Option<gantry_linux::mount::IdMap>,
    /// User and group of the process that had it made: through a user namespace its binds are theirs.
    #[serde(default)]
    pub caller: Option<(u32, u32)>,
    /// A policy judged its binds by their paths: no link on the way to them may lead elsewhere, whenever it is started.
    #[serde(default)]
    pub exact_binds: bool,
}

impl Record {
    /// A container that has just been thought of.
    #[must_use]
    pub fn new(id: String, created: Timestamp, config: Config, host_config: HostConfig) -> Self {
        Self {
            id,
            name: String::new(),
            created,
            image_id: String::new(),
            image_name: String::new(),
            config,
            host_config,
            networks: BTreeMap::new(),
            path: String::new(),
            args: Vec::new(),
            mounts: Vec::new(),
            state: State::Created { failure: None },
            restart_count: 0,
            stopped_by_user: false,
            endpoints: BTreeMap::new(),
            only_endpoint: None,
            several_networks: true,
            anonymous_volumes: Vec::new(),
            users: None,
            caller: None,
            exact_binds: false,
        }
    }

    /// Understands a record, also one of when a container was on one network.
    ///
    /// # Errors
    /// What is no record.
    pub fn read(text: &[u8]) -> serde_json::Result<Self> {
        let mut record: Self = serde_json::from_slice(text)?;
        if !record.several_networks {
            let mode = record.host_config.network_mode.clone();
            if let Some(endpoint) = record.only_endpoint.take() {
                record.endpoints.insert(mode.clone(), endpoint);
            }
            if !mode.starts_with("container:") {
                record.networks.entry(mode).or_default();
            }
            record.several_networks = true;
        }
        Ok(record)
    }

    /// `<data root>/containers/<id>`.
    #[must_use]
    pub fn directory(&self, data_root: &std::path::Path) -> PathBuf {
        data_root.join("containers").join(&self.id)
    }

    /// Its json-file log.
    #[must_use]
    pub fn log_path(&self, data_root: &std::path::Path) -> PathBuf {
        self.directory(data_root).join(format!("{}-json.log", self.id))
    }

    /// The first twelve digits.
    #[must_use]
    pub fn short_id(&self) -> &str {
        &self.id[..12]
    }

    /// The host name that its processes see.
    #[must_use]
    pub fn hostname(&self) -> &str {
        if self.config.hostname.is_empty() { self.short_id() } else { &self.config.hostname }
    }

    /// Labels, none where none were given.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.config.labels.clone().unwrap_or_default()
    }

    /// Attributes of its events: image, name, labels.
    #[must_use]
    pub fn event_attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.labels();
        attributes.insert("image".into(), self.image_name.clone());
        attributes.insert("name".into(), self.name.clone());
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_when_there_was_one_network_is_understood() {
        let record = Record::new("0".repeat(64), Timestamp::UNIX_EPOCH, Config::default(), HostConfig::default());
        let mut old = serde_json::to_value(&record).unwrap();
        let object = old.as_object_mut().unwrap();
        object.retain(|key, _| !matches!(key.as_str(), "endpoints" | "several_networks"));
        object["host_config"]["NetworkMode"] = "bridge".into();
        let endpoint = serde_json::json!({
            "container": "c", "host_link": "gv1", "link": "eth0", "address": "172.18.0.2", "prefix": 20,
            "gateway": "172.18.0.1", "mac": [2, 66, 172, 18, 0, 2], "ports": [],
        });
        object.insert("endpoint".into(), endpoint);
        let read = Record::read(old.to_string().as_bytes()).unwrap();
        assert_eq!(read.endpoints["bridge"].address.to_string(), "172.18.0.2");
        assert!(read.networks.contains_key("bridge"));
        let again = Record::read(&serde_json::to_vec(&read).unwrap()).unwrap();
        assert_eq!((again.endpoints, again.networks), (read.endpoints, read.networks));
    }
}
