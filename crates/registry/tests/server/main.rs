//! The registry's server over HTTP: what the distribution specification promises, and what happens when a client does not keep to it.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(missing_docs, reason = "tests")]

mod blobs;
mod client;
mod crash;
mod durable;
mod full;
mod garbage;
mod gate;
mod hostile;
mod layout;
mod lists;
mod manifests;
mod memory;
mod model;
mod objects;
#[allow(dead_code, reason = "the system tests need less of it")]
#[path = "../../../../tests/src/s3.rs"]
mod s3;
mod served;
mod tags;
mod uploads;
