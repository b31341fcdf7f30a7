//! Listings: tags, referrers, names of repositories.

use super::{Digest, Key, Name, Repositories, Result, Tag};
use crate::server::document::Descriptor;
use crate::server::names::Algorithm;
use crate::server::store::Entry;

/// Bytes of referrers that one answer lists: many clients read no more than a manifest may have.
const REFERRERS_PAGE: usize = 4 << 20;

impl Repositories {
    /// Whether there is anything in a repository itself.
    ///
    /// # Errors
    /// The storage's.
    pub async fn exists(&self, name: &Name) -> Result<bool> {
        Ok(is_repository(&self.storage.list(&Key::repository(name)).await?))
    }

    /// Every tag, in the order of their bytes.
    ///
    /// # Errors
    /// The storage's.
    pub async fn tags(&self, name: &Name) -> Result<Vec<Tag>> {
        let entries = self.storage.list(&Key::tags(name)).await?;
        Ok(entries.into_iter().filter(|entry| !entry.folder).filter_map(|entry| entry.name.parse().ok()).collect())
    }

    /// The digests below a folder of [`Key::blobs`] or [`Key::manifests`].
    pub(in crate::server) async fn digests(&self, folder: &Key) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let entries = self.storage.list(&folder.child(algorithm.as_str())).await?;
            let parse = |entry: Entry| format!("{}:{}", algorithm.as_str(), entry.name).parse().ok();
            digests.extend(entries.into_iter().filter_map(parse));
        }
        Ok(digests)
    }

    /// What has this subject and, where one is wanted, this type: as much as a page holds, after `after`; and whether there is more.
    ///
    /// # Errors
    /// The storage's.
    pub async fn referrers(
        &self,
        name: &Name,
        subject: &Digest,
        kind: Option<&str>,
        after: Option<&Digest>,
    ) -> Result<(Vec<Descriptor>, bool)> {
        let folder = Key::referrers(name, subject);
        let after = after.map(|after| Key::referrer(name, subject, after));
        let (mut referrers, mut size) = (Vec::new(), 0);
        for entry in self.storage.list(&folder).await? {
            let key = folder.child(&entry.name);
            if after.as_ref().is_some_and(|after| key <= *after) {
                continue;
            }
            // One that was deleted meanwhile is none.
            let Some(referrer) = self.read::<Descriptor>(&key).await? else { continue };
            if kind.is_some_and(|kind| referrer.artifact_type.as_deref() != Some(kind)) {
                continue;
            }
            size += super::text(&referrer).len();
            if size > REFERRERS_PAGE && !referrers.is_empty() {
                return Ok((referrers, true));
            }
            referrers.push(referrer);
        }
        Ok((referrers, false))
    }

    /// Names of repositories in order of their parts, the first `most` after `after`.
    ///
    /// # Errors
    /// The storage's.
    pub async fn names(&self, after: Option<&str>, most: usize) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            if names.len() >= most {
                break;
            }
            let key = if folder.is_empty() { Key::repositories() } else { Key::repositories().child(&folder) };
            let entries = self.storage.list(&key).await?;
            if is_repository(&entries)
                && after.is_none_or(|after| parts(&folder).gt(parts(after)))
                && let Ok(name) = folder.parse()
            {
                names.push(name);
            }
            let path = |name: String| if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let below = entries.into_iter().filter(|entry| entry.folder && !entry.name.starts_with('_'));
            let below = below.map(|entry| path(entry.name)).filter(|path| may_follow(path, after));
            let mut below: Vec<_> = below.collect();
            below.reverse();
            folders.append(&mut below);
        }
        Ok(names)
    }
}

fn is_repository(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.name.starts_with('_'))
}

fn parts(name: &str) -> std::str::Split<'_, char> {
    name.split('/')
}

/// Whether something in this folder can come after that name.
fn may_follow(folder: &str, after: Option<&str>) -> bool {
    after.is_none_or(|after| {
        let inside = after.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        inside || parts(folder).gt(parts(after))
    })
}
