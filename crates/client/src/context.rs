//! What every command gets: whom to speak to, under which name we were called, the person's configuration.

use std::path::Path;
use std::rc::Rc;

use gantry_transport::tls::Verification;
use gantry_transport::{ClientTls, Endpoint};

use crate::autostart;
use crate::cli::Parsed;
use crate::config::Config;
use crate::contexts::{Contexts, DEFAULT};
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
    whom: Whom,
    tls: TlsFlags,
    autostart: bool,
}

/// Whom the person wants to speak to.
#[derive(Clone)]
enum Whom {
    /// Whoever is there.
    Anybody,
    /// The daemon at this address.
    Host(String),
    /// The daemon of this context.
    Named(String),
}

/// What flags and environment say of TLS, which counts for the daemon of `-H` and `DOCKER_HOST`.
#[derive(Clone)]
struct TlsFlags {
    wanted: bool,
    verify: bool,
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Context {
    /// From the flags before the command and the environment.
    pub fn new(program: &'static str, globals: &Parsed) -> Result<Self> {
        let config = Rc::new(Config::load(globals.text("config"))?);
        let whom = match (globals.text("context"), globals.list("host")) {
            (Some(_), [_, ..]) => {
                return Err(Failure::new("conflicting options: cannot specify both --host and --context"));
            }
            (Some(name), []) => Whom::of(name),
            (None, [host]) => Whom::Host(host.clone()),
            (None, [_, _, ..]) => return Err(Failure::new("specify only one -H")),
            (None, []) => match variable("GANTRY_HOST").or_else(|| variable("DOCKER_HOST")) {
                Some(host) => Whom::Host(host),
                None => Whom::of(&variable("DOCKER_CONTEXT").unwrap_or_else(|| config.current_context.clone())),
            },
        };
        let file = |name: &str| globals.text(name).map(str::to_owned);
        let verify = match globals.given("tlsverify") {
            true => globals.on("tlsverify"),
            false => variable("DOCKER_TLS_VERIFY").is_some(),
        };
        let tls = TlsFlags {
            wanted: verify || globals.on("tls") || !globals.given("tls") && variable("DOCKER_TLS").is_some(),
            verify,
            ca: file("tlscacert"),
            certificate: file("tlscert"),
            key: file("tlskey"),
        };
        Ok(Self { program, config, whom, tls, autostart: !globals.on("no-autostart") })
    }

    /// The daemon; one is started when none is there and none was named.
    pub async fn daemon(&self) -> Result<Daemon> {
        if let Some((endpoint, tls)) = self.door()? {
            return Daemon::new(endpoint, tls, &self.config);
        }
        let daemon = |endpoint| Daemon::new(endpoint, None, &self.config);
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

    /// The daemon that was named; none where whoever is there is meant.
    pub fn door(&self) -> Result<Option<(Endpoint, Option<ClientTls>)>> {
        match &self.whom {
            Whom::Anybody => Ok(None),
            Whom::Host(host) => {
                let tls = self.tls.wanted.then(|| self.tls.settings(self.config.directory())).transpose()?;
                Ok(Some((Endpoint::parse(host, tls.is_some())?, tls)))
            }
            Whom::Named(name) => {
                let unable =
                    |failure: Failure| Failure::new(format!("unable to resolve docker endpoint: {}", failure.message));
                self.contexts().door(name).map(Some).map_err(unable)
            }
        }
    }

    /// The person's contexts.
    pub fn contexts(&self) -> Contexts<'_> {
        Contexts { directory: self.config.directory() }
    }

    /// The context in use.
    pub fn name(&self) -> &str {
        match &self.whom {
            Whom::Named(name) => name,
            Whom::Anybody | Whom::Host(_) => DEFAULT,
        }
    }

    /// Where the daemon of the context `default` is: as flags or environment say it.
    pub fn default_host(&self) -> String {
        match &self.whom {
            Whom::Host(host) => host.clone(),
            _ => variable("DOCKER_HOST").unwrap_or_else(|| Endpoint::default().to_string()),
        }
    }

    /// Refuses a second daemon: for commands that only describe, `version` and `info`.
    #[must_use]
    pub fn without_autostart(mut self) -> Self {
        self.autostart = false;
        self
    }
}

impl Whom {
    fn of(name: &str) -> Self {
        match name {
            "" | DEFAULT => Self::Anybody,
            name => Self::Named(name.to_owned()),
        }
    }
}

impl TlsFlags {
    /// Files that nobody named are those of `DOCKER_CERT_PATH`, or beside config.json.
    fn settings(&self, directory: &Path) -> Result<ClientTls> {
        let usual = variable("DOCKER_CERT_PATH").map_or_else(|| directory.to_owned(), Into::into);
        let verification = match (&self.ca, self.verify) {
            (_, false) => Verification::None,
            (Some(ca), true) => Verification::Authority(ca.into()),
            (None, true) => Verification::Authority(usual.join("ca.pem")),
        };
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => {
                let both = (usual.join("cert.pem"), usual.join("key.pem"));
                (both.0.exists() && both.1.exists()).then_some(both)
            }
            _ => return Err(Failure::new("--tlscert and --tlskey belong together: give both")),
        };
        Ok(ClientTls { verification, identity })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
