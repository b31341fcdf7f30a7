//! `cargo xtask bench`: numbers against peers, interleaved in one run.

mod doors;
mod images;
mod measure;
mod network;
mod registry;
mod report;
mod runtime;
mod start;

pub use doors::doors;
pub use images::images;
pub use network::network;
pub use registry::registry;
pub use runtime::{lives, run_within, runtime};
pub use start::start;

/// What follows an option.
fn value<'a>(options: &[&'a str], name: &str) -> Option<&'a str> {
    options.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1])
}
