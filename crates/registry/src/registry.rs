//! The registries of the world, as one daemon sees them: where each is, and what the tokens for it are.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_api::reference::{DEFAULT_DOMAIN, Reference};
use gantry_api::system::AuthConfig;
use reqwest::Url;
use tokio::sync::Semaphore;

use crate::auth::Tokens;
use crate::credentials::Credentials;
use crate::http::{Http, Outgoing};
use crate::mirrors::{self, Mirror};
use crate::parts::{Cleared, Parts};
use crate::places::Resting;
use crate::push::Busy;
use crate::session::{Access, Session};
use crate::{Descriptor, Error, Options, Result};

/// Where Docker Hub's images are.
const HUB: &str = "registry-1.docker.io";
/// An unpacking layer has a thread of those that may block, and waits there for bytes that another such thread writes. Far fewer
/// than there are (tokio: 512), so that writers always find one.
const UNPACKERS: usize = 64;

/// The client of all registries. Cheap until it is used, and cheap to clone.
#[derive(Clone)]
pub struct Registry {
    pub(crate) http: Arc<Http>,
    pub(crate) parts: Arc<Parts>,
    pub(crate) resting: Arc<Resting>,
    tokens: Arc<Tokens>,
    /// Blobs that are on their way to a registry.
    pub(crate) busy: Arc<Busy>,
    /// Layers that are unpacked at once, by all pulls together.
    pub(crate) unpackers: Arc<Semaphore>,
}

/// One place that may have an image.
pub(crate) struct Source {
    /// `https://…` unless it is known that it must be something else.
    url: Url,
    /// The repository's name there.
    repository: String,
    /// Where it is a mirror: who we are there.
    mirror: Option<Option<AuthConfig>>,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(crate::http::shown(&self.url).trim_end_matches('/'))
    }
}

impl Source {
    /// A registry itself, there.
    pub(crate) fn at(url: Url, reference: &Reference) -> Self {
        Self { url, repository: reference.path().to_owned(), mirror: None }
    }
}

impl Registry {
    /// A client with these settings. Nothing is opened before the first request.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let parts = Arc::new(Parts::new(options.parts.clone()));
        Self {
            http: Arc::new(Http::new(options)),
            parts,
            resting: Arc::default(),
            tokens: Arc::default(),
            busy: Arc::default(),
            unpackers: Arc::new(Semaphore::new(UNPACKERS)),
        }
    }

    /// Deletes unfinished downloads that were kept too long, and the oldest of what is more than is kept.
    ///
    /// # Errors
    /// The disk's.
    pub fn sweep_downloads(&self) -> Result<()> {
        self.parts.sweep()
    }

    /// Deletes unfinished downloads that no pull uses and of which nothing came for so long.
    ///
    /// # Errors
    /// The disk's.
    pub fn clear_downloads(&self, age: Duration) -> Result<Cleared> {
        self.parts.clear(age)
    }

    /// What a name means at its registry, without pulling it.
    ///
    /// # Errors
    /// As for [`Registry::pull`].
    pub async fn resolve(&self, reference: &Reference, auth: Option<&AuthConfig>) -> Result<Descriptor> {
        let reference = reference.clone().with_default_tag();
        let [.., source] = &self.sources(&reference)?[..] else {
            return Err(Error::invalid(reference.to_string(), "it has no registry"));
        };
        let session = self.session(source, &reference, auth).await?;
        match session.describe().await? {
            Some(descriptor) => Ok(descriptor),
            None => Ok(session.manifest(None).await?.0.descriptor),
        }
    }

    /// Where the registry of that name is.
    pub(crate) fn home(domain: &str) -> Result<Url> {
        let text = format!("https://{}/", if domain == DEFAULT_DOMAIN { HUB } else { domain });
        Url::parse(&text).map_err(|error| Error::invalid(domain, format!("not a registry: {error}")))
    }

    /// The places to look in, best first; the last is the registry itself.
    pub(crate) fn sources(&self, reference: &Reference) -> Result<Vec<Source>> {
        let is_hub = reference.domain() == DEFAULT_DOMAIN;
        let url = Self::home(reference.domain())?;
        let options = &self.http.options;
        let mut mirrors = mirrors::of(&options.registries, reference);
        let of_hub = options.mirrors.iter().filter(|_| is_hub);
        mirrors.extend(of_hub.map(|url| (Mirror::whole(url.clone()), reference.path().to_owned())));
        let source =
            |(mirror, repository): (Mirror, String)| Source { url: mirror.url, repository, mirror: Some(mirror.auth) };
        let mut sources: Vec<_> = mirrors.into_iter().map(source).collect();
        sources.push(Source::at(url, reference));
        Ok(sources)
    }

    pub(crate) async fn session(
        &self,
        source: &Source,
        reference: &Reference,
        auth: Option<&AuthConfig>,
    ) -> Result<Session> {
        // A mirror is another host than the one that the credentials are for.
        let auth = match &source.mirror {
            Some(own) => own.as_ref(),
            None => auth,
        };
        Ok(Session {
            http: self.http.clone(),
            tokens: self.tokens.clone(),
            base: self.reach(&source.url).await?,
            reference: reference.clone(),
            repository: source.repository.clone(),
            progress: None,
            patient: true,
            credentials: Credentials::of(auth, reference.domain()),
            access: Access::Pull,
            reads: Vec::new(),
            header: Mutex::new(None),
        })
    }

    /// With http instead of https where that is allowed and the only thing that is spoken there.
    async fn reach(&self, url: &Url) -> Result<Url> {
        if url.scheme() != "https" || !self.http.options.is_insecure(url) {
            return Ok(url.clone());
        }
        let ping = |base: &Url| Outgoing::get(base.join("v2/").expect("a path"));
        if self.http.send(&ping(url)).await.is_ok() {
            return Ok(url.clone());
        }
        let plain = Url::parse(&url.as_str().replacen("https", "http", 1))
            .map_err(|error| Error::invalid(url.as_str(), error.to_string()))?;
        self.http.send(&ping(&plain)).await.map(|_| plain)
    }
}
