//! The bridge driver on the real kernel. Each test is a host of its own: a thread in a new network namespace, with
//! further namespaces for containers and for a machine on the LAN.

mod lifecycle;
mod traffic;
mod world;
