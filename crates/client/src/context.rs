//! What every command gets: whom to speak to, under which name we were called, the person's configuration.

use std::rc::Rc;
use std::str::FromStr;

use gantry_transport::Endpoint;

use crate::autostart;
use crate::cli::Parsed;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::failure::{Failure, Result};

/// Sockets that are tried when no host is given.
pub const OWN_SOCKET: &str = "/run/gantry/gantry.sock";

/// What every command gets.
#[derive(Clone)]
pub struct Context {
    /// `gantry` or `docker`.
    pub program: &'static str,
    /// config.json.
    pub config: Rc<Config>,
    host: Option<Endpoint>,
    autostart: bool,
}

impl Context {
    /// From the flags before the command and the environment.
    pub fn new(program: &'static str, globals: &Parsed) -> Result<Self> {
        let host = match globals.list("host") {
            [] => from_environment(),
            [host] => Some(host.clone()),
            _ => return Err(Failure::new("specify only one -H")),
        };
        let context = globals.text("context").map(str::to_owned).or_else(|| variable("DOCKER_CONTEXT"));
        if context.is_some_and(|name| name != "default") && host.is_none() {
            return Err(Failure::new("only the context \"default\" is supported yet: use -H or DOCKER_HOST"));
        }
        if variable("DOCKER_TLS_VERIFY").is_some() && host.is_some() {
            return Err(Failure::new("DOCKER_TLS_VERIFY is set, but TLS is not supported yet: unset it"));
        }
        let host = host.map(|host| Endpoint::from_str(&host)).transpose()?;
        let config = Rc::new(Config::load(globals.text("config"))?);
        Ok(Self { program, config, host, autostart: !globals.on("no-autostart") })
    }

    /// The daemon; one is started when none is there and none was named.
    pub async fn daemon(&self) -> Result<Daemon> {
        let daemon = |endpoint| Daemon::new(endpoint, &self.config);
        if let Some(host) = &self.host {
            return daemon(host.clone());
        }
        let own = Endpoint::unix(OWN_SOCKET);
        for endpoint in [own.clone(), Endpoint::default()] {
            if autostart::answers(&endpoint) {
                return daemon(endpoint);
            }
        }
        if self.autostart && rustix::process::geteuid().is_root() {
            autostart::start(self.program, &own).await?;
            return daemon(own);
        }
        let denied = [own, Endpoint::default()]
            .into_iter()
            .find(|endpoint| endpoint.path().is_some_and(std::path::Path::exists));
        daemon(denied.unwrap_or_default())
    }

    /// Refuses a second daemon: for commands that only describe, `version` and `info`.
    #[must_use]
    pub fn without_autostart(mut self) -> Self {
        self.autostart = false;
        self
    }
}

fn from_environment() -> Option<String> {
    variable("GANTRY_HOST").or_else(|| variable("DOCKER_HOST"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
