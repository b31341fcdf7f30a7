//! Locks by digest, so that "is it still not needed?" and "remove it" are one step beside "it is needed again"; and by name of a
//! repository, so that "does the tag still lead there?" and "remove it" are one beside "it leads there now".

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

const STRIPES: usize = 64;

/// A fixed number of locks that all digests, or all names, share.
#[derive(Debug)]
pub struct Locks(Box<[Mutex<()>]>);

impl Default for Locks {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Mutex::default()).collect())
    }
}

impl Locks {
    /// Waits for the lock of `key`. A task holds at most one of each kind: a name's is taken first.
    pub async fn hold(&self, key: impl Hash) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or(0);
        self.0[stripe].lock().await
    }
}
