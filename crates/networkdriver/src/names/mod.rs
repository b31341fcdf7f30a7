//! Names of containers: what each of them is told when it asks for a name.
//!
//! The resolver is a process of its own, a role of the binary ([`main`]), so that names are answered while a daemon is
//! dead or being replaced. The daemon's end is [`Resolver`]. What is answered from memory ([`World`]) and what is passed
//! on to servers outside is decided by pure code ([`consider`]), which is fuzzed.

mod answer;
mod client;
mod confine;
mod door;
mod order;
mod process;
mod query;
mod servers;
mod tcp;
#[cfg(test)]
mod tests;
mod world;

pub use answer::{Asked, Judged, LONGEST_QUERY, Transport, Verdict, consider};
pub use client::{Doors, DoorsOf, Resolver, StartProcess};
pub use order::ADDRESS;
pub use process::{Options, ROLE, main, serve};
pub use servers::{Servers, parse as parse_servers};
pub use world::{Found, Link, Place, Resident, Upstream, World};
