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
    sessions: Mutex<HashMap<String, Vec<Arc<Session>>>>,
}

impl Origins {
    /// With the credentials that there are, each for its own registry.
    pub fn new(registry: Registry, credentials: Vec<AuthConfig>) -> Self {
        Self { registry, credentials, sessions: Mutex::default() }
    }

    /// The sessions of a repository: at its mirrors and at the registry itself, as a pull would ask them.
    pub async fn sessions(&self, repository: &Reference) -> Result<Vec<Arc<Session>>> {
        let mut known = self.sessions.lock().await;
        let name = repository.repository();
        if let Some(sessions) = known.get(&name) {
            return Ok(sessions.clone());
        }
        // Those that do not say for whom they are, are for nobody.
        let mut fitting = self
            .credentials
            .iter()
            .filter(|auth| !auth.serveraddress.is_empty() && Credentials::are_for(auth, repository.domain()));
        let auth = fitting.next();
        let (mut sessions, mut failure) = (Vec::new(), Error::invalid(&name, "it has no registry"));
        for source in self.registry.sources(repository)? {
            match self.registry.session(&source, repository, auth).await {
                Ok(session) => sessions.push(Arc::new(session)),
                Err(error) => failure = error,
            }
        }
        if sessions.is_empty() {
            return Err(failure);
        }
        known.insert(name, sessions.clone());
        Ok(sessions)
    }
}
