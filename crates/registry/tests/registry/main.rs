//! The registry client against a registry that lies, breaks off and redirects, and against Debian's `docker-registry`.
#![allow(clippy::disallowed_methods, reason = "tests arrange files by hand")]
#![allow(clippy::print_stdout, reason = "how a child that is killed reports")]

mod auth;
mod cache;
mod cached;
mod crash;
mod damage;
mod debian;
mod fake;
mod image;
mod login;
mod manifests;
mod mirrors;
mod own;
#[allow(dead_code, reason = "the graph has tests of its own with it")]
#[path = "../../../graph/tests/crash/points.rs"]
mod points;
mod pull;
mod push;
mod referrers;
mod resume;
mod store;
mod tls;
mod uploads;
