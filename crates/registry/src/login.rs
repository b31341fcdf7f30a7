//! Login: whether a registry takes these credentials, and what it gives instead of them.

use gantry_api::reference::{DEFAULT_DOMAIN, Reference};
use gantry_api::system::AuthConfig;
use reqwest::{Response, StatusCode, Url};

use crate::credentials::{Credentials, host_of};
use crate::http::{Outgoing, shown};
use crate::redirect::same_origin;
use crate::session::{Access, Session};
use crate::{Error, Registry, Result};

impl Registry {
    /// Shows the credentials to the registry that they name, Docker Hub where they name none. Returns the token that can be
    /// kept instead of the password, if the registry gives one.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when it does not take them.
    pub async fn login(&self, auth: &AuthConfig) -> Result<Option<String>> {
        let session = self.host_session(&auth.serveraddress, Some(auth), Access::Login).await?;
        let url = session.base.join("v2/").expect("a path");
        let request = Outgoing::get(url.clone());
        let first = self.http.send(&request).await?;
        if first.status() == StatusCode::NOT_FOUND {
            return Err(Error::invalid(shown(&url), "this is no registry: the answer is 404"));
        }
        // Whom a redirect led to is not who was meant: their challenge is none.
        if same_origin(first.url(), &session.base) {
            let given = session.tokens.identity(&session.question(&[], None), first.headers()).await;
            let given = given.map_err(|error| match error {
                Error::Unauthorized { detail } => Error::Login { url: shown(&url), detail },
                other => other,
            })?;
            if let Some((token, kept)) = given {
                let request = Outgoing { authorization: Some(token), ..request };
                return opened(&session, self.http.send(&request).await?, &url).await.map(|()| kept);
            }
        }
        // Basic, or nothing: what counts is whether the door opens.
        opened(&session, session.ask(request).await?, &url).await.map(|()| None)
    }

    /// A session for a registry as a whole.
    pub(crate) async fn host_session(
        &self,
        address: &str,
        auth: Option<&AuthConfig>,
        access: Access,
    ) -> Result<Session> {
        let host = host_of(address);
        let domain = if host.is_empty() || Credentials::is_hub(host) { DEFAULT_DOMAIN } else { host };
        let reference: Reference = format!("{domain}/library/any")
            .parse()
            .map_err(|_| Error::invalid(format!("registry {address:?}"), "this is no host's name"))?;
        let sources = self.sources(&reference)?;
        let own = sources.last().ok_or_else(|| Error::invalid(address, "it has no registry"))?;
        Ok(Session { access, ..self.session(own, &reference, auth).await? })
    }
}

/// Whether the registry lets in who was shown to it.
async fn opened(session: &Session, answer: Response, url: &Url) -> Result<()> {
    match answer.status() {
        status if status.is_success() => Ok(()),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let detail = format!("login attempt to {} failed with status: {status}", shown(url));
            Err(Error::Unauthorized { detail })
        }
        _ => Err(session.failure(answer, "").await),
    }
}
