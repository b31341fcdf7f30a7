//! Lists of upstreams: tags and referrers, upstream's own while it can be asked, what is here when it cannot.

use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use super::place::{Kind, Trouble};
use super::shelf::referrers;
use super::{Cache, Found, MANIFEST_LIMIT};
use crate::server::route::percent_encode;
use crate::server::store::{Key, Storage};
use crate::server::{Digest, Failure, Name, Tag, Target};

/// Tags that are asked for at once when nobody says how many.
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct TagList {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Some tags, and whether there are more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    /// In upstream's order.
    pub tags: Vec<String>,
    /// Whether others follow.
    pub more: bool,
}

impl Cache {
    /// Tags of an upstream's repository, at most `count`, after `last`.
    ///
    /// # Errors
    /// What upstream says; when it cannot be asked, those that are here are listed.
    pub async fn tags(&self, name: &Name, count: Option<usize>, last: Option<&str>) -> Result<Found<Tags>, Failure> {
        let place = self.known(name)?;
        let count = count.unwrap_or(PAGE).min(PAGE);
        let asked = async {
            let last = last.map_or_else(String::new, |last| format!("&last={}", percent_encode(last)));
            let answer = place.ask(name, Method::GET, &format!("tags/list?n={count}{last}"), 0).await?;
            let more = answer.headers().contains_key(reqwest::header::LINK);
            let bytes = place.whole(answer, MANIFEST_LIMIT, "a list of tags").await?;
            let list = serde_json::from_slice::<TagList>(&bytes);
            let tags = list.map_err(|_| place.refused("what it sent for a list of tags is none"))?.tags;
            let tags = tags.unwrap_or_default().into_iter().filter(|tag| tag.parse::<Tag>().is_ok()).collect();
            Ok::<_, Trouble>(Tags { tags, more })
        };
        match asked.await {
            Ok(value) => Ok(Found { value, warning: None }),
            Err(trouble) if trouble.kind == Kind::Away => {
                let entries = self.shelf.storage.list(&Key::tags(name)).await?;
                let after = |tag: &String| last.is_none_or(|last| tag.as_str() > last);
                let mut tags: Vec<String> = entries.into_iter().map(|entry| entry.name).filter(after).collect();
                if tags.is_empty() && last.is_none() {
                    return Err(trouble.failure);
                }
                let more = tags.len() > count;
                tags.truncate(count);
                let warning = Some(format!("{} cannot be asked: these are the tags that are kept here", place.name));
                Ok(Found { value: Tags { tags, more }, warning })
            }
            Err(trouble) => Err(trouble.failure),
        }
    }

    /// What refers to a manifest of an upstream's repository: an index, as upstream sends it.
    ///
    /// # Errors
    /// What upstream says, when it cannot be asked and never was.
    pub async fn referrers(&self, name: &Name, subject: &Digest, kind: Option<&str>) -> Result<Found<Bytes>, Failure> {
        let place = self.known(name)?;
        let path = format!("referrers/{subject}");
        let asked = async {
            let answer = place.ask(name, Method::GET, &path, 0).await?;
            place.whole(answer, MANIFEST_LIMIT, "a list of referrers").await
        };
        let found = match asked.await {
            Ok(value) => {
                let list = Some(value.clone()).filter(has_entries);
                self.shelf.list(name, subject, list).await?;
                Found { value, warning: None }
            }
            Err(trouble) if trouble.kind == Kind::Away => {
                let Some(value) = self.shelf.storage.read(&referrers(name, subject)).await? else {
                    return Err(trouble.failure);
                };
                let warning = Some(format!("{} cannot be asked: this is what it said last", place.name));
                Found { value, warning }
            }
            // Those that do not know the path have a tag instead.
            Err(trouble) if trouble.kind == Kind::Gone => self.referrers_tag(name, subject).await?,
            Err(trouble) => return Err(trouble.failure),
        };
        let value =
            only(&found.value, kind).ok_or_else(|| place.refused("what it sent as referrers is none").failure)?;
        Ok(Found { value, ..found })
    }

    async fn referrers_tag(&self, name: &Name, subject: &Digest) -> Result<Found<Bytes>, Failure> {
        let tag = format!("{}-{}", subject.algorithm().as_str(), subject.hex()).parse();
        let Ok(tag) = tag else { return Ok(Found { value: empty(), warning: None }) };
        match self.manifest(name, &Target::Tag(tag)).await {
            Ok(found) => Ok(Found { value: found.value.bytes, warning: found.warning }),
            Err(failure) if failure.status == http::StatusCode::NOT_FOUND => {
                Ok(Found { value: empty(), warning: None })
            }
            Err(failure) => Err(failure),
        }
    }
}

fn empty() -> Bytes {
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    Bytes::from_static(index.as_bytes())
}

/// Whether it is an index with something in it.
fn has_entries(index: &Bytes) -> bool {
    let index: Option<serde_json::Value> = serde_json::from_slice(index).ok();
    index.and_then(|index| index["manifests"].as_array().map(|entries| !entries.is_empty())).unwrap_or_default()
}

/// The entries of one kind; `None` when it is no index.
fn only(index: &Bytes, kind: Option<&str>) -> Option<Bytes> {
    let mut index: serde_json::Value = serde_json::from_slice(index).ok()?;
    let entries = index.get_mut("manifests")?.as_array_mut()?;
    if let Some(kind) = kind {
        entries.retain(|entry| entry["artifactType"] == kind);
    }
    Some(index.to_string().into())
}
