//! Manifests of upstreams: by digest for ever, by tag as long as upstream means the same by it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gantry_linux::fs;
use http::{Method, StatusCode};
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::fetch::broken;
use super::place::{Kind, Place, Trouble};
use super::shelf::Shelf;
use super::{Cache, Found, FoundManifest, MANIFEST_LIMIT};
use crate::server::answer::named;
use crate::server::metrics::CacheResult;
use crate::server::store::{self, Key, Source, Storage, blocking};
use crate::server::{Digest, Failure, Manifest, Name, Tag, Target};

/// The document of a manifest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    media_type: String,
}

/// The document of a tag.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    digest: String,
    /// When upstream said so, in seconds.
    checked: u64,
}

impl Cache {
    /// A manifest of an upstream's repository.
    ///
    /// # Errors
    /// What upstream says, when nothing that will do is here.
    pub async fn manifest(&self, name: &Name, target: &Target) -> Result<FoundManifest, Failure> {
        let place = self.known(name)?;
        let found = match target {
            Target::Tag(tag) => self.tagged(place, name, tag).await,
            Target::Digest(digest) => self.by_digest(place, name, digest).await,
        };
        found.map_err(|trouble| {
            self.metrics.answered(&place.name, CacheResult::Failure);
            trouble.failure
        })
    }

    async fn by_digest(&self, place: &Place, name: &Name, digest: &Digest) -> Result<FoundManifest, Trouble> {
        if let Some(value) = self.kept(name, digest).await? {
            self.metrics.answered(&place.name, CacheResult::Hit);
            return Ok(Found { value, warning: None });
        }
        let turn = self.turn(place, name, digest.as_str()).await;
        if let Some(value) = self.kept(name, digest).await? {
            self.metrics.answered(&place.name, CacheResult::Hit);
            return Ok(Found { value, warning: None });
        }
        let _turn = turn?;
        let value = self.fetch(place, name, digest.as_str(), Some(digest)).await?;
        self.metrics.answered(&place.name, CacheResult::Miss);
        Ok(Found { value, warning: None })
    }

    async fn tagged(&self, place: &Place, name: &Name, tag: &Tag) -> Result<FoundManifest, Trouble> {
        if let Some(found) = self.at_hand(place, name, tag).await? {
            return Ok(found);
        }
        let turn = self.turn(place, name, tag.as_str()).await;
        if let Some(found) = self.at_hand(place, name, tag).await? {
            return Ok(found);
        }
        let _turn = turn?;
        let (known, checked) = self.pointer(name, tag).await?;
        match self.ask(place, name, tag, known.as_ref()).await {
            Ok((value, result)) => {
                self.point(name, tag, &value.digest).await?;
                self.metrics.answered(&place.name, result);
                Ok(Found { value, warning: None })
            }
            Err(trouble)
                if trouble.kind == Kind::Away
                    && let Some(value) = known =>
            {
                Ok(self.stale(place, name, tag, value, checked, &trouble))
            }
            Err(trouble) => {
                if trouble.kind == Kind::Gone {
                    self.shelf.storage.remove(&Key::tag(name, tag)).await.map_err(broken)?;
                }
                Err(trouble)
            }
        }
    }

    /// One question about a manifest at a time. Who waits for longer than upstream may take finds it resting.
    async fn turn(&self, place: &Place, name: &Name, target: &str) -> Result<OwnedMutexGuard<()>, Trouble> {
        let turn = self.turns.hold((name.clone(), target.to_owned()));
        tokio::time::timeout(place.patience(), turn).await.map_err(|_| {
            let reason = format!("others waited for {name} {target}, too, for {:?}", place.patience());
            place.away(StatusCode::GATEWAY_TIMEOUT, &reason)
        })
    }

    /// What is here and need not be asked for, or cannot be now.
    async fn at_hand(&self, place: &Place, name: &Name, tag: &Tag) -> Result<Option<FoundManifest>, Trouble> {
        let (Some(value), checked) = self.pointer(name, tag).await? else { return Ok(None) };
        // A clock that was set back makes nothing young for ever.
        if checked <= now() && now() - checked < self.age.as_secs() {
            self.metrics.answered(&place.name, CacheResult::Hit);
            return Ok(Some(Found { value, warning: None }));
        }
        Ok(place.resting().map(|trouble| self.stale(place, name, tag, value, checked, &trouble)))
    }

    fn stale(
        &self,
        place: &Place,
        name: &Name,
        tag: &Tag,
        value: Manifest,
        checked: u64,
        trouble: &Trouble,
    ) -> FoundManifest {
        self.metrics.answered(&place.name, CacheResult::Stale);
        let age = now().saturating_sub(checked);
        let warning = format!("{} cannot be asked whether {tag} is still this: it is as of {age} s ago", place.name);
        tracing::warn!("{name}:{tag}: {warning}: {}", trouble.failure.message);
        Found { value, warning: Some(warning) }
    }

    /// What a tag is at upstream now.
    async fn ask(
        &self,
        place: &Place,
        name: &Name,
        tag: &Tag,
        known: Option<&Manifest>,
    ) -> Result<(Manifest, CacheResult), Trouble> {
        if let Some(known) = known {
            let answer = place.ask(name, Method::HEAD, &format!("manifests/{tag}"), 0).await?;
            if digest_of(&answer).as_ref() == Some(&known.digest) {
                return Ok((known.clone(), CacheResult::Hit));
            }
        }
        Ok((self.fetch(place, name, tag.as_str(), None).await?, CacheResult::Miss))
    }

    async fn fetch(
        &self,
        place: &Place,
        name: &Name,
        target: &str,
        wanted: Option<&Digest>,
    ) -> Result<Manifest, Trouble> {
        let answer = place.ask(name, Method::GET, &format!("manifests/{target}"), 0).await?;
        let said = digest_of(&answer);
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let bytes = place.whole(answer, MANIFEST_LIMIT, "a manifest").await?;
        let expected = wanted.or(said.as_ref());
        let algorithm = expected.map_or(crate::server::Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &bytes);
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            let reason = format!("it sent {digest} for manifest {target}, which is {expected}: nothing of it is kept");
            return Err(place.refused(&reason));
        }
        let is_json = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).is_ok();
        if media_type.is_empty() || !is_json {
            return Err(place.refused(&format!("what it sent for manifest {target} is none")));
        }
        let manifest = Manifest { digest, media_type, bytes };
        self.keep(name, &manifest).await?;
        Ok(manifest)
    }

    /// To its end also when who asked for it leaves: what lies there is counted.
    async fn keep(&self, name: &Name, manifest: &Manifest) -> Result<(), Trouble> {
        let keeping = keep(self.shelf.clone(), name.clone(), manifest.clone());
        match tokio::spawn(keeping).await {
            Ok(kept) => kept.map_err(broken),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that shuts down cancels it, and that drops this future, too.
            Err(_) => std::future::pending().await,
        }
    }

    /// A manifest that is here, and that this repository has.
    pub(super) async fn kept(&self, name: &Name, digest: &Digest) -> Result<Option<Manifest>, Trouble> {
        let storage = &self.shelf.storage;
        let Some(link) = storage.read(&Key::manifest(name, digest)).await.map_err(broken)? else { return Ok(None) };
        let Ok(Link { media_type }) = serde_json::from_slice(&link) else { return Ok(None) };
        let Some(size) = self.shelf.size(digest).await.map_err(broken)? else { return Ok(None) };
        let bytes = match storage.open(digest, 0, size).await.map_err(broken)? {
            Some(Source::File(mut piece)) => {
                let mut bytes = Vec::new();
                while let Some(part) = piece.next().await {
                    let Ok(part) = part else { return self.damaged(digest).await };
                    bytes.extend_from_slice(&part);
                }
                Bytes::from(bytes)
            }
            _ => return self.damaged(digest).await,
        };
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return self.damaged(digest).await;
        }
        Ok(Some(Manifest { digest: digest.clone(), media_type, bytes }))
    }

    /// What is here is not what was kept: it is fetched again.
    async fn damaged<T>(&self, digest: &Digest) -> Result<Option<T>, Trouble> {
        tracing::warn!("{digest} in the cache is damaged or gone: it is fetched again");
        self.shelf.forget(digest).await.map_err(broken)?;
        Ok(None)
    }

    /// What a tag was when upstream was last asked, and when that was.
    async fn pointer(&self, name: &Name, tag: &Tag) -> Result<(Option<Manifest>, u64), Trouble> {
        let document = self.shelf.storage.read(&Key::tag(name, tag)).await.map_err(broken)?;
        let pointer: Option<Pointer> = document.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(pointer) = pointer else { return Ok((None, 0)) };
        let Ok(digest) = pointer.digest.parse() else { return Ok((None, 0)) };
        Ok((self.kept(name, &digest).await?, pointer.checked))
    }

    async fn point(&self, name: &Name, tag: &Tag, digest: &Digest) -> Result<(), Trouble> {
        let pointer = Pointer { digest: digest.to_string(), checked: now() };
        let document = serde_json::to_vec(&pointer).expect("words are JSON");
        self.shelf.storage.write(&Key::tag(name, tag), document.into()).await.map_err(broken)
    }
}

async fn keep(shelf: Arc<Shelf>, name: Name, manifest: Manifest) -> store::Result<()> {
    let (staged, size, bytes) = (shelf.stage(), manifest.bytes.len() as u64, manifest.bytes);
    let path = staged.clone();
    blocking(move || fs::write_new(path, &bytes, 0o600).map(drop)).await?;
    shelf.take(&staged, &manifest.digest, shelf.room(size)).await?;
    let link = serde_json::to_vec(&Link { media_type: manifest.media_type }).expect("a word is JSON");
    shelf.name(&name, &manifest.digest, &Key::manifest(&name, &manifest.digest), link.into()).await
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn digest_of(answer: &reqwest::Response) -> Option<Digest> {
    answer.headers().get(&named::DIGEST)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use crate::server::config::Span;
    use crate::server::metrics::CacheMetrics;
    use crate::server::proxy::CacheSettings;

    #[tokio::test]
    async fn who_waits_for_another_that_asks_the_same_waits_so_long_and_who_asks_something_else_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        // Nobody listens there: whoever gets to ask is refused at once.
        let proxy = "hub.test=http://127.0.0.1:1".parse().unwrap();
        let settings = CacheSettings { timeout: Span(Duration::from_secs(1)), ..CacheSettings::default() };
        let opened = Cache::open(&[proxy], &settings, directory.path(), CacheMetrics::default()).await;
        let cache = opened.unwrap().unwrap();
        let name: Name = "hub.test/app".parse().unwrap();
        let _asks = cache.turns.hold((name.clone(), "1".to_owned())).await;
        let asked = |tag: &str| {
            let (cache, name, target) = (&cache, &name, Target::Tag(tag.parse().unwrap()));
            async move { cache.manifest(name, &target).await.unwrap_err() }
        };
        let same = tokio::time::timeout(Duration::from_secs(10), asked("1")).await.expect("it waits for ever");
        assert!(same.status == StatusCode::GATEWAY_TIMEOUT && same.message.contains("others waited"), "{same:?}");
        for tag in 2..130 {
            let other = asked(&tag.to_string()).await;
            assert_eq!(other.status, StatusCode::SERVICE_UNAVAILABLE, "{other:?}");
        }
    }
}
