//! What the cache keeps, and what it gives up first: content by digest, by whom it was asked for, and when.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use gantry_linux::fs;

use super::turns::Turns;
use crate::server::metrics::CacheMetrics;
use crate::server::store::{DOCUMENT_LIMIT, Directory, Key, Result, SHARDS, Storage, blocking};
use crate::server::{Digest, Name};

/// How often what is used is marked on disk, so that the next server knows it, too.
const MARK: Duration = Duration::from_secs(600);

/// Room for content that comes, given back when it is dropped.
pub struct Room<'a> {
    shelf: &'a Shelf,
    size: u64,
    held: u64,
}

/// The shelf.
pub struct Shelf {
    pub storage: Directory,
    staging: PathBuf,
    most: u64,
    kept: Mutex<Kept>,
    /// Content is taken, named or given up by one at a time.
    turns: Turns<Digest>,
    metrics: CacheMetrics,
}

#[derive(Default)]
struct Kept {
    items: HashMap<Digest, Item>,
    /// By when it was used: the first goes first.
    order: BTreeMap<u64, Digest>,
    next: u64,
    bytes: u64,
    /// What is on its way, as far as it came.
    coming: u64,
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
        let shelf = Self {
            storage,
            staging: root.join("staging"),
            most,
            kept: Mutex::default(),
            turns: Turns::default(),
            metrics,
        };
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
        shelf.make_room().await?;
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

    /// Room for content that comes; none is made for what is larger than all that is kept.
    pub const fn room(&self, size: u64) -> Room<'_> {
        Room { shelf: self, size, held: 0 }
    }

    /// Takes a verified file, which is gone from where it was. What is larger than all that is kept is not kept.
    pub async fn take(&self, staged: &Path, digest: &Digest, mut room: Room<'_>) -> Result<()> {
        let size = room.size;
        self.metrics.fetched(size);
        if size > self.most {
            let staged = staged.to_owned();
            return Ok(blocking(move || fs::remove_file(staged)).await?);
        }
        room.hold(size).await?;
        let _turn = self.turns.hold(digest.clone()).await;
        self.storage.adopt(staged, digest, size).await?;
        {
            let mut kept = self.kept();
            kept.coming -= std::mem::take(&mut room.held);
            kept.add(digest.clone(), size, Instant::now());
        }
        self.tell();
        Ok(())
    }

    /// Remembers that this repository has it: `key` is the document that says so. It goes when the content goes.
    pub async fn name(&self, name: &Name, digest: &Digest, key: &Key, document: Bytes) -> Result<()> {
        let _turn = self.turns.hold(digest.clone()).await;
        if self.kept().name(digest, name) {
            self.storage.write(key, document).await?;
        }
        Ok(())
    }

    /// Keeps what refers to a manifest of this repository, if that is here: it goes with it. None are kept that are none.
    pub async fn list(&self, name: &Name, subject: &Digest, list: Option<Bytes>) -> Result<()> {
        let _turn = self.turns.hold(subject.clone()).await;
        if !self.kept().items.get(subject).is_some_and(|item| item.names.contains(name)) {
            return Ok(());
        }
        let key = referrers(name, subject);
        match list.filter(|list| list.len() <= DOCUMENT_LIMIT) {
            Some(list) => self.storage.write(&key, list).await,
            None => self.storage.remove(&key).await.map(drop),
        }
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
            self.forget(digest).await?;
            return Ok(None);
        }
        Ok(Some(size))
    }

    /// Gives up content that turned out to be damaged or not to be there.
    pub async fn forget(&self, digest: &Digest) -> Result<()> {
        let _turn = self.turns.hold(digest.clone()).await;
        self.remove(digest).await?;
        self.tell();
        Ok(())
    }

    /// Gives up what was not used for longest until all that is there and comes fits. Who reads it reads on: its file is
    /// open.
    async fn make_room(&self) -> Result<()> {
        let (mut tried, mut failed) = (HashSet::new(), None);
        loop {
            let Some((turn, digest)) = self.kept().first_over(self.most, &tried) else { break };
            let _turn = self.turns.hold(digest.clone()).await;
            // It may have been used, or come anew, while we waited.
            if !self.kept().order.contains_key(&turn) {
                continue;
            }
            match self.remove(&digest).await {
                Ok(size) => {
                    self.metrics.evicted.inc_by(size);
                }
                Err(error) => {
                    tracing::warn!("give up {digest}, which the cache has no room for: {error}");
                    tried.insert(digest);
                    failed = Some(error);
                }
            }
        }
        self.tell();
        failed.map_or(Ok(()), |error| if self.kept().is_over(self.most) { Err(error) } else { Ok(()) })
    }

    /// Removes it, and what names it, for whoever has its turn. It counts until it is gone.
    async fn remove(&self, digest: &Digest) -> Result<u64> {
        let names = self.kept().items.get(digest).map(|item| item.names.clone()).unwrap_or_default();
        for name in &names {
            self.storage.remove(&Key::blob(name, digest)).await?;
            self.storage.remove(&Key::manifest(name, digest)).await?;
            self.storage.remove(&referrers(name, digest)).await?;
        }
        self.storage.discard(digest).await?;
        Ok(self.kept().remove(digest).map_or(0, |item| item.size))
    }

    fn tell(&self) {
        self.metrics.bytes.set(self.kept().bytes);
    }
}

impl Room<'_> {
    /// Holds room for the first `received` bytes. What upstream only promises takes nothing away.
    pub async fn hold(&mut self, received: u64) -> Result<()> {
        if self.size > self.shelf.most || received <= self.held {
            return Ok(());
        }
        self.shelf.kept().coming += received - self.held;
        self.held = received;
        self.shelf.make_room().await
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.shelf.kept().coming -= self.held;
    }
}

impl Kept {
    const fn is_over(&self, most: u64) -> bool {
        self.bytes.saturating_add(self.coming) > most
    }

    /// What goes first, but for what was tried, while there is more than may be.
    fn first_over(&self, most: u64, tried: &HashSet<Digest>) -> Option<(u64, Digest)> {
        let mut order = self.order.iter().filter(|_| self.is_over(most));
        order.find(|(_, digest)| !tried.contains(*digest)).map(|(turn, digest)| (*turn, digest.clone()))
    }

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

/// The list of what refers to a manifest.
pub fn referrers(name: &Name, subject: &Digest) -> Key {
    Key::referrers(name, subject).child("list")
}

/// Whose document this is, and what it names; none for tags, which are kept whatever happens to the content.
fn named(key: &Key) -> Option<(Name, Digest)> {
    let rest = key.as_str().strip_prefix("repositories/")?;
    let list = || rest.split_once("/_referrers/").and_then(|(name, rest)| Some((name, rest.strip_suffix("/list")?)));
    let of = |folder| rest.split_once(folder);
    let (name, rest) = of("/_blobs/").or_else(|| of("/_manifests/")).or_else(list)?;
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
        shelf.take(&staged, &digest, shelf.room(content.len() as u64)).await.unwrap();
        shelf.name(name, &digest, &Key::blob(name, &digest), Bytes::from_static(b"{}")).await.unwrap();
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
        // What is larger than everything that is kept takes nothing away, and leaves nothing.
        let large = put(&shelf, &name, &[4; 1000]).await;
        assert_eq!((shelf.size(&large).await.unwrap(), metrics.bytes.get()), (None, 200));
        assert_eq!(shelf.storage.read(&Key::blob(&name, &large)).await.unwrap(), None);
        assert_eq!(fs::list(&shelf.staging).unwrap().len(), 0);
    }

    #[tokio::test]
    async fn room_is_made_for_what_came_and_not_for_what_was_promised() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path(), 250, CacheMetrics::default()).await.unwrap();
        let name: Name = "a.test/x".parse().unwrap();
        let (one, two) = (put(&shelf, &name, &[1; 100]).await, put(&shelf, &name, &[2; 100]).await);
        let mut huge = shelf.room(u64::MAX);
        huge.hold(1 << 40).await.unwrap();
        let (mut first, mut second) = (shelf.room(200), shelf.room(200));
        first.hold(50).await.unwrap();
        assert!(shelf.size(&one).await.unwrap().is_some(), "200 and 50 fit, whatever else is to come");
        second.hold(10).await.unwrap();
        assert_eq!(shelf.size(&two).await.unwrap(), None, "both that come count");
        drop((first, second));
        let three = put(&shelf, &name, &[3; 150]).await;
        assert!(shelf.size(&one).await.unwrap().is_some(), "what did not come whole takes no room any more");
        assert!(shelf.size(&three).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_cannot_be_removed_counts_and_something_else_goes() {
        let directory = tempfile::tempdir().unwrap();
        let metrics = CacheMetrics::default();
        let shelf = Shelf::open(directory.path(), 250, metrics.clone()).await.unwrap();
        let name: Name = "a.test/x".parse().unwrap();
        let (one, two) = (put(&shelf, &name, &[1; 100]).await, put(&shelf, &name, &[2; 100]).await);
        // Not even root removes a directory as a file.
        let file = directory.path().join("content/sha256").join(&one.hex()[..2]).join(one.hex());
        fs::remove_file(&file).unwrap();
        fs::create_dir_all(&file).unwrap();
        put(&shelf, &name, &[3; 100]).await;
        assert_eq!((shelf.size(&two).await.unwrap(), metrics.bytes.get()), (None, 200));
        assert_eq!(shelf.kept().items.len(), 2);
        fs::remove_dir(&file).unwrap();
        put(&shelf, &name, &[4; 200]).await;
        assert_eq!((shelf.kept().items.len(), metrics.bytes.get()), (1, 200), "it is tried again");
    }

    #[tokio::test]
    async fn content_that_is_being_given_up_is_not_taken_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path(), 250, CacheMetrics::default()).await.unwrap();
        let name: Name = "a.test/x".parse().unwrap();
        let one = put(&shelf, &name, &[1; 100]).await;
        let giving_up = shelf.turns.hold(one.clone()).await;
        let mut again = std::pin::pin!(put(&shelf, &name, &[1; 100]));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(50), &mut again).await;
        assert!(waited.is_err(), "taken while it is being given up");
        shelf.remove(&one).await.unwrap();
        drop(giving_up);
        again.await;
        assert_eq!(shelf.size(&one).await.unwrap(), Some(100));
        assert_eq!(shelf.storage.stat(&one).await.unwrap().map(|stat| stat.size), Some(100));
        assert!(shelf.storage.read(&Key::blob(&name, &one)).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn lists_of_referrers_are_kept_with_their_subject_only() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Shelf::open(directory.path(), 100, CacheMetrics::default());
        let shelf = open().await.unwrap();
        let name: Name = "a.test/x".parse().unwrap();
        let list = Bytes::from_static(b"[]");
        let kept = async |shelf: &Shelf, subject| shelf.storage.read(&referrers(&name, subject)).await.unwrap();
        let unknown = Digest::of(Algorithm::Sha256, b"unknown");
        shelf.list(&name, &unknown, Some(list.clone())).await.unwrap();
        assert_eq!(kept(&shelf, &unknown).await, None);
        let one = put(&shelf, &name, &[1; 100]).await;
        let large = Bytes::from(vec![b' '; DOCUMENT_LIMIT + 1]);
        for (said, expected) in [(list.clone(), true), (large, false), (list.clone(), true)] {
            shelf.list(&name, &one, Some(said)).await.unwrap();
            assert_eq!(kept(&shelf, &one).await.is_some(), expected);
        }
        // Also one that is known only from the start on goes with its subject, and one without a subject at once.
        shelf.storage.write(&referrers(&name, &unknown), list).await.unwrap();
        drop(shelf);
        let shelf = open().await.unwrap();
        assert!(kept(&shelf, &one).await.is_some() && kept(&shelf, &unknown).await.is_none());
        put(&shelf, &name, &[2; 100]).await;
        assert_eq!(kept(&shelf, &one).await, None);
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
