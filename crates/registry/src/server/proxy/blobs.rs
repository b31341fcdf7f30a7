//! Blobs of upstreams: from here, or as they come.

use std::sync::Arc;

use http::Method;
use reqwest::header::CONTENT_LENGTH;
use tokio::sync::mpsc;

use super::Cache;
use super::fetch::{self, begun, broken, follow};
use super::place::{Place, Trouble};
use crate::server::handlers::blobs;
use crate::server::metrics::CacheResult;
use crate::server::store::{Key, Source, Storage};
use crate::server::{Body, Digest, Failure, Name, Request, Response};

/// Pieces that wait for a reader: memory stays flat.
const AHEAD: usize = 2;

impl Cache {
    /// A blob of an upstream's repository: the whole answer.
    ///
    /// # Errors
    /// What upstream says, when it is not here.
    pub async fn blob(&self, request: &Request, name: &Name, digest: &Digest) -> Result<Response, Failure> {
        let place = self.known(name)?.clone();
        let answered = self.answer(request, &place, name, digest).await;
        let result = match &answered {
            Ok((_, result)) => *result,
            Err(_) => CacheResult::Failure,
        };
        self.metrics.answered(&place.name, result);
        answered.map(|(response, _)| response)
    }

    async fn answer(
        &self,
        request: &Request,
        place: &Arc<Place>,
        name: &Name,
        digest: &Digest,
    ) -> Result<(Response, CacheResult), Failure> {
        let refuse = |trouble: Trouble| trouble.failure;
        if let Some(size) = self.has(place, name, digest).await.map_err(refuse)? {
            let response = blobs::respond(request, digest, size, async |offset, length| {
                match self.shelf.storage.open(digest, offset, length).await? {
                    Some(Source::File(piece)) => Ok(Body::File(piece)),
                    Some(Source::Stream(pieces)) => Ok(Body::Stream(pieces, Some(length))),
                    // It went between the two looks.
                    None => Err(Failure::new(crate::server::Code::Unavailable, "it was just given up: ask again")),
                }
            });
            return Ok((response.await?, CacheResult::Hit));
        }
        if request.is_head() {
            let size = self.size_there(place, name, digest).await.map_err(refuse)?;
            let response = blobs::respond(request, digest, size, async |_, _| Ok(Body::default())).await?;
            return Ok((response, CacheResult::Miss));
        }
        let mut progress = self.fetches.join(&self.shelf, place, name, digest);
        let spool = begun(&mut progress).await.map_err(refuse)?;
        let response = blobs::respond(request, digest, spool.size, async |offset, length| {
            let (to, pieces) = mpsc::channel(AHEAD);
            tokio::spawn(follow(progress.clone(), offset, length, to));
            Ok(Body::Stream(pieces, Some(length)))
        });
        Ok((response.await?, CacheResult::Miss))
    }

    /// The size of a blob that is here, and that this repository has. Another repository's content is not given away to
    /// who only knows its digest: upstream must say that this one has it, too.
    async fn has(&self, place: &Place, name: &Name, digest: &Digest) -> Result<Option<u64>, Trouble> {
        let Some(size) = self.shelf.size(digest).await.map_err(broken)? else { return Ok(None) };
        let storage = &self.shelf.storage;
        if storage.stat(digest).await.map_err(broken)?.is_none_or(|stat| stat.size != size) {
            tracing::warn!("{digest} in the cache is damaged or gone: it is fetched again");
            self.shelf.forget(digest);
            return Ok(None);
        }
        let key = Key::blob(name, digest);
        if storage.touched(&key).await.map_err(broken)?.is_none() {
            self.size_there(place, name, digest).await?;
            self.shelf.name(name, digest, &key, fetch::link(size)).await.map_err(broken)?;
        }
        Ok(Some(size))
    }

    async fn size_there(&self, place: &Place, name: &Name, digest: &Digest) -> Result<u64, Trouble> {
        let answer = place.ask(name, Method::HEAD, &format!("blobs/{digest}"), 0).await?;
        let size = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        size.ok_or_else(|| place.refused(&format!("it does not say how large {digest} is")))
    }
}
