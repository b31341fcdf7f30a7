//! Collection of garbage beside pushes, pulls and deletions.
//!
//! Whoever is about to need a thing makes it young before it relies on it, under the lock of its digest; a tag, under that of its
//! repository's name. The collector decides by
//! what it read, and removes only what was old *before it began to read*, asking once more under the same lock. So a push is safe
//! when the time from its first `HEAD` to its manifest is shorter than the grace period; nothing else has to stop.

mod content;
mod pattern;
mod policy;
mod repository;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::failure::Result;
use super::names::{Digest, Name};
use super::repositories::Repositories;
use super::uploads::Uploads;

pub use pattern::Pattern;
pub use policy::{GcSettings, Policy, Quota, Retention};

/// Names of repositories that are read at once.
const PAGE: usize = 256;

/// What goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `tag`, `manifest`, `blob`, `content`, `uploads`.
    pub kind: &'static str,
    /// Its repository, where it has one.
    pub repository: Option<Name>,
    /// Tag or digest; how many, of uploads.
    pub name: String,
    /// Its bytes, of content.
    pub size: u64,
    /// Why it goes.
    pub reason: String,
}

/// What came of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many went, by kind.
    pub removed: BTreeMap<&'static str, u64>,
    /// Bytes of content that went.
    pub freed: u64,
    /// Repositories that were left alone because a manifest could not be read, and why.
    pub left_alone: Vec<(Name, String)>,
}

/// One collection.
pub struct Collector<'a> {
    /// What is looked through.
    pub repositories: &'a Repositories,
    /// What is on its way in.
    pub uploads: Option<&'a Uploads>,
    /// What goes when.
    pub policy: &'a Policy,
    /// Nothing is removed, only told.
    pub dry: bool,
    /// Told of each thing that goes.
    pub tell: &'a mut (dyn FnMut(&Finding) + Send + Sync),
    /// What o'clock it is; the storage's times are compared with it.
    pub now: &'a (dyn Fn() -> SystemTime + Sync),
}

impl Collector<'_> {
    /// Looks through everything once.
    ///
    /// # Errors
    /// The storage's; what went before stays gone.
    pub async fn run(mut self) -> Result<Collected> {
        let mut collected = Collected::default();
        let began = (self.now)();
        self.expire_uploads(began, &mut collected).await?;
        // Content that something links, by the first half of its digest: a million are 16 MB. Two that share it are both kept.
        let mut linked = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let names = self.repositories.names(after.as_deref(), PAGE).await?;
            let Some(last) = names.last() else { break };
            after = Some(last.as_str().to_owned());
            for name in &names {
                self.collect_repository(name, &mut linked, &mut collected).await?;
            }
        }
        linked.sort_unstable();
        linked.dedup();
        self.collect_content(began, &linked, &mut collected).await?;
        Ok(collected)
    }

    async fn expire_uploads(&mut self, began: SystemTime, collected: &mut Collected) -> Result<()> {
        let (Some(uploads), false) = (self.uploads, self.dry) else { return Ok(()) };
        let expired = uploads.expire(before(began, self.policy.uploads)).await?;
        if expired > 0 {
            let reason = format!("nothing came for them for {:?}", self.policy.uploads);
            let (name, size) = (expired.to_string(), 0);
            let finding = Finding { kind: "uploads", repository: None, name, size, reason };
            self.gone(finding, expired as u64, collected);
        }
        Ok(())
    }

    fn gone(&mut self, finding: Finding, count: u64, collected: &mut Collected) {
        *collected.removed.entry(finding.kind).or_default() += count;
        collected.freed += finding.size;
        (self.tell)(&finding);
    }
}

/// That long before; the beginning of time when there is no such time.
fn before(now: SystemTime, age: Duration) -> SystemTime {
    now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What stands for a digest in the list of what is linked.
fn short(digest: &Digest) -> u128 {
    u128::from_str_radix(&digest.hex()[..32], 16).unwrap_or(u128::MAX)
}
