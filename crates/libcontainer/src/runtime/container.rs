//! One container: what can be done with it.

use super::options::{ExecOptions, Executed};
use super::unfinished;
use crate::cgroups::Stats;
use crate::error::Result;
use crate::oci;

/// A container of a [`super::Runtime`].
#[derive(Debug)]
pub struct Container {
    id: String,
}

impl Container {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it was created, as RFC 3339 in UTC.
    #[must_use]
    pub fn created(&self) -> &str {
        ""
    }

    /// The uid of who created it.
    #[must_use]
    pub fn owner(&self) -> u32 {
        0
    }

    /// The absolute path of its root directory on the host.
    #[must_use]
    pub fn rootfs(&self) -> &std::path::Path {
        std::path::Path::new("")
    }

    /// Its configuration, as it was when it was created.
    pub fn spec(&self) -> Result<oci::Spec> {
        Err(unfinished("spec", &self.id))
    }

    /// Its state now.
    pub fn state(&self) -> Result<oci::State> {
        Err(unfinished("state", &self.id))
    }

    /// Starts the program of a created container; returns when it runs. Warnings are failed poststart hooks.
    pub fn start(&self) -> Result<Vec<String>> {
        Err(unfinished("start", &self.id))
    }

    /// Sends a signal to the first process, or with `all` to every process.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let _ = (signal, all);
        Err(unfinished("kill", &self.id))
    }

    /// Removes a stopped container, with `force` any. Warnings are failed poststop hooks.
    pub fn delete(self, force: bool) -> Result<Vec<String>> {
        let _ = force;
        Err(unfinished("delete", &self.id))
    }

    /// Starts a further process; returns when its program runs.
    pub fn exec(&self, process: &oci::Process, options: &ExecOptions) -> Result<Executed> {
        let _ = (process, options);
        Err(unfinished("exec", &self.id))
    }

    /// Freezes every process.
    pub fn pause(&self) -> Result<()> {
        Err(unfinished("pause", &self.id))
    }

    /// Lets them run again.
    pub fn resume(&self) -> Result<()> {
        Err(unfinished("resume", &self.id))
    }

    /// Changes limits; what is not given stays.
    pub fn update(&self, resources: &oci::Resources) -> Result<()> {
        let _ = resources;
        Err(unfinished("update", &self.id))
    }

    /// What it has used.
    pub fn stats(&self) -> Result<Stats> {
        Err(unfinished("stats", &self.id))
    }

    /// The ids of its processes on the host.
    pub fn processes(&self) -> Result<Vec<u32>> {
        Err(unfinished("processes", &self.id))
    }

    /// Waits until the first process has ended. Its exit code (128 + n for signal n) is known to its parent only.
    pub fn wait(&self) -> Result<Option<i32>> {
        Err(unfinished("wait", &self.id))
    }
}
