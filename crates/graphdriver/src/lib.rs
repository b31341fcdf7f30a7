//! Layer file systems: the trait, its drivers, and the archives that fill and describe layers.

mod driver;

pub use driver::*;
