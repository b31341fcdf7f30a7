//! The daemon's mind: the [`Engine`] runs [`Job`]s. Container life cycle, events, logs, recovery. No HTTP in it: the
//! server is one door, others come later.

mod archive;
mod audit;
mod changes;
pub mod container;
mod engine;
pub mod error;
mod events;
pub mod exec;
mod files;
pub mod handlers;
mod images;
pub mod job;
pub mod jobs;
mod lifecycle;
mod logs;
mod names;
mod networks;
mod options;
pub mod policy;
mod pushing;
mod repair;
mod spec;
pub mod stream;
mod table;
mod volumes;

pub use engine::Engine;
pub use error::{Error, Result};
pub use job::{Caller, Class, Context, Environment, Handler, Job, handler};
pub use options::{Drivers, Mirrored, Options, SecurityDefaults};
pub use policy::{Door, Subject};
