//! `auth`: whether a registry takes credentials.

use gantry_api::registry::AuthResponse;
use gantry_api::system::AuthConfig;

use crate::error::Result;
use crate::job::{Class, Context, Job};

/// Shows credentials to their registry.
pub struct Auth {
    /// The credentials, with the registry's address; Docker Hub where there is none.
    pub auth: AuthConfig,
}

impl Job for Auth {
    const NAME: &'static str = "auth";
    const DOC: &'static str = "asks a registry whether it takes credentials";
    const CLASS: Class = Class::Read;
    type Output = AuthResponse;

    fn arguments(&self) -> String {
        format!("{} {}", self.auth.serveraddress, self.auth.username)
    }

    async fn run(self, context: Context) -> Result<AuthResponse> {
        let identity_token = context.engine.registry.login(&self.auth).await?.unwrap_or_default();
        Ok(AuthResponse { status: "Login Succeeded".to_owned(), identity_token })
    }
}
