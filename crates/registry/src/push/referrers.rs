//! What refers to a pushed image comes along from where the image came from: signatures, bills of materials. It is not the image: what does
//! not come is told, and the push goes on.

use std::collections::HashSet;
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
/// Bytes of the blobs of one of them.
const BYTES: u64 = 256 << 20;
/// How long the lists of all places are waited for: layers go meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an index is written that somebody else writes, too.
const ATTEMPTS: usize = 3;

impl Pusher {
    /// What refers to these manifests where the image came from.
    pub(super) async fn referring(&self, origin: &PushOrigin, subjects: &[&Digest]) -> Vec<Descriptor> {
        let mut found = Vec::new();
        let listed = async {
            for subject in subjects {
                found.extend(self.listed_at_origin(origin, subject).await?);
            }
            Ok(())
        };
        let late =
            || Error::invalid("list of referrers", format!("it did not come within {} seconds", PATIENCE.as_secs()));
        let outcome: Result<()> = tokio::time::timeout(PATIENCE, listed).await.unwrap_or_else(|_| Err(late()));
        if let Err(error) = outcome {
            self.went_without(&error);
        }
        found
    }

    /// As the first place has them that knows the repository.
    async fn listed_at_origin(&self, origin: &PushOrigin, subject: &Digest) -> Result<Vec<Descriptor>> {
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
                    Ok(found) => return Ok(found),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        failure.map_or_else(|| Ok(Vec::new()), Err)
    }

    /// Copies them, and what refers to them in turn.
    pub(super) async fn copy_referrers(self: &Arc<Self>, origin: &PushOrigin, referrers: Vec<Descriptor>) {
        let (mut seen, mut next) = (HashSet::new(), referrers);
        while let Some(referrer) = next.pop() {
            if !seen.insert(referrer.digest.clone()) {
                continue;
            }
            if seen.len() > COUNT {
                return self.went_without(&Error::invalid("referrers", format!("there are more than {COUNT}")));
            }
            let copied = async {
                if !self.has_manifest(&referrer.digest).await? {
                    self.copy_referrer(&referrer, origin).await?;
                    (self.progress)(Progress::object(referrer.digest.short(), "Pushed referrer"));
                }
                self.listed_at_origin(origin, &referrer.digest).await
            };
            match copied.await {
                Ok(further) => next.extend(further),
                Err(error) => self.went_without(&error),
            }
        }
    }

    async fn copy_referrer(self: &Arc<Self>, referrer: &Descriptor, origin: &PushOrigin) -> Result<()> {
        let document = self.fetched(referrer, origin).await?;
        let names = Names::read(&document.raw, &referrer.digest)?;
        let blobs: Vec<_> = names.layers.iter().chain(&names.config).collect();
        if blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add) > BYTES {
            let reason = format!("it has more than {BYTES} bytes");
            return Err(Error::invalid(format!("referrer {}", referrer.digest), reason));
        }
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
