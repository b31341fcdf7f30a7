//! What a server gets by its configuration: the gate, TLS, the doors, those who watch, and the cache.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_transport::tls::{ClientCertificates, ServerFiles};
use gantry_transport::{ServerTls, Stream};

use super::access_log::AccessLog;
use super::auth::{Gate, Policy, PolicyError, TokenDoor};
use super::config::{Config, ConfigError, TlsSettings};
use super::metrics::{Metrics, MetricsDoor, MetricsFor};
use super::proxy::{Cache, CacheError};
use super::{Future, Observer, Secure, SecuredStream, Server};

/// A configuration that cannot be put into effect.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Passwords, tokens, rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] gantry_transport::Error),
    /// The access log.
    #[error(transparent)]
    Log(#[from] gantry_linux::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// It would let strangers in.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What stands before a registry's repositories.
pub struct Front {
    config: Config,
    root: PathBuf,
    gate: Arc<Gate>,
    tls: Option<Arc<Handshake>>,
    log: Option<Arc<AccessLog>>,
    cache: Option<Arc<Cache>>,
    /// What the registry counts.
    pub metrics: Arc<Metrics>,
}

impl Front {
    /// Opens everything that the configuration names. Whoever listens asks [`Config::may_listen`] first.
    ///
    /// # Errors
    /// What cannot be used, by name.
    pub async fn open(config: Config, root: &Path) -> Result<Self, FrontError> {
        let metrics = Arc::new(Metrics::default());
        let cache = Cache::open(&config.proxy, &config.cache, &root.join("cache"), metrics.cache.clone()).await?;
        let tls = config.tls.as_ref().map(|tls| ServerTls::load(files(tls))).transpose()?;
        Ok(Self {
            gate: Arc::new(Gate::new(policy(&config, root)?, &config.limits, config.read_only)),
            tls: tls.map(|tls| Arc::new(Handshake(tls))),
            log: AccessLog::open(&config.access_log)?.map(Arc::new),
            cache: cache.map(Arc::new),
            root: root.to_owned(),
            metrics,
            config,
        })
    }

    /// Puts it before a server.
    pub fn equip(&self, server: &mut Server) {
        server.access = self.gate.clone();
        server.upstream.clone_from(&self.cache);
        server.secure = self.tls.clone().map(|tls| -> Arc<dyn Secure> { tls });
        server.observers.push(self.metrics.clone());
        server.observers.extend(self.log.clone().map(|log| -> Arc<dyn Observer> { log }));
        server.doors.push(Arc::new(TokenDoor(self.gate.clone())));
        if self.config.metrics != MetricsFor::None {
            server.doors.push(Arc::new(MetricsDoor::new(self.metrics.clone(), self.config.metrics)));
        }
    }

    /// `http` or `https`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Reads certificates, users, keys and the access log's file anew, and goes by the rules, limits and read-only mode of
    /// this configuration. What cannot be used, and what may not listen at `listening`, leaves everything as it was. Returns
    /// the settings that differ and need a restart.
    ///
    /// # Errors
    /// What cannot be used, by name.
    pub fn reload(&self, config: &Config, listening: SocketAddr) -> Result<Vec<&'static str>, FrontError> {
        config.may_listen(listening)?;
        let policy = policy(config, &self.root)?;
        if let Some(tls) = &self.tls {
            tls.0.reload()?;
        }
        self.gate.change(policy, &config.limits, config.read_only);
        if let Some(log) = &self.log {
            log.reopen();
        }
        let is_other = [
            ("addr", self.config.addr != config.addr),
            ("root", self.config.root != config.root),
            ("storage", self.config.storage != config.storage),
            ("tls", self.config.tls != config.tls),
            ("proxy", self.config.proxy != config.proxy),
            ("cache", self.config.cache != config.cache),
            ("access-log", self.config.access_log != config.access_log),
            ("metrics", self.config.metrics != config.metrics),
            ("gc", self.config.gc != config.gc),
            ("quota", self.config.quota != config.quota),
        ];
        Ok(is_other.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect())
    }
}

fn policy(config: &Config, root: &Path) -> Result<Option<Arc<Policy>>, PolicyError> {
    Policy::open(&config.auth, root, config.public_url.clone(), config.tls.is_some())
}

fn files(tls: &TlsSettings) -> ServerFiles {
    ServerFiles {
        certificate: tls.cert.clone(),
        key: tls.key.clone(),
        clients: tls.client_ca.clone().map_or(ClientCertificates::None, ClientCertificates::Required),
    }
}

/// Shakes hands.
struct Handshake(ServerTls);

impl Secure for Handshake {
    fn secure(&self, stream: Stream) -> Future<'_, std::io::Result<SecuredStream>> {
        Box::pin(async move {
            let Stream::Tcp(stream) = stream else {
                return Err(std::io::Error::other("TLS is spoken over TCP only"));
            };
            let (stream, subject) = self.0.accept(stream).await?;
            let certificate = subject.map(|subject| subject.to_string());
            Ok(SecuredStream { stream: Stream::Tls(stream), certificate })
        })
    }
}
