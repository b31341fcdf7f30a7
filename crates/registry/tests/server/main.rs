//! The registry's server over HTTP: what the distribution specification promises, and what happens when a client does not keep to it.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(missing_docs, reason = "tests")]

mod blobs;
mod client;
mod crash;
mod durable;
mod garbage;
mod gate;
mod hostile;
mod layout;
mod lists;
mod manifests;
mod memory;
mod model;
mod served;
mod tags;
mod uploads;
