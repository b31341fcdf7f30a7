//! Everything between a cloned process and the program that it becomes, straight down.

mod attributes;
mod console;
mod copy_up;
mod credentials;
mod devices;
mod environment;
pub(crate) mod hooks;
mod masks;
mod mounts;
mod procfs;
mod program;
mod reaper;
mod rootfs;
mod sources;
mod staged;
mod start;
mod streams;
mod sysctl;
mod user;

pub use console::resize;
pub use credentials::capability_names;
pub use sources::open_sources;
pub use staged::Staged;
pub use start::{First, Further, Report, receive_report, run_first, run_further};
pub(crate) use start::{enter_container, give_up};
pub use user::{User, resolve as resolve_user};
