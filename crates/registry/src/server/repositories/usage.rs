//! How many bytes repositories have, where they may not have as many as they like.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{BlobLink, Key, ManifestLink, Name, Repositories, Result};
use crate::server::failure::{Code, Failure};
use crate::server::gc::Quota;

/// What was counted. A repository that something was taken from is counted anew.
#[derive(Debug, Default)]
pub(super) struct Usage {
    quotas: Vec<Quota>,
    known: Mutex<HashMap<Name, u64>>,
}

impl Usage {
    fn known(&self) -> MutexGuard<'_, HashMap<Name, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, name: &Name) {
        self.known().remove(name);
    }
}

impl Repositories {
    /// With these quotas.
    #[must_use]
    pub fn with_quotas(mut self, quotas: Vec<Quota>) -> Self {
        self.usage.quotas = quotas;
        self
    }

    /// The bytes of blobs and manifests that a repository has, each counted once.
    ///
    /// # Errors
    /// The storage's.
    pub async fn usage(&self, name: &Name) -> Result<u64> {
        if let Some(known) = self.usage.known().get(name) {
            return Ok(*known);
        }
        let mut size = 0;
        for digest in self.digests(&Key::blobs(name)).await? {
            size += self.read::<BlobLink>(&Key::blob(name, &digest)).await?.map_or(0, |link| link.size);
        }
        for digest in self.digests(&Key::manifests(name)).await? {
            size += self.read::<ManifestLink>(&Key::manifest(name, &digest)).await?.map_or(0, |link| link.size);
        }
        self.usage.known().insert(name.clone(), size);
        Ok(size)
    }

    /// Counts `size` bytes more under a key, if the repository may have them.
    pub(super) async fn within_quota(&self, name: &Name, key: &Key, size: u64) -> Result<()> {
        // Two pushes at once may both fit; whoever comes next sees both.
        if self.has_room(name, key, size).await?
            && let Some(known) = self.usage.known().get_mut(name)
        {
            *known += size;
        }
        Ok(())
    }

    /// Refuses `size` bytes more under a key when the repository may not have them. Whether they are to be counted: not where it has
    /// them already, or as many as it likes.
    pub(super) async fn has_room(&self, name: &Name, key: &Key, size: u64) -> Result<bool> {
        let quota = self.usage.quotas.iter().find(|quota| quota.repositories.matches(name.as_str()));
        let Some(quota) = quota else { return Ok(false) };
        let used = self.usage(name).await?;
        if self.storage.touched(key).await?.is_some() {
            return Ok(false);
        }
        if used.saturating_add(size) > quota.size.0 {
            let message = format!(
                "repository {name} has {used} bytes of the {} that it may have: {size} more do not fit; delete images of it \
                 and let garbage be collected, or ask for more",
                quota.size.0
            );
            return Err(Failure::new(Code::Denied, message));
        }
        Ok(true)
    }
}
