//! A plain file behind an address, which is no registry's: what `import` fetches.

use bytes::Bytes;
use reqwest::{Method, Response, Url};

use crate::http::{Outgoing, network, shown};
use crate::{Error, Registry, Result};

/// A file on its way.
#[derive(Debug)]
pub struct Download {
    answer: Response,
}

impl Registry {
    /// Begins to fetch what is at an address. Redirects are followed by the rules for registries, and no credentials are sent.
    ///
    /// # Errors
    /// When it is no address of http, nobody answers, or the answer is an error.
    pub async fn open(&self, url: &str) -> Result<Download> {
        let invalid = |reason: &str| Error::invalid(format!("URL {url:?}"), reason);
        let parsed = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(invalid("only http and https are fetched"));
        }
        let answer = self.http.send(&Outgoing::get(parsed)).await?;
        if !answer.status().is_success() {
            let (url, status) = (shown(answer.url()), answer.status());
            return Err(Error::Status { url, status, detail: String::new(), retry_after: None });
        }
        Ok(Download { answer })
    }
}

impl Download {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the connection fails before everything came.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        match self.answer.chunk().await {
            Ok(piece) => Ok(piece),
            Err(error) => Err(network(&Method::GET, &self.answer.url().clone(), &error)),
        }
    }
}
