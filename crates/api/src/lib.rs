//! The words on the wire: request and answer types of the Docker Engine API, names and digests, stream framing, the
//! error body, version rules. Pure: no IO, no clock, no kernel.

pub mod container;
pub mod error;
pub mod event;
pub mod exec;
pub mod filters;
pub mod hostconfig;
pub mod image;
pub mod inspect;
pub mod jobs;
pub mod json;
pub mod network;
pub mod platform;
pub mod progress;
pub mod prune;
pub mod reference;
pub mod registry;
pub mod stream;
pub mod system;
pub mod usage;
pub mod version;
pub mod volume;

pub use error::{ErrorBody, ErrorKind};
pub use version::ApiVersion;
