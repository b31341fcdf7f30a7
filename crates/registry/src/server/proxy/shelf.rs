//! What the cache keeps, and what it gives up first: content by digest, by whom it was asked for, and when.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use gantry_linux::fs;

use crate::server::metrics::CacheMetrics;
use crate::server::store::{Directory, Key, Result, SHARDS, Storage, blocking};
use crate::server::{Digest, Name};

/// How often what is used is marked on disk, so that the next server knows it, too.
const MARK: Duration = Duration::from_secs(600);

/// The shelf.
pub struct Shelf {
    pub storage: Directory,
    staging: PathBuf,
    most: u64,
    kept: Mutex<Kept>,
    metrics: CacheMetrics,
}

#[derive(Default)]
struct Kept {
    items: HashMap<Digest, Item>,
    /// By when it was used: the first goes first.
    order: BTreeMap<u64, Digest>,
    next: u64,
    bytes: u64,
}

struct Item {
    size: u64,
    turn: u64,
    marked: Instant,
    /// Who has a document that names it.
    names: HashSet<Name>,
}

impl Shelf {
    /// Opens or makes it below `root`, and learns what is there.
    pub async fn open(root: &Path, most: u64, metrics: CacheMetrics) -> Result<Self> {
        let owned = root.to_owned();
        let storage = blocking(move || Directory::open(&owned)).await?;
        let most = if most == 0 { u64::MAX } else { most };
        let shelf = Self { storage, staging: root.join("staging"), most, kept: Mutex::default(), metrics };
        let mut found = Vec::new();
        for shard in 0..SHARDS {
            for digest in shelf.storage.contents(u8::try_from(shard).unwrap_or_default()).await? {
                if let Some(stat) = shelf.storage.stat(&digest).await? {
                    found.push((stat.touched, digest, stat.size));
                }
            }
        }
        found.sort_by_key(|(touched, ..)| *touched);
        for (touched, digest, size) in found {
            let age = SystemTime::now().duration_since(touched).unwrap_or_default();
            let marked = Instant::now().checked_sub(age.min(MARK)).unwrap_or_else(Instant::now);
            shelf.kept().add(digest, size, marked);
        }
        shelf.learn_names().await?;
        shelf.make_room(0).await?;
        Ok(shelf)
    }

    /// Documents that name what is there are known again; others are removed.
    async fn learn_names(&self) -> Result<()> {
        let mut folders = vec![Key::repositories()];
        while let Some(folder) = folders.pop() {
            for entry in self.storage.list(&folder).await? {
                let child = folder.child(&entry.name);
                if entry.folder {
                    folders.push(child);
                } else if let Some((name, digest)) = named(&child)
                    && !self.kept().name(&digest, &name)
                {
                    self.storage.remove(&child).await?;
                }
            }
        }
        Ok(())
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new file that nobody has yet; it is gone at the next start unless it is taken.
    pub fn stage(&self) -> PathBuf {
        self.staging.join(fs::unique())
    }

    /// Takes a verified file. Room is made first.
    pub async fn take(&self, staged: &Path, digest: &Digest, size: u64) -> Result<()> {
        self.make_room(size).await?;
        self.storage.adopt(staged, digest, size).await?;
        self.kept().add(digest.clone(), size, Instant::now());
        self.metrics.fetched(size);
        self.tell();
        Ok(())
    }

    /// Remembers that this repository has it: `key` is the document that says so.
    pub async fn name(&self, name: &Name, digest: &Digest, key: &Key, document: Vec<u8>) -> Result<()> {
        self.storage.write(key, document.into()).await?;
        self.kept().name(digest, name);
        Ok(())
    }

    /// How large it is, if it is there; it is used now.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let (size, mark) = {
            let mut kept = self.kept();
            let Some(item) = kept.items.get_mut(digest) else { return Ok(None) };
            let mark = item.marked.elapsed() >= MARK;
            if mark {
                item.marked = Instant::now();
            }
            let size = item.size;
            kept.used(digest);
            (size, mark)
        };
        if mark && self.storage.refresh(digest).await?.is_none() {
            // Somebody took it away by hand.
            self.kept().remove(digest);
            return Ok(None);
        }
        Ok(Some(size))
    }

    /// Forgets content that turned out not to be there.
    pub fn forget(&self, digest: &Digest) {
        self.kept().remove(digest);
        self.tell();
    }

    /// Gives up what was not used for longest until so many bytes fit. Who reads it reads on: its file is open.
    pub async fn make_room(&self, size: u64) -> Result<()> {
        loop {
            let first = {
                let mut kept = self.kept();
                if kept.bytes.saturating_add(size) <= self.most {
                    break;
                }
                let Some(digest) = kept.order.values().next().cloned() else { break };
                kept.remove(&digest).map(|item| (digest, item))
            };
            let Some((digest, item)) = first else { break };
            for name in &item.names {
                self.storage.remove(&Key::blob(name, &digest)).await?;
                self.storage.remove(&Key::manifest(name, &digest)).await?;
            }
            self.storage.discard(&digest).await?;
            self.metrics.evicted.inc_by(item.size);
        }
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        self.metrics.bytes.set(self.kept().bytes);
    }
}

impl Kept {
    fn add(&mut self, digest: Digest, size: u64, marked: Instant) {
        let names = self.remove(&digest).map(|item| item.names).unwrap_or_default();
        let turn = self.turn();
        self.bytes += size;
        self.order.insert(turn, digest.clone());
        self.items.insert(digest, Item { size, turn, marked, names });
    }

    fn turn(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn used(&mut self, digest: &Digest) {
        let turn = self.turn();
        if let Some(item) = self.items.get_mut(digest) {
            self.order.remove(&item.turn);
            item.turn = turn;
            self.order.insert(turn, digest.clone());
        }
    }

    fn remove(&mut self, digest: &Digest) -> Option<Item> {
        let item = self.items.remove(digest)?;
        self.order.remove(&item.turn);
        self.bytes -= item.size;
        Some(item)
    }

    /// False when it is not there.
    fn name(&mut self, digest: &Digest, name: &Name) -> bool {
        let item = self.items.get_mut(digest);
        item.map(|item| item.names.insert(name.clone())).is_some()
    }
}

/// Whose document this is, and what it names; none for tags and lists, which are kept whatever happens to the content.
fn named(key: &Key) -> Option<(Name, Digest)> {
    let rest = key.as_str().strip_prefix("repositories/")?;
    let (name, rest) = rest.split_once("/_blobs/").or_else(|| rest.split_once("/_manifests/"))?;
    let (algorithm, hex) = rest.split_once('/')?;
    Some((name.parse().ok()?, format!("{algorithm}:{hex}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::server::Algorithm;

    async fn put(shelf: &Shelf, name: &Name, content: &[u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let staged = shelf.stage();
        fs::write(&staged, content).unwrap();
        shelf.take(&staged, &digest, content.len() as u64).await.unwrap();
        shelf.name(name, &digest, &Key::blob(name, &digest), b"{}".to_vec()).await.unwrap();
        digest
    }

    #[tokio::test]
    async fn what_was_not_used_for_longest_goes_first_with_every_document_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let metrics = CacheMetrics::default();
        let shelf = Shelf::open(directory.path(), 250, metrics.clone()).await.unwrap();
        let name: Name = "a.test/x".parse().unwrap();
        let (one, two) = (put(&shelf, &name, &[1; 100]).await, put(&shelf, &name, &[2; 100]).await);
        assert_eq!(shelf.size(&one).await.unwrap(), Some(100));
        let three = put(&shelf, &name, &[3; 100]).await;
        assert_eq!(shelf.size(&two).await.unwrap(), None, "one was used after two");
        assert_eq!(shelf.storage.read(&Key::blob(&name, &two)).await.unwrap(), None);
        assert_eq!(shelf.storage.stat(&two).await.unwrap(), None);
        assert!(shelf.size(&one).await.unwrap().is_some() && shelf.size(&three).await.unwrap().is_some());
        assert_eq!((metrics.bytes.get(), metrics.evicted.get()), (200, 100));
        // What is larger than everything that is kept has the shelf for itself.
        let large = put(&shelf, &name, &[4; 1000]).await;
        assert_eq!((shelf.size(&large).await.unwrap(), metrics.bytes.get()), (Some(1000), 1000));
    }

    #[tokio::test]
    async fn the_next_server_knows_what_is_there_and_documents_of_nothing_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let name: Name = "a.test/x/y".parse().unwrap();
        let open = |most| Shelf::open(directory.path(), most, CacheMetrics::default());
        let shelf = open(0).await.unwrap();
        let (one, two) = (put(&shelf, &name, &[1; 100]).await, put(&shelf, &name, &[2; 100]).await);
        shelf.storage.discard(&one).await.unwrap();
        drop(shelf);
        let shelf = open(0).await.unwrap();
        assert_eq!(shelf.size(&one).await.unwrap(), None);
        assert_eq!(shelf.storage.read(&Key::blob(&name, &one)).await.unwrap(), None);
        assert_eq!(shelf.size(&two).await.unwrap(), Some(100));
        drop(shelf);
        // A smaller bound holds from the start, and what goes is known by the names that were learnt.
        let shelf = open(50).await.unwrap();
        assert_eq!(shelf.size(&two).await.unwrap(), None);
        assert_eq!(shelf.storage.read(&Key::blob(&name, &two)).await.unwrap(), None);
    }
}
