//! Containers: what is asked for, and how lists show them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hostconfig::HostConfig;
use crate::inspect::MountPoint;
use crate::json::string_or_list;
use crate::network::{EndpointSettings, NetworkingConfig};

/// An empty JSON object: Go's `struct{}` as a map value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The portable part of a container's configuration, and of an image's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Option<Vec<String>>,
    #[serde(deserialize_with = "string_or_list::deserialize")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    pub image: String,
    pub volumes: Option<BTreeMap<String, Empty>>,
    pub working_dir: String,
    #[serde(deserialize_with = "string_or_list::deserialize")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub network_disabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    pub on_build: Option<Vec<String>>,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "string_or_list::deserialize")]
    pub shell: Option<Vec<String>>,
}

/// A health check; kept and shown, run by a later issue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct Healthcheck {
    pub test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// `POST /containers/create`.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the words of the API")]
pub struct CreateRequest {
    pub config: Config,
    pub host_config: HostConfig,
    pub networking_config: NetworkingConfig,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Extras {
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

impl CreateRequest {
    /// Reads the body, in which the fields of [`Config`] stand beside `HostConfig` and `NetworkingConfig`.
    ///
    /// # Errors
    /// As [`crate::json::from_slice`].
    pub fn from_slice(body: &[u8]) -> Result<Self, crate::json::Error> {
        let value: serde_json::Value = serde_json::from_slice(body)?;
        let config = crate::json::from_value(value.clone())?;
        let Extras { host_config, networking_config } = crate::json::from_value(value)?;
        Ok(Self { config, host_config, networking_config })
    }

    /// The body.
    ///
    /// # Panics
    /// Never: these types always serialise to objects.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut value = serde_json::to_value(&self.config).expect("plain data serialises");
        let object = value.as_object_mut().expect("a struct is an object");
        object.insert("HostConfig".into(), serde_json::to_value(&self.host_config).expect("plain data serialises"));
        let networking = serde_json::to_value(&self.networking_config).expect("plain data serialises");
        object.insert("NetworkingConfig".into(), networking);
        value.to_string().into_bytes()
    }
}

/// Answer to a create.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct CreateResponse {
    pub id: String,
    pub warnings: Vec<String>,
}

/// Answer of `POST /containers/{id}/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct UpdateResponse {
    pub warnings: Vec<String>,
}

/// One line of `docker ps`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct ContainerSummary {
    pub id: String,
    pub names: Vec<String>,
    pub image: String,
    #[serde(rename = "ImageID")]
    pub image_id: String,
    pub command: String,
    pub created: i64,
    pub ports: Vec<PortSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub state: String,
    pub status: String,
    pub host_config: SummaryHostConfig,
    pub network_settings: SummaryNetworks,
    pub mounts: Vec<MountPoint>,
}

/// What a list shows of the host configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct SummaryHostConfig {
    pub network_mode: String,
}

/// What a list shows of the networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct SummaryNetworks {
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// A port in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the words of the API")]
pub struct PortSummary {
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    pub ip: String,
    #[serde(rename = "PrivatePort")]
    pub private_port: u16,
    #[serde(rename = "PublicPort", skip_serializing_if = "is_no_port")]
    pub public_port: u16,
    #[serde(rename = "Type")]
    pub kind: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_no_port(port: &u16) -> bool {
    *port == 0
}

/// Answer to a wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct WaitResponse {
    pub status_code: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WaitError>,
}

/// Why a wait failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct WaitError {
    pub message: String,
}

/// `GET /containers/{id}/top`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct Top {
    pub titles: Vec<String>,
    pub processes: Vec<Vec<String>>,
}

/// One path of `GET /containers/{id}/changes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct ContainerChange {
    pub path: String,
    pub kind: u8,
}

/// The `X-Docker-Container-Path-Stat` header, base64 of this as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the words of the API")]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// Go's `os.FileMode`: bit 31 directory, 27 symbolic link …
    pub mode: u32,
    pub mtime: String,
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_body_is_read_back_as_it_was_written() {
        let mut request = CreateRequest::default();
        request.config.image = "debian".into();
        request.config.cmd = Some(vec!["true".into()]);
        request.host_config.memory = 1 << 20;
        assert_eq!(CreateRequest::from_slice(&request.to_json()).unwrap(), request);
    }
}
