//! `cargo xtask bench`: numbers against peers, interleaved in one run.

mod measure;
mod report;
mod runtimes;
mod start;

pub use start::start;
