//! The registries that layers of a pushed image came from: sessions that are made when they are needed, once.

use std::collections::HashMap;
use std::sync::Arc;

use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use tokio::sync::Mutex;

use crate::credentials::Credentials;
use crate::session::Session;
use crate::{Error, Registry, Result};

/// Sessions by repository.
pub struct Origins {
    registry: Registry,
    credentials: Vec<AuthConfig>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

impl Origins {
    /// With the credentials that there are, each for its own registry.
    pub fn new(registry: Registry, credentials: Vec<AuthConfig>) -> Self {
        Self { registry, credentials, sessions: Mutex::default() }
    }

    /// The session of a repository.
    pub async fn session(&self, repository: &Reference) -> Result<Arc<Session>> {
        let mut sessions = self.sessions.lock().await;
        let name = repository.repository();
        if let Some(session) = sessions.get(&name) {
            return Ok(Arc::clone(session));
        }
        // Those without a host are for the registry of the push, and no other.
        let mut fitting = self
            .credentials
            .iter()
            .filter(|auth| !auth.serveraddress.is_empty() && Credentials::are_for(auth, repository.domain()));
        let sources = self.registry.sources(repository)?;
        let Some(own) = sources.last() else { return Err(Error::invalid(name, "it has no registry")) };
        let session = Arc::new(self.registry.session(own, repository, fitting.next()).await?);
        sessions.insert(name, Arc::clone(&session));
        Ok(session)
    }
}
