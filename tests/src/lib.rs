//! The harness of the system tests: a daemon of its own per test, a registry on loopback, the real `docker` CLI and ours
//! against it, and the kernel's view before and after.
//!
//! It knows the product only as a person does: a binary, a socket, command lines. `xtask demo` and `xtask bench` use it
//! too, so nothing here panics but what [`world`] and [`Cli`] check for a test.

pub mod cgroups;
mod cli;
pub mod command;
mod cutter;
pub mod daemon;
pub mod debian;
pub mod elf;
pub mod http;
pub mod image;
pub mod kernel;
pub mod paths;
pub mod registry;
pub mod s3;
pub mod sid;
pub mod slot;
pub mod terminal;
pub mod wait;
mod world;

pub use cli::{Cli, Kind};
pub use command::Output;
pub use cutter::Cutter;
pub use daemon::{Daemon, Options};
pub use registry::Registry;
pub use terminal::Terminal;
pub use wait::{eventually, until};
pub use world::{IMAGE, World, both, note, skip, world};
