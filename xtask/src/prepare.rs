//! What tests download and unpack, made while everything is compiled: it takes little of one processor and long of the network.

use std::thread::JoinHandle;

use anyhow::{Context, Result};
use gantry_tests::{Registry, sid};

use crate::{setup, vm};

/// What is being made.
pub struct Preparation(JoinHandle<Result<vm::Prepared>>);

impl Preparation {
    /// Begins.
    pub fn begin() -> Result<Self> {
        let thread = std::thread::Builder::new().name("prepare".to_owned());
        Ok(Self(thread.spawn(make).context("start a thread")?))
    }

    /// Waits for the end; the virtual machine, where it can be had.
    pub fn end(self) -> Result<vm::Prepared> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn make() -> Result<vm::Prepared> {
    // The tests that need these try again, and say for themselves what they miss.
    if let Err(error) = Registry::with_debian() {
        println!("Debian's image is not there before its tests: {error:#}");
    }
    if let Err(error) = sid::tree() {
        println!("Debian sid is not there before its tests: {error}");
    }
    setup::for_vm()?;
    vm::Prepared::new()
}
