//! SIGHUP: what can be changed without a start is read again: certificates, policies, and from `daemon.json` how much is
//! logged; the audit log is opened anew.

use std::sync::Arc;

use gantry_engine::{Door, Engine};
use gantry_transport::ServerTls;
use sd_notify::NotifyState;
use tracing::{error, info, warn};
use tracing_subscriber::{EnvFilter, Registry, reload::Handle};

use super::activation;
use super::flags::Flags;

/// Changes how much is logged.
pub type LogHandle = Handle<EnvFilter, Registry>;

/// What a reload reaches.
pub struct Reload {
    /// The certificates of the doors.
    pub tls: Option<Arc<ServerTls>>,
    /// The doors, for their policies.
    pub doors: Vec<Arc<Door>>,
    /// How much is logged.
    pub log: LogHandle,
    /// The settings that the daemon was started with.
    pub flags: Flags,
    /// Reads the settings anew.
    pub read: Box<dyn Fn() -> anyhow::Result<Flags> + Send>,
}

impl Reload {
    /// Reads everything again. What cannot be used leaves what is there as it is, and is told.
    pub fn run(&mut self, engine: &Engine) {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now().ok());
        activation::tell(&states);
        if let Some(tls) = &self.tls {
            match tls.reload() {
                Ok(()) => info!("the certificates were read again"),
                Err(error) => error!("the old certificates stay in use: {error}"),
            }
        }
        for door in &self.doors {
            if let Err(error) = door.reload() {
                error!("{}: the old policy stays in force: {error}", door.name());
            }
        }
        if let Err(error) = engine.reopen_audit_log() {
            error!("the old file stays in use: {error}");
        }
        match (self.read)() {
            Ok(flags) => self.settings(flags),
            Err(error) => error!("the old settings stay in use: {error:#}"),
        }
        activation::tell(&[NotifyState::Ready]);
    }

    fn settings(&mut self, new: Flags) {
        if new.log_filter() != self.flags.log_filter() {
            match self.log.reload(EnvFilter::new(new.log_filter())) {
                Ok(()) => info!("logging {}", new.log_filter()),
                Err(error) => error!("change how much is logged: {error}"),
            }
        }
        let mut comparable = new.clone();
        (comparable.debug, comparable.log_level) = (self.flags.debug, self.flags.log_level.clone());
        if format!("{comparable:?}") != format!("{:?}", self.flags) {
            warn!("{} has changed in what needs a start of the daemon", new.config_file.display());
        }
        (self.flags.debug, self.flags.log_level) = (new.debug, new.log_level);
    }
}
