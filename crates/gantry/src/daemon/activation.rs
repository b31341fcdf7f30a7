//! What systemd, or whoever starts services, has with its daemons: sockets that it opened, word that they are ready, and
//! signs of life.

use std::os::fd::OwnedFd;
use std::sync::Weak;
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_engine::Engine;
use sd_notify::NotifyState;
use tracing::warn;

/// A socket that this process was started with.
#[derive(Debug)]
pub struct Given {
    /// The descriptor's number, from 3.
    pub number: i32,
    /// What the socket unit calls it.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// The sockets that this process was started with (`LISTEN_FDS`), by name. To be asked before anything is opened.
///
/// # Errors
/// When the environment tells of sockets that are not there.
pub fn sockets() -> Result<Vec<Given>> {
    let given = sd_notify::listen_fds_with_names().context("take the sockets that systemd opened (LISTEN_FDS)")?;
    let take = |(number, name)| Ok(Given { number, name, socket: gantry_linux::process::take_socket(number)? });
    given.map(take).collect()
}

/// Tells whoever started the daemon how it is.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("tell the service manager (NOTIFY_SOCKET): {error}");
    }
}

/// Shows twice per period that requests are still served, where somebody watches (`WATCHDOG_USEC`).
pub async fn keep_watchdog_quiet(engine: Weak<Engine>) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO) else { return };
    let mut tick = tokio::time::interval(period / 2);
    loop {
        tick.tick().await;
        let Some(engine) = engine.upgrade() else { return };
        // A job, as a client's: what hangs there must not look alive.
        match engine.run(gantry_engine::jobs::Version, gantry_engine::Environment::default()).await {
            Ok(_) => tell(&[NotifyState::Watchdog]),
            Err(_) if engine.is_stopping() => return,
            Err(error) => warn!("the watchdog was not told that all is well: {error}"),
        }
    }
}
