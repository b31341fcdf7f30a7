//! Content that no repository links any more.

use std::time::SystemTime;

use super::{Collected, Collector, Finding, before, short};
use crate::server::failure::Result;
use crate::server::names::Digest;
use crate::server::store::SHARDS;

impl Collector<'_> {
    /// `linked` is sorted, and was read after `began`: who links content after that has made it young before.
    pub(super) async fn collect_content(
        &mut self,
        began: SystemTime,
        linked: &[u128],
        collected: &mut Collected,
    ) -> Result<()> {
        let cutoff = before(began, self.policy.grace);
        for shard in 0..SHARDS {
            let shard = u8::try_from(shard).unwrap_or(u8::MAX);
            for digest in self.repositories.storage().contents(shard).await? {
                if linked.binary_search(&short(&digest)).is_ok() {
                    continue;
                }
                let Some(size) = self.remove_content(&digest, cutoff).await? else { continue };
                let reason = format!("no repository has had it for {:?}", self.policy.grace);
                let finding = Finding { kind: "content", repository: None, name: digest.to_string(), size, reason };
                self.gone(finding, 1, collected);
            }
        }
        Ok(())
    }

    /// Removes it when it is still old; returns its size.
    async fn remove_content(&self, digest: &Digest, cutoff: SystemTime) -> Result<Option<u64>> {
        let storage = self.repositories.storage();
        let _lock = self.repositories.locks.hold(digest).await;
        let Some(stat) = storage.stat(digest).await?.filter(|stat| stat.touched < cutoff) else { return Ok(None) };
        let gone = self.dry || storage.discard(digest).await?;
        Ok(gone.then_some(stat.size))
    }
}
