//! A storage in memory whose clock the test moves, and in which every call may let others go first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gantry_registry::server::store::{Entry, Key, Result, Source, Stat};
use gantry_registry::server::{Digest, Future, Storage};
use tokio::sync::mpsc;

/// Small random numbers from a seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Below `most`.
    pub fn roll(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }
}

#[derive(Debug)]
struct State {
    dice: Dice,
    clock: SystemTime,
    documents: BTreeMap<String, (Bytes, SystemTime)>,
    content: BTreeMap<Digest, (Bytes, SystemTime)>,
}

#[derive(Debug)]
pub struct Memory(Mutex<State>);

impl Memory {
    pub fn new(seed: u64) -> Self {
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let dice = Dice::new(seed);
        Self(Mutex::new(State { dice, clock, documents: BTreeMap::new(), content: BTreeMap::new() }))
    }

    pub fn now(&self) -> SystemTime {
        self.0.lock().unwrap().clock
    }

    pub fn pass(&self, time: Duration) {
        self.0.lock().unwrap().clock += time;
    }

    /// Content and when it was touched.
    pub fn all_content(&self) -> Vec<(Digest, SystemTime)> {
        self.0.lock().unwrap().content.iter().map(|(digest, (_, at))| (digest.clone(), *at)).collect()
    }

    /// Documents of a kind (`/_blobs/`) and when they were touched.
    pub fn all_documents(&self, kind: &str) -> Vec<(String, SystemTime)> {
        let state = self.0.lock().unwrap();
        state.documents.iter().filter(|(key, _)| key.contains(kind)).map(|(key, (_, at))| (key.clone(), *at)).collect()
    }

    /// Others go first, some of the time; and a second passes, some of the time.
    async fn turn<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let waits = {
            let mut state = self.0.lock().unwrap();
            let passes = state.dice.roll(2);
            state.clock += Duration::from_secs(passes);
            state.dice.roll(3)
        };
        for _ in 0..waits {
            tokio::task::yield_now().await;
        }
        act(&mut self.0.lock().unwrap())
    }
}

impl Storage for Memory {
    fn read<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<Bytes>>> {
        Box::pin(self.turn(|state| Ok(state.documents.get(key.as_str()).map(|(bytes, _)| bytes.clone()))))
    }

    fn write<'a>(&'a self, key: &'a Key, document: Bytes) -> Future<'a, Result<()>> {
        Box::pin(self.turn(|state| {
            state.documents.insert(key.as_str().to_owned(), (document, state.clock));
            Ok(())
        }))
    }

    fn remove<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>> {
        Box::pin(self.turn(|state| Ok(state.documents.remove(key.as_str()).is_some())))
    }

    fn touched<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<SystemTime>>> {
        Box::pin(self.turn(|state| Ok(state.documents.get(key.as_str()).map(|(_, at)| *at))))
    }

    fn touch<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>> {
        Box::pin(self.turn(|state| {
            let now = state.clock;
            Ok(state.documents.get_mut(key.as_str()).map(|(_, at)| *at = now).is_some())
        }))
    }

    fn list<'a>(&'a self, folder: &'a Key) -> Future<'a, Result<Vec<Entry>>> {
        Box::pin(self.turn(|state| {
            let prefix = format!("{}/", folder.as_str());
            let mut entries: BTreeMap<String, bool> = BTreeMap::new();
            for rest in state.documents.keys().filter_map(|key| key.strip_prefix(&prefix)) {
                let (name, folder) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
                entries.insert(name.to_owned(), folder);
            }
            Ok(entries.into_iter().map(|(name, folder)| Entry { name, folder }).collect())
        }))
    }

    fn stat<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        Box::pin(self.turn(|state| Ok(stat(state, digest))))
    }

    fn open<'a>(&'a self, digest: &'a Digest, offset: u64, length: u64) -> Future<'a, Result<Option<Source>>> {
        Box::pin(self.turn(move |state| {
            let part = |bytes: &Bytes| {
                bytes.slice(usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap())
            };
            let Some(part) = state.content.get(digest).map(|(bytes, _)| part(bytes)) else { return Ok(None) };
            let (send, receive) = mpsc::channel(1);
            send.try_send(Ok(part)).unwrap();
            Ok(Some(Source::Stream(receive)))
        }))
    }

    fn adopt<'a>(&'a self, staged: &'a Path, digest: &'a Digest, _: u64) -> Future<'a, Result<()>> {
        let bytes = std::fs::read(staged).unwrap();
        self.put(digest, bytes.into())
    }

    fn put<'a>(&'a self, digest: &'a Digest, bytes: Bytes) -> Future<'a, Result<()>> {
        Box::pin(self.turn(|state| {
            state.content.insert(digest.clone(), (bytes, state.clock));
            Ok(())
        }))
    }

    fn refresh<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        Box::pin(self.turn(|state| {
            let now = state.clock;
            if let Some((_, at)) = state.content.get_mut(digest) {
                *at = now;
            }
            Ok(stat(state, digest))
        }))
    }

    fn discard<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<bool>> {
        Box::pin(self.turn(|state| Ok(state.content.remove(digest).is_some())))
    }

    fn contents(&self, shard: u8) -> Future<'_, Result<Vec<Digest>>> {
        let first = format!("{shard:02x}");
        Box::pin(self.turn(move |state| {
            Ok(state.content.keys().filter(|digest| digest.hex().starts_with(&first)).cloned().collect())
        }))
    }
}

fn stat(state: &State, digest: &Digest) -> Option<Stat> {
    state.content.get(digest).map(|(bytes, touched)| Stat { size: bytes.len() as u64, touched: *touched })
}
