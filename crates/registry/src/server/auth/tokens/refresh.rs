//! Refresh tokens: what a client keeps in place of a password after `docker login`. They are shown at `/token` and open nothing
//! else, and end with the entry of the users' file that they were given for: nothing has to be kept of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, Header};
use serde::{Deserialize, Serialize};

use super::{Issuer, TOKEN_LIMIT, random_id, validation};

/// Whose a refresh token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    /// The user.
    pub user: String,
    /// The mark of the user's entry when it was given: another password is another entry.
    pub entry: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: u64,
    iat: u64,
    jti: String,
    entry: String,
}

impl Issuer {
    /// With refresh tokens that count for so long; none are given for zero.
    #[must_use]
    pub const fn with_refresh(mut self, lifetime: Duration) -> Self {
        self.refresh = lifetime;
        self
    }

    /// A refresh token, where this issuer gives any.
    #[must_use]
    pub fn refresh_token(&self, of: &Refresh) -> Option<String> {
        if self.refresh.is_zero() {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: self.name.clone(),
            sub: of.user.clone(),
            aud: self.refresh_audience(),
            exp: now + self.refresh.as_secs(),
            iat: now,
            jti: random_id(),
            entry: of.entry.clone(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signs);
        Some(token.expect("a key that was read signs what is plain JSON"))
    }

    /// Whose this refresh token of ours is; `None` when it is none, has ended, or none count any more.
    #[must_use]
    pub fn refreshed(&self, token: &str) -> Option<Refresh> {
        if token.len() > TOKEN_LIMIT || self.refresh.is_zero() {
            return None;
        }
        let validation = validation(Algorithm::EdDSA, &self.name, &self.refresh_audience());
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifies.key, &validation).ok()?.claims;
        Some(Refresh { user: claims.sub, entry: claims.entry })
    }

    /// No service is called so, for names of services are one line: none of these tokens is ever taken for one that opens a door.
    fn refresh_audience(&self) -> String {
        format!("{}\nrefresh", self.service)
    }
}
