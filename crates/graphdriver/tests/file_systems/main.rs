//! What drivers do on file systems that can more than others: limits of size, shared blocks.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(clippy::print_stderr, reason = "what is skipped is said loudly")]
#![allow(missing_docs, reason = "tests")]

#[path = "../image/mod.rs"]
mod image;
mod limits;
mod place;
mod sharing;
