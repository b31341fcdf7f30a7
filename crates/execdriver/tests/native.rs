//! The suite that every driver passes, with the native driver.
#![allow(clippy::disallowed_methods, reason = "tests use the standard library plainly")]
#![allow(unsafe_code, reason = "the test binary is its own template: see common")]

#[path = "suite/attributes.rs"]
mod attributes;
mod common;
#[path = "suite/hostile.rs"]
mod hostile;
#[path = "suite/life.rs"]
mod life;
#[path = "suite/museum.rs"]
mod museum;
#[path = "suite/recovery.rs"]
mod recovery;
#[path = "suite/users.rs"]
mod users;

const DRIVER: &str = "native";
