//! The flags of `run` and `create`, and what they become: a [`gantry_api::container::CreateRequest`]. Pure, but for the
//! files that flags name.

pub mod checks;
pub mod container;
pub mod devices;
pub mod env;
pub mod health;
pub mod mount;
pub mod network;
pub mod ports;
pub mod security;
pub mod table;
pub mod volumes;

pub use container::{Created, request};
