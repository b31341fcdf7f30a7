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
    /// As asked for, by the network's name.
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
    /// Its place on the network while it runs.
    pub endpoint: Option<Endpoint>,
    /// The `local` volumes that were made for it without a name; `rm -v` removes them.
    pub anonymous_volumes: Vec<String>,
    /// Its user namespace's mapping, which it keeps whatever the daemon is told later; `None` is the host's users.
    #[serde(default)]
    pub users: Option<gantry_linux::mount::IdMap>,
    /// User and group of the process that had it made: through a user namespace its binds are theirs.
    #[serde(default)]
    pub caller: Option<(u32, u32)>,
}

impl Record {
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
