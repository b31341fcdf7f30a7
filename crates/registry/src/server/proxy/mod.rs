//! The pull-through cache: registries elsewhere, kept here as far as they were asked for.

mod settings;

pub use settings::{Address, CacheSettings, ProxySettings, Upstream};
