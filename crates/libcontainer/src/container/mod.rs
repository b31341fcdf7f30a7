//! Everything between a cloned process and the program that it becomes, straight down.

mod attributes;
mod console;
mod copy_up;
mod credentials;
mod devices;
mod environment;
pub(crate) mod hooks;
mod inside;
mod masks;
mod mounts;
mod procfs;
mod program;
mod reaper;
mod rlimits;
mod rootfs;
mod scheduling;
mod sources;
mod staged;
mod start;
mod streams;
mod sysctl;
mod user;

pub use crate::config::capability_names;
pub use console::resize;
pub use inside::Inside;
pub(crate) use inside::enter_user_namespace;
pub(crate) use rlimits::check_rlimits;
pub(crate) use sources::open_mapped;
pub use sources::{open_sources, open_sources_within};
pub use staged::Staged;
pub(crate) use staged::become_root;
pub use start::{EVERY_KIND_BUT_USER, First, Further, Report, receive_report, run_first, run_further};
pub(crate) use start::{enter_container, give_up, receive_report_blocking};
pub use user::{User, from_files as resolve_user_in, resolve_named as resolve_user};

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]
mod tests;
