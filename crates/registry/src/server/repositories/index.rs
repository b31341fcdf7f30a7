//! The names of all repositories without a walk: learned at the first question, and kept up with by whoever writes and removes.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::{Name, Repositories, Result};

#[derive(Debug, Default)]
pub(super) struct Index {
    known: Mutex<Known>,
    /// One learns; the others wait for it.
    learning: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// While nobody has asked, those that were written to.
    names: BTreeSet<InOrder>,
    learned: bool,
    /// Something was taken from these: they may be gone. With the number of the last time.
    doubted: HashMap<Name, u64>,
    doubts: u64,
}

/// A name, in the order of its parts: what is within a repository comes right after it.
#[derive(Debug, PartialEq, Eq)]
struct InOrder(Name);

impl Ord for InOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_str().split('/').cmp(other.0.as_str().split('/'))
    }
}

impl PartialOrd for InOrder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Index {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was written to it.
    pub(super) fn has(&self, name: &Name) {
        let mut known = self.known();
        known.doubted.remove(name);
        known.names.insert(InOrder(name.clone()));
    }

    /// Something was taken from it.
    pub(super) fn doubt(&self, name: &Name) {
        let mut known = self.known();
        known.doubts += 1;
        let doubt = known.doubts;
        known.doubted.insert(name.clone(), doubt);
    }
}

impl Repositories {
    /// Something of it was removed by somebody else.
    pub(in crate::server) fn doubt(&self, name: &Name) {
        self.index.doubt(name);
    }

    /// Every repository, in the order of [`Repositories::names`].
    ///
    /// # Errors
    /// The storage's.
    pub async fn all_names(&self) -> Result<Vec<Name>> {
        let _learning = self.index.learning.lock().await;
        if !self.index.known().learned {
            // Who writes or removes meanwhile says so.
            let names = self.names(None, usize::MAX).await?;
            let mut known = self.index.known();
            known.names.extend(names.into_iter().map(InOrder));
            known.learned = true;
        }
        let doubted: Vec<_> = self.index.known().doubted.iter().map(|(name, doubt)| (name.clone(), *doubt)).collect();
        for (name, doubt) in doubted {
            let there = self.exists(&name).await?;
            let mut known = self.index.known();
            // Written to, or doubted again, while we looked: the next question finds out.
            if known.doubted.get(&name) == Some(&doubt) {
                known.doubted.remove(&name);
                if !there {
                    known.names.remove(&InOrder(name));
                }
            }
        }
        Ok(self.index.known().names.iter().map(|InOrder(name)| name.clone()).collect())
    }
}
