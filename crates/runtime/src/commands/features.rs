//! `features`: what is supported, as the specification has it written.

use libcontainer::oci::features;

use super::state::unwritable;
use crate::cli::Nothing;
use crate::error::Result;
use crate::out;

/// Prints the object.
pub fn features(_: &Nothing) -> Result<u8> {
    let mut features = features::features();
    features.annotations.insert("gantry.runtime.version".into(), env!("CARGO_PKG_VERSION").into());
    let mut text = serde_json::to_string_pretty(&features).map_err(unwritable)?;
    text.push('\n');
    out::print(&text)?;
    Ok(0)
}
