//! Everything between a cloned process and the program that it becomes, straight down.

mod console;
mod credentials;
mod devices;
mod environment;
mod masks;
mod mounts;
mod program;
mod reaper;
mod rootfs;
mod start;
mod streams;
mod sysctl;
mod user;

pub use console::resize;
pub use credentials::capability_names;
pub(crate) use start::give_up;
pub use start::{First, Further, Report, receive_report, run_first, run_further};
pub use user::{User, resolve as resolve_user};
