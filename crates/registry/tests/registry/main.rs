//! The registry client against a registry that lies, breaks off and redirects, and against Debian's `docker-registry`.
#![allow(clippy::disallowed_methods, reason = "tests arrange files by hand")]

mod auth;
mod cache;
mod damage;
mod debian;
mod fake;
mod image;
mod manifests;
mod pull;
mod push;
mod store;
mod tls;
mod uploads;
