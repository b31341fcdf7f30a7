//! Blobs of upstreams: from here, or as they come.

use std::sync::Arc;

use http::Method;
use reqwest::header::CONTENT_LENGTH;
use tokio::sync::{mpsc, watch};

use super::Cache;
use super::fetch::{self, Progress, begun, broken, follow};
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
            return self.here(request, place, name, digest, size).await;
        }
        if request.is_head() {
            let size = self.size_there(place, name, digest).await.map_err(refuse)?;
            let response = blobs::respond(request, digest, size, async |_, _| Ok(Body::default())).await?;
            return Ok((response, CacheResult::Miss));
        }
        let mut progress = self.fetches.join(&self.shelf, place, name, digest);
        let spool = begun(place, &mut progress).await.map_err(refuse)?;
        let response = blobs::respond(request, digest, spool.size, async |offset, length| {
            Ok(stream(progress.clone(), offset, length))
        });
        Ok((response.await?, CacheResult::Miss))
    }

    /// What is here, or was a moment ago.
    async fn here(
        &self,
        request: &Request,
        place: &Arc<Place>,
        name: &Name,
        digest: &Digest,
        size: u64,
    ) -> Result<(Response, CacheResult), Failure> {
        let mut result = CacheResult::Hit;
        let response = blobs::respond(request, digest, size, async |offset, length| {
            match self.shelf.storage.open(digest, offset, length).await? {
                Some(Source::File(piece)) => Ok(Body::File(piece)),
                Some(Source::Stream(pieces)) => Ok(Body::Stream(pieces, Some(length))),
                // It went between the two looks.
                None => {
                    result = CacheResult::Miss;
                    self.anew(place, name, digest, size, (offset, length)).await
                }
            }
        });
        let response = response.await?;
        Ok((response, result))
    }

    /// A part of a blob of that size which was here a moment ago.
    async fn anew(
        &self,
        place: &Arc<Place>,
        name: &Name,
        digest: &Digest,
        size: u64,
        (offset, length): (u64, u64),
    ) -> Result<Body, Failure> {
        let mut progress = self.fetches.join(&self.shelf, place, name, digest);
        let spool = begun(place, &mut progress).await.map_err(|trouble| trouble.failure)?;
        if spool.size != size {
            let reason = format!("it says that {digest} has {} bytes, and it has {size}", spool.size);
            return Err(place.refused(&reason).failure);
        }
        Ok(stream(progress, offset, length))
    }

    /// The size of a blob that is here, and that this repository has. Another repository's content is not given away to
    /// who only knows its digest: upstream must say that this one has it, too.
    async fn has(&self, place: &Place, name: &Name, digest: &Digest) -> Result<Option<u64>, Trouble> {
        let Some(size) = self.shelf.size(digest).await.map_err(broken)? else { return Ok(None) };
        let storage = &self.shelf.storage;
        if storage.stat(digest).await.map_err(broken)?.is_none_or(|stat| stat.size != size) {
            tracing::warn!("{digest} in the cache is damaged or gone: it is fetched again");
            self.shelf.forget(digest).await.map_err(broken)?;
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

fn stream(progress: watch::Receiver<Progress>, offset: u64, length: u64) -> Body {
    let (to, pieces) = mpsc::channel(AHEAD);
    tokio::spawn(follow(progress, offset, length, to));
    Body::Stream(pieces, Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    use gantry_transport::Peer;
    use http::HeaderMap;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use crate::server::metrics::CacheMetrics;
    use crate::server::proxy::CacheSettings;
    use crate::server::{Algorithm, Query, Route, Who};

    const CONTENT: &[u8] = b"content";

    /// An upstream that has one blob, and answers whatever is asked with it.
    async fn upstream() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", CONTENT.len());
                stream.write_all(&[head.as_bytes(), CONTENT].concat()).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn what_is_given_up_between_two_looks_is_fetched() {
        let directory = tempfile::tempdir().unwrap();
        let proxy = format!("hub.test=http://{}", upstream().await).parse().unwrap();
        let opened = Cache::open(&[proxy], &CacheSettings::default(), directory.path(), CacheMetrics::default()).await;
        let cache = opened.unwrap().unwrap();
        let name: Name = "hub.test/app".parse().unwrap();
        let digest = Digest::of(Algorithm::Sha256, CONTENT);
        let uri: http::Uri = format!("/v2/{name}/blobs/{digest}").parse().unwrap();
        let request = Request {
            method: Method::GET,
            route: Route::parse(uri.path()).unwrap(),
            query: Query::parse(None).unwrap(),
            uri,
            headers: HeaderMap::new(),
            peer: Peer::Remote { address: "192.0.2.1:7".parse().unwrap(), subject: None },
            certificate: None,
            who: Who::default(),
        };
        // The first look saw it; now it is not there.
        let place = cache.known(&name).unwrap().clone();
        let (response, result) = cache.here(&request, &place, &name, &digest, CONTENT.len() as u64).await.unwrap();
        assert_eq!((response.status().as_u16(), result), (200, CacheResult::Miss));
        let Body::Stream(mut pieces, _) = response.into_body() else { panic!("it does not come") };
        let mut came = Vec::new();
        while let Some(piece) = pieces.recv().await {
            came.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(came, CONTENT);
    }
}
