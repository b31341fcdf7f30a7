//! Push: an image to a registry, byte for byte what it came as where it came from one.

mod blob;
mod feed;
mod gzip;
mod layers;
mod manifests;
mod origins;
mod referrers;
mod source;
mod upload;

use std::sync::Arc;

use gantry_api::progress::Progress;
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use tokio_util::sync::CancellationToken;

pub use blob::Busy;
pub use source::{ImageSource, KnownBlob, PushLayer, PushOrigin, Pushable, Pushed};

use crate::http::Outgoing;
use crate::progress::ProgressFn;
use crate::pull::blocking;
use crate::session::{Access, Session};
use crate::{Error, Registry, Result};
use origins::Origins;

/// What to push.
pub struct Push {
    /// The name that it gets, with a tag.
    pub reference: Reference,
    /// The caller's credentials for that registry.
    pub auth: Option<AuthConfig>,
    /// Those for other registries, which layers may have to be fetched from.
    pub others: Vec<AuthConfig>,
    /// The image.
    pub image: Pushable,
}

/// One push under way.
struct Pusher {
    session: Arc<Session>,
    origins: Origins,
    source: Arc<dyn ImageSource>,
    image: Pushable,
    progress: ProgressFn,
    busy: Arc<Busy>,
    uploads: usize,
}

/// The first line of a push.
#[must_use]
pub fn pushing(reference: &Reference) -> Progress {
    Progress::status(format!("The push refers to repository [{}]", reference.repository()))
}

impl Registry {
    /// Pushes an image. Cancelled by `cancel`, it leaves at the registry what no manifest names.
    ///
    /// # Errors
    /// With Docker's words.
    pub async fn push(
        &self,
        push: Push,
        source: Arc<dyn ImageSource>,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<Pushed> {
        let reference = push.reference.clone().with_default_tag();
        let name = reference.familiar();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::PushCancelled(name)),
            pushed = self.push_all(push, reference, source, progress) => pushed,
        }
    }

    async fn push_all(
        &self,
        push: Push,
        reference: Reference,
        source: Arc<dyn ImageSource>,
        progress: ProgressFn,
    ) -> Result<Pushed> {
        let Push { mut auth, others, image, .. } = push;
        if let Some(auth) = auth.as_mut().filter(|auth| auth.serveraddress.is_empty()) {
            reference.domain().clone_into(&mut auth.serveraddress);
        }
        let session = self.push_session(&reference, auth.as_ref(), progress.clone()).await?;
        let pusher = Arc::new(Pusher {
            session: Arc::new(session),
            origins: Origins::new(self.clone(), auth.into_iter().chain(others).collect()),
            source: Arc::clone(&source),
            image,
            progress: progress.clone(),
            busy: Arc::clone(&self.busy),
            uploads: self.http.options.uploads,
        });
        let pushed = pusher.image(&reference).await?;
        let noted = pushed.clone();
        blocking(move || source.pushed(&noted).map_err(Error::Store)).await?;
        let (tag, root) = (reference.tag().unwrap_or_default(), &pushed.root);
        progress(Progress::status(format!("{tag}: digest: {} size: {}", root.digest, root.size)));
        let aux = serde_json::json!({"Tag": tag, "Digest": root.digest, "Size": root.size});
        progress(Progress { aux: Some(aux), ..Progress::default() });
        Ok(pushed)
    }

    /// A session that may write. The registry is asked first whether it is one, and how it wants to know who asks.
    async fn push_session(
        &self,
        reference: &Reference,
        auth: Option<&AuthConfig>,
        progress: ProgressFn,
    ) -> Result<Session> {
        let sources = self.sources(reference)?;
        let Some(own) = sources.last() else {
            return Err(Error::invalid(reference.to_string(), "it has no registry"));
        };
        let session = self.session(own, reference, auth).await?;
        let session = Session { access: Access::Push, progress: Some(progress), ..session };
        let url = session.base.join("v2/").expect("a path");
        let ping = || async {
            let answer = session.ask(Outgoing::get(url.clone())).await?;
            if answer.status().is_success() { Ok(()) } else { Err(session.failure(answer, "").await) }
        };
        session.patiently(ping).await?;
        Ok(session)
    }
}
