//! The tags of a repository, page by page.

use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::http::bounded;
use crate::manifest::DOCUMENT_LIMIT;
use crate::places::Places;
use crate::progress::ProgressFn;
use crate::session::Session;
use crate::{Error, Registry, Result};

/// The most tags that are believed, and the most pages that they may come in.
const TAGS: usize = 100_000;
const PAGES: usize = 1000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Registry {
    /// Every tag of a repository, as the first place lists them that does.
    ///
    /// # Errors
    /// As for [`Registry::pull`].
    pub async fn tags(
        &self,
        reference: &Reference,
        auth: Option<&AuthConfig>,
        progress: &ProgressFn,
    ) -> Result<Vec<String>> {
        let places = Places::new(self, reference, auth, progress)?;
        let mut place = places.chosen();
        loop {
            let listed = async { places.session(place).await?.tags().await };
            match listed.await {
                Ok(tags) => return Ok(tags),
                Err(error) => place = places.after(place, error)?,
            }
        }
    }
}

impl Session {
    async fn tags(&self) -> Result<Vec<String>> {
        let subject = "list of tags";
        let mut tags = Vec::new();
        let mut query = None;
        for _ in 0..PAGES {
            let path = query.map_or_else(|| "tags/list".to_owned(), |query| format!("tags/list?{query}"));
            let answer = self.send(Method::GET, &path, 0).await?;
            query = next(answer.url(), answer.headers());
            let raw = bounded(answer, DOCUMENT_LIMIT, subject).await?;
            let page: Page =
                serde_json::from_slice(&raw).map_err(|error| Error::invalid(subject, error.to_string()))?;
            tags.extend(page.tags.unwrap_or_default());
            if tags.len() > TAGS {
                break;
            }
            if query.is_none() {
                return Ok(tags);
            }
        }
        Err(Error::invalid(
            subject,
            format!("{} has more than are pulled at once", self.reference.familiar_repository()),
        ))
    }
}

/// What the next page is asked with. Only the question is taken: where it goes is known.
pub fn next(from: &Url, headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let link = link.split(',').find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let target = link.trim().strip_prefix('<')?.split('>').next()?;
    from.join(target).ok()?.query().map(str::to_owned)
}
