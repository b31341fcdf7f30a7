//! What refers to a pushed image comes along from where the image came from: signatures, bills of materials. It is not the image: what does
//! not come is told, and the push goes on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use gantry_api::progress::Progress;
use gantry_api::reference::Digest;
use serde_json::{Value, json};

use super::manifests::Names;
use super::{PushOrigin, Pusher};
use crate::referrers::{tag_of, with_referrer};
use crate::{Descriptor, Document, Error, Result};

/// Referrers that come along with one image, those of referrers with them.
const COUNT: usize = 32;
/// Bytes of the blobs of all of them.
const BYTES: u64 = 512 << 20;
/// How long all of them may take.
const TIME: Duration = Duration::from_secs(300);
/// How long the lists of all places are waited for: layers go meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long they are waited for when everything else is there.
const GRACE: Duration = Duration::from_secs(1);
/// How often an index is written that somebody else writes, too.
const ATTEMPTS: usize = 3;

/// What refers to a manifest.
pub(super) struct Found {
    subject: Digest,
    referrer: Descriptor,
}

/// What the target's lists have, as far as they were read.
type Lists = HashMap<Digest, Vec<Descriptor>>;

/// What may still be copied.
struct Left {
    bytes: u64,
}

impl Left {
    fn take(&mut self, referrer: &Digest, bytes: u64) -> Result<()> {
        let left = self.bytes.checked_sub(bytes).ok_or_else(|| {
            Error::invalid(format!("referrer {referrer}"), format!("all of them have more than {BYTES} bytes"))
        })?;
        self.bytes = left;
        Ok(())
    }
}

impl Pusher {
    /// Pushes, and asks beside that what refers to these manifests where the image came from.
    pub(super) async fn beside<T>(
        &self,
        origin: &PushOrigin,
        subjects: &[&Digest],
        push: impl Future<Output = Result<T>>,
    ) -> Result<(T, Vec<Found>)> {
        let mut found = Vec::new();
        let pushed = {
            let listing = tokio::time::timeout(PATIENCE, self.referring(origin, subjects, &mut found));
            tokio::pin!(listing, push);
            tokio::select! {
                listed = &mut listing => {
                    self.told_of(listed);
                    push.await?
                }
                pushed = &mut push => {
                    let pushed = pushed?;
                    self.told_of(tokio::time::timeout(GRACE, listing).await.unwrap_or_else(Err));
                    pushed
                }
            }
        };
        Ok((pushed, found))
    }

    async fn referring(&self, origin: &PushOrigin, subjects: &[&Digest], found: &mut Vec<Found>) -> Result<()> {
        for subject in subjects {
            found.extend(self.listed_at_origin(origin, subject).await?);
        }
        Ok(())
    }

    /// Somebody who may not read where the image came from, or is not connected with that, hears nothing of it at every push.
    fn told_of(&self, listed: std::result::Result<Result<()>, tokio::time::error::Elapsed>) {
        match listed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.went_unlisted(&error),
            Err(_) => {
                tracing::info!(to = %self.session.reference, "what refers to a pushed image was not told in time")
            }
        }
    }

    fn went_unlisted(&self, error: &Error) {
        match is_closed(error) {
            true => tracing::info!(%error, to = %self.session.reference, "what refers to a pushed image is not told"),
            false => self.went_without(error),
        }
    }

    /// As the first place has them that knows the repository.
    async fn listed_at_origin(&self, origin: &PushOrigin, subject: &Digest) -> Result<Vec<Found>> {
        let mut failure = None;
        for repository in origin.repositories.iter().filter(|from| !self.is_target(from)) {
            let sessions = match self.origins.sessions(repository).await {
                Ok(sessions) => sessions,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            for session in sessions {
                match session.referrers(subject).await {
                    Ok(found) if found.is_empty() => failure = None,
                    Ok(found) => {
                        let found = found.into_iter().map(|referrer| Found { subject: subject.clone(), referrer });
                        return Ok(found.collect());
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        failure.map_or_else(|| Ok(Vec::new()), Err)
    }

    /// Copies them, and what refers to them in turn.
    pub(super) async fn copy_referrers(self: &Arc<Self>, origin: &PushOrigin, referrers: Vec<Found>) {
        if tokio::time::timeout(TIME, self.copy_all(origin, referrers)).await.is_err() {
            let reason = format!("they took more than {} seconds", TIME.as_secs());
            self.went_without(&Error::invalid("referrers", reason));
        }
    }

    async fn copy_all(self: &Arc<Self>, origin: &PushOrigin, referrers: Vec<Found>) {
        let (mut seen, mut next) = (HashSet::new(), referrers);
        let mut left = Left { bytes: BYTES };
        let mut lists = Lists::new();
        while let Some(found) = next.pop() {
            let digest = found.referrer.digest.clone();
            if !seen.insert(digest.clone()) {
                continue;
            }
            if seen.len() > COUNT {
                return self.went_without(&Error::invalid("referrers", format!("there are more than {COUNT}")));
            }
            if let Err(error) = self.bring(&found, origin, &mut lists, &mut left).await {
                self.went_without(&error);
                continue;
            }
            match self.listed_at_origin(origin, &digest).await {
                Ok(further) => next.extend(further),
                Err(error) => self.went_unlisted(&error),
            }
        }
    }

    /// Has one be there and in the list of its subject: a push that was cut off may have left it out of that.
    async fn bring(
        self: &Arc<Self>,
        Found { subject, referrer }: &Found,
        origin: &PushOrigin,
        lists: &mut Lists,
        left: &mut Left,
    ) -> Result<()> {
        if !self.has_manifest(&referrer.digest).await? {
            self.copy_referrer(referrer, origin, left).await?;
            (self.progress)(Progress::object(referrer.digest.short(), "Pushed referrer"));
            return Ok(());
        }
        if self.lists(subject, &referrer.digest, lists).await? {
            return Ok(());
        }
        let document = self.fetched(referrer, origin).await?;
        self.put(&document, None).await
    }

    /// Has a manifest that is there be in the list of what it refers to, if it refers to anything.
    pub(super) async fn list_again(&self, document: &Document) -> Result<()> {
        let digest = &document.descriptor.digest;
        match Names::read(&document.raw, digest)?.subject {
            Some(subject) if !self.lists(&subject.digest, digest, &mut Lists::new()).await? => {
                self.put(document, None).await
            }
            _ => Ok(()),
        }
    }

    /// Whether the target's list of what refers to a manifest has this one.
    async fn lists(&self, subject: &Digest, referrer: &Digest, lists: &mut Lists) -> Result<bool> {
        if !lists.contains_key(subject) {
            lists.insert(subject.clone(), self.session.referrers(subject).await?);
        }
        Ok(lists[subject].iter().any(|known| known.digest == *referrer))
    }

    async fn copy_referrer(
        self: &Arc<Self>,
        referrer: &Descriptor,
        origin: &PushOrigin,
        left: &mut Left,
    ) -> Result<()> {
        let document = self.fetched(referrer, origin).await?;
        let names = Names::read(&document.raw, &referrer.digest)?;
        let blobs: Vec<_> = names.layers.iter().chain(&names.config).collect();
        left.take(&referrer.digest, blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add))?;
        for blob in blobs {
            self.part(blob, origin).await?;
        }
        self.put(&document, None).await
    }

    /// Tells the person, and the log.
    fn went_without(&self, error: &Error) {
        tracing::warn!(%error, to = %self.session.reference, "what refers to a pushed image was not copied");
        (self.progress)(Progress::status(format!("Not all that refers to the image was copied: {error}")));
    }

    /// Has a registry that keeps no lists of referrers find this one by the tag that stands in their place.
    pub(super) async fn list_referrer(&self, document: &Document) -> Result<()> {
        let Some(Referring { subject, referrer }) = Referring::read(document)? else { return Ok(()) };
        for _ in 0..ATTEMPTS {
            let index = self.session.referrers_index(&subject).await?;
            let Some(index) = with_referrer(index.as_deref(), &referrer)? else { return Ok(()) };
            self.put_as(&index, &tag_of(&subject)).await?;
        }
        let reason = "others write it at the same time: push again";
        Err(Error::invalid(format!("list of what refers to {subject}"), reason))
    }
}

/// Whether a registry tells the caller nothing, or cannot be reached.
const fn is_closed(error: &Error) -> bool {
    match error {
        Error::AccessDenied { .. }
        | Error::Unauthorized { .. }
        | Error::Login { .. }
        | Error::Denied { .. }
        | Error::NoCredentials
        | Error::ManifestUnknown { .. }
        | Error::NameUnknown { .. }
        | Error::BlobUnknown { .. }
        | Error::Network { .. } => true,
        Error::Status { status, .. } => matches!(status.as_u16(), 401 | 403 | 404),
        _ => false,
    }
}

/// A manifest as the list of its subject's referrers has it.
struct Referring {
    subject: Digest,
    referrer: Value,
}

impl Referring {
    fn read(document: &Document) -> Result<Option<Self>> {
        let Descriptor { media_type, digest, size } = &document.descriptor;
        let names = Names::read(&document.raw, digest)?;
        let Some(subject) = names.subject else { return Ok(None) };
        let config = names.config.map(|config| config.media_type);
        let kind = names.artifact_type.filter(|kind| !kind.is_empty()).or(config);
        let mut referrer = json!({"mediaType": media_type, "digest": digest, "size": size});
        if let Some(kind) = kind {
            referrer["artifactType"] = kind.into();
        }
        if let Some(annotations) = names.annotations {
            referrer["annotations"] = annotations;
        }
        Ok(Some(Self { subject: subject.digest, referrer }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_is_bounded_in_all_and_what_does_not_fit_leaves_room_for_what_does() {
        let (mut left, digest) = (Left { bytes: 10 }, crate::manifest::digest_of(b"one"));
        left.take(&digest, 6).unwrap();
        let error = left.take(&digest, 5).unwrap_err().to_string();
        assert!(error.contains("all of them have more than"), "{error}");
        left.take(&digest, 4).unwrap();
        left.take(&digest, 1).unwrap_err();
    }
}
