//! `state`: a container as JSON; also a line of `list`.

use std::collections::BTreeMap;

use libcontainer::oci::Status;
use libcontainer::runtime::Container;
use serde::Serialize;

use super::Context;
use crate::cli::OneContainer;
use crate::error::{Error, Result};
use crate::out;

/// What engines read of a container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    pub oci_version: String,
    pub id: String,
    pub pid: i32,
    pub status: Status,
    pub bundle: String,
    pub rootfs: String,
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub owner: String,
}

impl Described {
    /// As it is now.
    pub fn of(container: &Container, owner: String) -> Result<Self> {
        let state = container.state()?;
        Ok(Self {
            oci_version: state.oci_version,
            id: state.id,
            pid: state.pid,
            status: state.status,
            bundle: state.bundle,
            rootfs: container.rootfs().display().to_string(),
            created: container.created().to_owned(),
            annotations: state.annotations,
            owner,
        })
    }
}

/// Prints it.
pub fn state(context: &Context<'_>, flags: &OneContainer) -> Result<u8> {
    let described = Described::of(&context.open(&flags.id)?, String::new())?;
    let mut text = serde_json::to_string_pretty(&described).map_err(unwritable)?;
    text.push('\n');
    out::print(&text)?;
    Ok(0)
}

/// JSON that cannot be written: a fault of ours.
pub fn unwritable(error: serde_json::Error) -> Error {
    Error::Refused(format!("write JSON: {error}"))
}
