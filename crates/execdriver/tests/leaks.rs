//! Alone in its process, because it counts what the kernel holds; with the native driver.
#![allow(clippy::disallowed_methods, reason = "tests use the standard library plainly")]
#![allow(unsafe_code, reason = "the test binary is its own template: see common")]

mod common;
#[path = "suite/leaks.rs"]
mod leaks;

const DRIVER: &str = "native";

fn main() {
    leaks::main();
}
