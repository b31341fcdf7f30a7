//! Layer file systems: the trait, its drivers, and the archives that fill and describe layers.

mod archive;
mod aufs;
mod copy;
mod devmapper;
mod disk;
mod driver;
mod fixtures;
mod left;
mod levels;
mod options;
mod overlay;
mod owners;
mod project;
mod size;
mod store;
mod table;
pub mod transfer;
mod trash;
mod tree;
mod verify;
mod whole;
mod writeback;

pub use disk::disk_use;
pub use driver::*;
pub use options::Options;
pub use size::size;
pub use store::measure;
pub use table::{DRIVERS, Open, Row, hold, open, open_with};
