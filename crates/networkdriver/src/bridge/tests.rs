//! The bridge driver on the real kernel. Each test is a host of its own: a thread in a new network namespace, with
//! further namespaces for containers and for a machine on the LAN.

mod costs;
mod flushed;
mod isolation;
mod lifecycle;
pub(crate) mod others;
mod real;
mod traffic;
pub(crate) mod world;
