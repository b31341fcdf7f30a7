//! libcontainer for C, and for every language that can call C: `include/libcontainer.h` is its reference.
//!
//! A process that becomes a container's is cloned from one with a single thread, whose memory and descriptors are its own.
//! A program that links a library is none: it has threads, locks that they hold, and files that it opened without asking.
//! So the library carries a small static program, the *keeper*, and starts it from memory for each handle. The keeper
//! makes the processes and is their parent, so it knows their exit codes; the library asks it through a socket. What
//! makes no process, state and signals, is done where it is called.
//!
//! `cargo xtask c-library` builds the keeper, and the library around it.

mod abi;
mod call;
mod handle;
pub mod keeper;
